"""Waivers: a regression that someone answers for, up to a size and until a date. No torch.

Files are append-only, one for each waiver, and each names one cell: nobody can waive what is not there yet.
"""

import json
import re
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import msgspec
from msgspec import Meta, Struct

from fashiontl.core.errors import FashiontlError, unknown_name
from fashiontl.core.escape import to_file_name
from fashiontl.core.metrics import METRICS
from fashiontl.core.parsing import decode_toml
from fashiontl.gate.raw import read_file, write_file

# A quarter: what is still wanted then deserves being said again, and what is not would hide the next regression.
LONGEST = timedelta(days=90)
# Of a ceiling in per cent: eleven times as slow. Whatever is larger waives anything.
LARGEST = 1000.0
# What is gone as a whole, or was not measured, has changed by all of it.
ALL = 100.0
WHOLE = "*"

_PATTERN = re.compile(r"[*?]|\[.*\]")
_TEMPLATE = """\
# A waiver of `fashiontl gate`: until it expires, what it covers is shown and fails nothing. Add another, edit none.
cell = {cell}
metric = {metric}
# The largest change that passes, in %; of accuracy in points.
ceiling = {ceiling:g}
owner = {owner}
reason = {reason}
created = {created}
expires = {expires}
"""


class Terms(Struct, frozen=True, forbid_unknown_fields=True):
    """What a waiver's file says.

    Attributes:
        cell: id of a case.
        metric: a key of `fashiontl.core.metrics.METRICS`, or `*` for the cell as a whole: that it is gone, or crashes.
        ceiling: the largest change that it covers, in per cent, of accuracy in points.
        expires: the last day on which it counts.
    """

    cell: str
    metric: str
    ceiling: Annotated[float, Meta(gt=0, le=LARGEST)]
    owner: str
    reason: str
    created: date
    expires: date

    def errors(self, today: date) -> list[str]:
        """All that is wrong with the values."""
        found = [
            f"field {name}: expected one line of text, got {text!r:.60}"
            for name in ("cell", "metric", "owner", "reason")
            if not ((text := getattr(self, name)).strip() and text.isprintable())
        ]
        if _PATTERN.search(self.cell):
            found.append(f"field cell: expected the id of one cell, got the pattern {self.cell!r}; write one for each")
        if self.metric.strip() and self.metric not in {WHOLE, *METRICS}:
            found.append(
                f"field metric: {unknown_name('metric', self.metric, METRICS)}; {WHOLE} is the cell that is gone or "
                "crashes"
            )
        # `fashiontl waive` makes terms that no decoder has checked.
        if not 0 < self.ceiling <= LARGEST:
            found.append(f"field ceiling: expected more than 0 and up to {LARGEST:g}, got {self.ceiling:g}")
        if self.metric == WHOLE and self.ceiling < ALL:
            found.append(f"field ceiling: expected {ALL:g} or more for a whole cell, got {self.ceiling:g}")
        if self.created > today:
            found.append(f"field created: expected {today} or before, got {self.created}, which is to come")
        # A difference, since what is added to the last dates of all has none.
        elif not timedelta() <= self.expires - self.created <= LONGEST:
            found.append(
                f"field expires: expected a date from {self.created} to {LONGEST.days} days later, got {self.expires}"
            )
        return found


class Waiver(Terms, frozen=True):
    """One waiver, and the path of its file."""

    path: Path = Path()

    def matches(self, cell: str, metric: str) -> bool:
        """Whether it is about a cell and metric, expired or not."""
        return (self.cell, self.metric) == (cell, metric)

    def covers(self, cell: str, metric: str, change: float, today: date) -> bool:
        """Whether it counts today for a change of a cell and metric, in per cent, of accuracy in points."""
        return self.matches(cell, metric) and change <= self.ceiling and today <= self.expires

    def __str__(self) -> str:
        unit = "points" if self.metric == "accuracy" else "%"
        return f"waived up to {self.ceiling:g} {unit} by {self.owner} until {self.expires}: {self.reason}"


def read_waivers(results: Path, today: date) -> tuple[tuple[Waiver, ...], tuple[str, ...]]:
    """All waivers of a folder of results, expired ones too, and what could not be read: one `file: what` each.

    A file with any error waives nothing.
    """
    waivers, errors = [], []
    for path in sorted((results / "waivers").glob("*.toml")):
        try:
            terms = decode_toml(read_file(path, "a waiver in TOML", "move it away"), Terms, str(path))
        except FashiontlError as error:
            errors.append(str(error))
            continue
        if found := terms.errors(today):
            errors.append(f"{path}: {'; '.join(found)}; it waives nothing until this is fixed")
        else:
            waivers.append(Waiver(**msgspec.structs.asdict(terms), path=path))
    return tuple(waivers), tuple(errors)


def add_waivers(results: Path, today: date, waivers: list[Terms]) -> list[Waiver]:
    """Write waivers, each into a file of its own; all are checked before any is written.

    Raises:
        FashiontlError: a value cannot be, or a file cannot be written; all errors are listed.
    """
    if errors := [error for terms in waivers for error in terms.errors(today)]:
        raise FashiontlError("\n".join(dict.fromkeys(errors)))
    made = []
    for terms in waivers:
        name = to_file_name(terms.cell, 60).strip("_") or "any"
        path = results / "waivers" / f"{terms.created:%Y%m%d}-{name}-{uuid4().hex[:6]}.toml"
        values = msgspec.structs.asdict(terms)
        quoted = {key: json.dumps(text, ensure_ascii=False) for key, text in values.items() if isinstance(text, str)}
        write_file(path, _TEMPLATE.format(**values | quoted).encode())
        made.append(Waiver(**values, path=path))
    return made
