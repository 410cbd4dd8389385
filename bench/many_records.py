"""Print how long the leaderboard of very many records takes, and how much memory: reading, grouping, rendering.

The records are copies of a real one with other names, other times and other raw values; they are made in a temporary
folder, and every reading is in a process of its own that has read nothing before. Times are wall-clock times
of the repeat that took least of a core, and beside them what it took; pin the process to a core to have those of one.

    taskset -c 1 python bench/many_records.py --records 100000 --cells 200 100000
"""

import argparse
import dataclasses
import itertools
import json
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

from msgspec import to_builtins
from msgspec.structs import replace

from fashiontl.core.files import write_atomically
from fashiontl.freezing import POLICIES
from fashiontl.machine.environment import read_environment
from fashiontl.models.registry import ARCHITECTURES
from fashiontl.records import Record, read_file, to_json
from fashiontl.records.record import compact
from fashiontl.reports.leaderboard.markdown import TextColumn, table
from fashiontl.reports.leaderboard.page import parts, read_rows, sections
from fashiontl.timing.loops import no_garbage_collection

RESULTS = Path(__file__).parent.parent / "results"
FILES = 50
SIZES = (0, 48, 64, 96, 128)
POLICY_NAMES = tuple(name for name in POLICIES if name != "lora")
# Different sets of raw values; that very many records share them makes nothing easier for who reads them.
DRAWS = 500


@dataclasses.dataclass(frozen=True)
class Reading:
    """What one process took.

    Attributes:
        reading: seconds until all records were parsed and reduced to rows.
        grouping: seconds until these were sorted into sections.
        rendering: seconds until the page was written.
        processor: seconds of a core's time in all three, which other programs on a busy machine hardly change.
        peak: bytes of memory that the process held at most, with its modules.
        size: bytes of the page.
    """

    reading: float
    grouping: float
    rendering: float
    processor: float
    peak: int
    size: int

    @property
    def total(self) -> float:
        """Seconds of all three."""
        return self.reading + self.grouping + self.rendering


def median_record(path: Path) -> Record:
    """The record of median length of a run's file, of those that went well."""
    records = sorted((record for record in read_file(path).records if record.status == "ok"), key=_length)
    return records[len(records) // 2]


def _length(record: Record) -> int:
    return len(to_json(record))


def cell(index: int, record: Record) -> Record:
    """The record as if of another cell; every index is a cell of its own.

    Policies vary first, then architectures, sizes of images, images a class, and epochs, which part the tables.
    """
    rest, policy = divmod(index, len(POLICY_NAMES))
    rest, architecture = divmod(rest, len(ARCHITECTURES))
    rest, size = divmod(rest, len(SIZES))
    epochs, images = divmod(rest, 4)
    task = f"{record.case.task.partition('@')[0]}@{25 * (images + 1)}"
    case = dataclasses.replace(
        record.case,
        architecture=list(ARCHITECTURES)[architecture], policy=POLICY_NAMES[policy], task=task, weights="",
        image_size=SIZES[size],
    )  # fmt: skip
    settings = dataclasses.replace(record.settings, epochs=epochs + 1)
    return replace(record, id=case.id, case=case, settings=settings)


def raw_values(record: Record) -> list[str]:
    """Measurements as JSON: raw values drawn anew about the record's own, and accuracies of whole images."""
    found = []
    for draw in range(DRAWS):
        chance = random.Random(draw)
        factor = chance.lognormvariate(0, 0.3)
        entries = []
        for measurement in record.measurements:
            if measurement.metric == "accuracy":
                trials = measurement.trials
                values = [round(trials * chance.uniform(0.3, 0.95)) / trials for _ in measurement.values]
            elif all(float(value).is_integer() for value in measurement.values):
                values = list(measurement.values)
            else:
                values = [
                    round(value * factor * chance.lognormvariate(0, 0.02), decimals(value))
                    for value in measurement.values
                ]
            entries.append({"metric": measurement.metric, "values": values, "trials": measurement.trials})
        found.append(compact(entries))
    return found


def decimals(value: float) -> int:
    """With how many decimals a value is written; throughputs are rounded, times are not."""
    _, _, fraction = format(Decimal(repr(value)), "f").partition(".")
    return len(fraction)


def lines(record: Record, count: int, cells: int) -> Iterator[str]:
    """The records in the order of their times, the cells again and again."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    own = compact(to_builtins(record.measurements))
    draws, answers = raw_values(record), record.provenance.get("evaluation", [])
    chance = random.Random(0)
    dump = json.JSONEncoder(separators=(",", ":")).encode
    before, _, after = to_json(record).partition(own)
    for index in range(count):
        made = cell(index % cells, record)
        text = before
        for old, new in (
            (dump(record.started), dump((start + timedelta(seconds=index)).isoformat())),
            (dump(dataclasses.asdict(record.case)), dump(dataclasses.asdict(made.case))),
            (dump(dataclasses.asdict(record.settings)), dump(dataclasses.asdict(made.settings))),
            (f'"id":{dump(record.id)}', f'"id":{dump(made.id)}'),
            (f'"load":{dump(record.environment.load)}', f'"load":{chance.uniform(0, 4)}'),
        ):
            text = text.replace(old, new, 1)
        # Of what the tables show of the provenance, the answers differ from cell to cell.
        rest = after
        for old in answers:
            rest = rest.replace(dump(old), dump(other_answers(old, chance)), 1)
        yield f"{text}{draws[index * 7 % DRAWS]}{rest}\n"


def other_answers(evaluation: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Of one seed, with as many images a class."""
    confusion = [list(row) for row in evaluation["confusion"]]
    for label, row in enumerate(confusion):
        moved = chance.randrange(row[label] + 1)
        row[label] -= moved
        row[label - 1] += moved
    return evaluation | {"confusion": confusion, "loss": chance.random(), "calibration_error": chance.random()}


def make(results: Path, record: Record, count: int, cells: int) -> int:
    """Write the records as runs of one machine.

    Returns:
        How many bytes they have.
    """
    folder = results / "runs" / record.machine
    folder.mkdir(parents=True)
    made, size = lines(record, count, cells), 0
    for number in range(FILES):
        mine = count * (number + 1) // FILES - count * number // FILES
        with (folder / f"run-{number:03}.jsonl").open("w", encoding="ascii") as file:
            size += sum(file.write(next(made)) for _ in range(mine))
    return size


@no_garbage_collection()
def read(results: Path) -> Reading:
    """Do in this process what `fashiontl leaderboard` does, part by part."""
    began, times = time.process_time(), [time.perf_counter()]
    rows, faults = read_rows(results)
    times.append(time.perf_counter())
    found = sections(rows)
    times.append(time.perf_counter())
    path = results / "leaderboard.md"
    write_atomically(path, (part.encode() for part in parts(found, faults)))
    times.append(time.perf_counter())
    reading, grouping, rendering = (after - before for before, after in itertools.pairwise(times))
    processor = time.process_time() - began
    # Linux counts in units of 1,024 bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Reading(reading, grouping, rendering, processor, peak, path.stat().st_size)


def read_afresh(results: Path) -> Reading:
    """`read` in a new process."""
    command = [sys.executable, __file__, "--read", str(results)]
    return Reading(**json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def measure(record: Record, count: int, cells: int, repeats: int) -> tuple[str, ...]:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        size = make(Path(folder), record, count, cells)
        best = min((read_afresh(Path(folder)) for _ in range(repeats)), key=lambda reading: reading.processor)
    return (
        f"{count:,}",
        f"{cells:,}",
        f"{size / count:,.0f}",
        f"{best.reading:.2f}",
        f"{best.grouping:.2f}",
        f"{best.rendering:.2f}",
        f"{best.total:.2f}",
        f"{best.processor:.2f}",
        f"{best.peak / 2**20:,.0f}",
        f"{best.size / 2**20:,.1f}",
    )


def report(rows: Sequence[Sequence[str]], repeats: int) -> str:
    headers = (
        "Records", "Cells", "Bytes a record", "Reading (s)", "Grouping (s)", "Rendering (s)", "Together (s)",
        "Of a core (s)", "Peak memory (MiB)", "Page (MiB)",
    )  # fmt: skip
    columns = [
        TextColumn(header, texts, "right") for header, texts in zip(headers, zip(*rows, strict=True), strict=True)
    ]
    environment = read_environment(threads=1)
    return (
        f"{table(columns)}\n\nThe least busy of {repeats}, on {environment.cpu}, one core; Python "
        f"{platform.python_version()}, msgspec {version('msgspec')}.\n"
    )


def main(arguments: Sequence[str] | None = None) -> str:
    newest = sorted(RESULTS.glob("runs/*/*.jsonl"), key=lambda path: path.name)[-1:]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000, help="how many records")
    parser.add_argument("--cells", type=int, nargs="+", default=[200, 100_000], help="of how many different cells")
    parser.add_argument("--run", type=Path, nargs="+", default=newest, help="whose record of median length is copied")
    parser.add_argument("--repeats", type=int, default=3, help="of which the best counts")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.read:
        return json.dumps(dataclasses.asdict(read(options.read)))
    rows = [
        measure(median_record(run), options.records, cells, options.repeats)
        for run in options.run
        for cells in options.cells
    ]
    return report(rows, options.repeats)


if __name__ == "__main__":
    print(main(), end="")
