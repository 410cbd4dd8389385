"""The leaderboard: records in, one page of Markdown out. No torch."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from fashiontl.core.errors import FashiontlError
from fashiontl.core.escape import LONGEST_NAME, to_line, to_markdown, to_terminal
from fashiontl.core.files import write_atomically
from fashiontl.records import Record, latest, read_newest
from fashiontl.reports.leaderboard.columns import SUMMARY
from fashiontl.reports.leaderboard.rows import PROVENANCE, Row, by_accuracy, column_texts, row_of
from fashiontl.reports.leaderboard.sections import Section, overview, section_text, sections
from fashiontl.timing.loops import no_garbage_collection

__all__ = ["parts", "read_rows", "render", "summary", "write"]

_INTRODUCTION = """# Leaderboard

Written by `fashiontl leaderboard` from the records under `runs/`; the newest record of each cell counts. Tables are
sorted by accuracy on the test images, and each holds only what may be compared: one task, one machine, one set of
settings. More than 12 cells begin with a grid of architecture and policy; more than 24 are folded away under it, by
architecture.

- `±` is the larger half of a 95 % interval: of accuracy over test images and seeds; of speeds over repeated
  measurements in one process, so what differs from one process to the next is not in it.
- **Bold** is the best of a column; in a grid, of a line, and ★ of all. `~` before it: not proven, because its interval
  overlaps another's, or because a single measurement has none.
- `—` is unknown. Cells that failed or were skipped stand last, with the reason and what was measured before; a
  grid has their status alone.
- Speeds and latency include no loading of data, except those called end to end. A training step runs every stage,
  forward and back, as the policy asks; latency is that of one image.
- Numbers that few people look for are folded away under each table, each with a line on what it is."""

# Of a cell's name in a terminal, so that all columns fit into about 110.
_LINE_OF_NAME = 30

# Of what could not be read, with all its faults.
_LONGEST_FAULT = 2000


def render(records: Iterable[Record], faults: Sequence[str] = ()) -> str:
    """The page in Markdown.

    Args:
        records: in any order; only the newest of each case, machine and meaning of the settings is shown.
        faults: what could not be read, `file:line: what`.
    """
    return "".join(parts(sections(map(row_of, latest(records))), faults))


# Rows and texts form no cycles, and going through very many of them in search of some takes a long time.
@no_garbage_collection()
def write(results: Path, warn: Callable[[str], None] = lambda fault: None) -> Path:
    """Read all runs and write `leaderboard.md` beside them.

    Args:
        results: folder of the results.
        warn: called with each line that cannot be read, once the page is written.

    Returns:
        The path of the page.

    Raises:
        FashiontlError: there are no runs.
    """
    rows, faults = read_rows(results)
    if not rows and not faults:
        raise FashiontlError(
            f"expected runs under {results / 'runs'}, got none; run pytest bench/ --results {results} first, or name "
            "another folder with --results"
        )
    path = results / "leaderboard.md"
    write_atomically(path, (part.encode(errors="replace") for part in parts(sections(rows), faults)))
    for fault in faults:
        warn(fault)
    return path


def read_rows(results: Path) -> tuple[list[Row], list[str]]:
    """The newest row of each cell of all runs, and what could not be read."""
    return read_newest(results, row_of, PROVENANCE)


def summary(records: Iterable[Record]) -> str:
    """A table for the terminal, most accurate first, with the reasons of what failed under it."""
    from tabulate import tabulate

    rows = by_accuracy([row_of(record) for record in latest(records)])
    if not rows:
        return "no records"
    columns = {
        # Each word goes to a line of its own, since a terminal is narrow.
        column.label.replace(" ", "\n"): [
            text.replace("*", "").replace("\xa0", " ") for text in column_texts(rows, column)
        ]
        for column in SUMMARY
    }
    table = {
        "Cell": [_broken(to_line(row.record.id, LONGEST_NAME)) for row in rows],
        **columns,
        "Status": [to_line(row.record.status) for row in rows],
    }
    align = ["left", *["right"] * len(columns), "left"]
    failures = [to_line(f"{row.record.id}: {row.record.status}: {row.record.reason}") for row in rows if not row.sound]
    text = tabulate(table, headers="keys", tablefmt="simple", colalign=align, disable_numparse=True)
    return to_terminal("\n".join([text, *failures]))


def _broken(name: str) -> str:
    """A cell's name on as many lines as it takes, broken after its hyphens and its members' plus signs."""
    lines = re.findall(rf".{{1,{_LINE_OF_NAME}}}(?:(?<=[-+])|$)|.{{1,{_LINE_OF_NAME}}}", name)
    return "\n  ".join(lines)


def parts(found: Sequence[Section], faults: Sequence[str]) -> Iterator[str]:
    """The page in Markdown, a section at a time, so that a page of very many need not be held at once.

    Args:
        found: the sections, in the order to be shown.
        faults: what could not be read, `file:line: what`.
    """
    yield _INTRODUCTION
    if len(found) > 1:
        yield "\n\n" + overview(found)
    for section in found:
        yield "\n\n" + section_text(section)
    if faults:
        yield "\n\n## Lines that could not be read\n\n" + "\n".join(
            f"- {to_markdown(fault, _LONGEST_FAULT)}" for fault in faults
        )
    yield "\n"
