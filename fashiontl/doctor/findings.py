"""What was found, as lines in sections: for people a table, for machines JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fashiontl.core.escape import to_line, to_terminal, to_terminal_json

Verdict = Literal["ok", "note", "bad"]

# Of a column of the table, in letters; the rest goes to further lines.
_WIDTH = 56


@dataclass(frozen=True)
class Line:
    """One finding: `note` where something is missing or could be better, `bad` where numbers cannot be trusted."""

    name: str
    value: str
    verdict: Verdict = "ok"
    advice: str = ""


@dataclass(frozen=True)
class Section:
    """Lines that belong together."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Report:
    """What was found about a device.

    Attributes:
        fit: whether the device is here, passed every check, and processes on it agree well enough to compare.
        facts: the findings raw and in base units, for JSON: `device`, `clock`, `peak`, `noise`, `conditions`.
    """

    device: str
    fit: bool
    summary: str
    sections: tuple[Section, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


def to_text(reports: Sequence[Report], equipment: Sequence[Section]) -> str:
    """One sentence a device, then tables."""
    parts = ["\n".join(to_line(report.summary) for report in reports)]
    parts += [_table(section) for report in reports for section in report.sections]
    parts += [_table(section) for section in equipment]
    return to_terminal("\n\n".join(parts))


def to_json(reports: Sequence[Report], equipment: Sequence[Section]) -> str:
    """One object: `fit`, `devices` with one report each, and `equipment`."""
    devices, sections = [asdict(report) for report in reports], [asdict(section) for section in equipment]
    return to_terminal_json({"fit": all(report.fit for report in reports), "devices": devices, "equipment": sections})


def _table(section: Section) -> str:
    from tabulate import tabulate

    rows = [tuple(map(to_line, (line.verdict, line.name, line.value, line.advice))) for line in section.lines]
    widths = [None, None, _WIDTH, _WIDTH]
    return f"{section.title}\n" + tabulate(rows, tablefmt="simple", maxcolwidths=widths, disable_numparse=True)
