"""Print how long the leaderboard of very many records takes: reading and rendering, and how much memory.

The records are copies of a real one, of other cells and times, in a temporary folder.

    python bench/many_records.py --records 100000 --cells 200 100000
"""

import argparse
import dataclasses
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from msgspec.structs import replace
from tabulate import tabulate

from fashiontl.freezing import POLICIES
from fashiontl.models.registry import ARCHITECTURES
from fashiontl.records import Record, read_file, to_json
from fashiontl.reports.leaderboard.page import page, read_rows
from fashiontl.timing.loops import no_garbage_collection

RESULTS = Path(__file__).parent.parent / "results"
POLICY_NAMES = tuple(name for name in POLICIES if name != "lora")
FILES = 50


def copies(record: Record, count: int, cells: int) -> Iterator[str]:
    """Lines in the order of their times, the cells again and again."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for index in range(count):
        rest, policy = divmod(index % cells, len(POLICY_NAMES))
        images, architecture = divmod(rest, len(ARCHITECTURES))
        case = dataclasses.replace(
            record.case, architecture=list(ARCHITECTURES)[architecture], policy=POLICY_NAMES[policy],
            task=f"{record.case.task.partition('@')[0]}@{images + 1}", weights="",
        )  # fmt: skip
        started = (start + timedelta(seconds=index)).isoformat()
        yield to_json(replace(record, id=case.id, case=case, started=started)) + "\n"


@no_garbage_collection()
def measure(record: Record, count: int, cells: int) -> tuple[str, ...]:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs" / record.machine
        runs.mkdir(parents=True)
        lines, size = copies(record, count, cells), 0
        for number in range(FILES):
            with (runs / f"run-{number:03}.jsonl").open("w", encoding="ascii") as file:
                size += sum(file.write(line) for line, _ in zip(lines, range(-(-count // FILES)), strict=False))
        begun = time.perf_counter()
        rows, faults = read_rows(Path(folder))
        read = time.perf_counter()
        size_of_page = sum(len(part.encode()) for part in page(rows, faults))
        rendered = time.perf_counter()
    # Of all sizes until now; Linux counts in units of 1,024 bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"{count:,}", f"{cells:,}", f"{size / count:,.0f}", f"{read - begun:.2f}", f"{rendered - read:.2f}",
        f"{peak:,.0f}", f"{size_of_page / 2**20:.1f}",
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> str:
    newest = sorted(RESULTS.glob("runs/*/*.jsonl"), key=lambda path: path.name)[-1]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000, help="how many records")
    parser.add_argument("--cells", type=int, nargs="+", default=[200, 100_000], help="of how many different cells")
    parser.add_argument("--run", type=Path, default=newest, help="whose first record that went well is copied")
    options = parser.parse_args(arguments)
    record = next(record for record in read_file(options.run).records if record.status == "ok")
    headers = ("Records", "Cells", "Bytes a record", "Reading (s)", "Rendering (s)", "Peak memory (MiB)", "Page (MiB)")
    rows = [measure(record, options.records, cells) for cells in sorted(options.cells)]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, stralign="right")


if __name__ == "__main__":
    print(main())
