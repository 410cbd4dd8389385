"""Waivers: a regression that someone answers for, up to a size and until a date. No torch.

Files are append-only, one for each waiver, and each names one cell: nobody can waive what is not there yet.
"""

import json
import re
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, NamedTuple
from uuid import uuid4

import msgspec
from msgspec import Meta, Struct

from fashiontl.core.errors import FashiontlError, no_file, unknown_name, unwritable
from fashiontl.core.escape import to_file_name
from fashiontl.core.files import write_atomically
from fashiontl.core.metrics import METRICS
from fashiontl.core.parsing import decode_toml

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
        owner: who answers for it.
        reason: why the change is accepted.
        created: the day on which it was made.
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

    @property
    def id(self) -> str:
        """Name of its file without `.toml`."""
        return self.path.stem

    def matches(self, cell: str, metric: str) -> bool:
        """Whether it is about a cell and metric, expired or not."""
        return (self.cell, self.metric) == (cell, metric)

    def covers(self, cell: str, metric: str, change: float, today: date) -> bool:
        """Whether it counts today for a change of a cell and metric, in per cent, of accuracy in points."""
        return self.matches(cell, metric) and change <= self.ceiling and today <= self.expires

    def __str__(self) -> str:
        unit = "points" if self.metric == "accuracy" else "%"
        return f"waived up to {self.ceiling:g} {unit} by {self.owner} until {self.expires}: {self.reason}"


class Waivers(NamedTuple):
    """Waivers, expired ones too, and what could not be read: one `file: what` each."""

    waivers: tuple[Waiver, ...]
    errors: tuple[str, ...]


def read_waivers(results: Path, today: date) -> Waivers:
    """All waivers in the order of their names; a file with any error waives nothing.

    Args:
        results: folder of the results; people commit its `waivers`.
        today: the day; a waiver that says it was made later is an error.
    """
    waivers, errors = [], []
    for path in sorted((results / "waivers").glob("*.toml")):
        try:
            waivers.append(_read(path, today))
        except FashiontlError as error:
            errors.append(str(error))
    return Waivers(tuple(waivers), tuple(errors))


def add_waivers(results: Path, today: date, waivers: list[Terms]) -> list[Waiver]:
    """Write waivers, each into a file of its own; all are checked before any is written.

    Raises:
        FashiontlError: a value cannot be, or a file cannot be written; all errors are listed.
    """
    if errors := [error for terms in waivers for error in terms.errors(today)]:
        raise FashiontlError("\n".join(dict.fromkeys(errors)))
    return [_write(results, terms) for terms in waivers]


def _write(results: Path, terms: Terms) -> Waiver:
    name = to_file_name(terms.cell, 60).strip("_") or "any"
    path = results / "waivers" / f"{terms.created:%Y%m%d}-{name}-{uuid4().hex[:6]}.toml"
    values = msgspec.structs.asdict(terms)
    quoted = {key: json.dumps(text, ensure_ascii=False) for key, text in values.items() if isinstance(text, str)}
    try:
        write_atomically(path, _TEMPLATE.format(**values | quoted).encode())
    except OSError as error:
        raise FashiontlError(unwritable(path, error)) from error
    return Waiver(**values, path=path)


def _read(path: Path, today: date) -> Waiver:
    if kind := no_file(path):
        raise FashiontlError(f"{path}: expected a waiver in TOML, got {kind}; move it away")
    try:
        terms = decode_toml(path.read_bytes(), Terms, str(path))
    except OSError as error:
        raise FashiontlError(f"{path}: expected a waiver in TOML, got: {error.strerror}; move it away") from error
    if errors := terms.errors(today):
        raise FashiontlError(f"{path}: {'; '.join(errors)}; it waives nothing until this is fixed")
    return Waiver(**msgspec.structs.asdict(terms), path=path)
