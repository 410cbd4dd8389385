"""Waivers: a change for the worse that someone answers for, until a date. Append-only files, one a waiver. No torch."""

import json
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from fashiontl.errors import FashiontlError, unknown_name, unwritable
from fashiontl.escape import to_file_name
from fashiontl.metrics import METRICS
from fashiontl.record import write_atomically

# A quarter outlasts most releases and few memories: what is still wanted then deserves being said again, and what is
# not would otherwise hide the next regression of the same cell.
LONGEST = timedelta(days=90)

ANY = "*"

_TEXTS = ("cell", "metric", "owner", "reason")
_DATES = ("created", "expires")
_TEMPLATE = """\
# A waiver of `fashiontl gate`: until it expires, what it covers is shown and fails nothing. Add another, edit none.
cell = {cell}
metric = {metric}
owner = {owner}
reason = {reason}
created = {created}
expires = {expires}
"""


@dataclass(frozen=True)
class Waiver:
    """One waiver.

    Attributes:
        id: name of its file without `.toml`.
        cell: id of a case, or a pattern of ids with `*`, `?` and `[...]`.
        metric: a key of `fashiontl.metrics.METRICS`, or `*` for all.
        owner: who answers for it.
        reason: why the change is accepted.
        expires: the last day on which it counts.
        path: of its file.
    """

    id: str
    cell: str
    metric: str
    owner: str
    reason: str
    expires: date
    path: Path

    def matches(self, cell: str, metric: str) -> bool:
        """Whether it is about a cell and metric, expired or not."""
        # `[` has a meaning in patterns, and an id is a pattern that should match itself.
        return self.metric in {ANY, metric} and (cell == self.cell or fnmatchcase(cell, self.cell))

    def expired(self, today: date) -> bool:
        """Whether its last day has passed."""
        return today > self.expires

    def covers(self, cell: str, metric: str, today: date) -> bool:
        """Whether it counts today for a cell and metric."""
        return self.matches(cell, metric) and not self.expired(today)

    def __str__(self) -> str:
        return f"waived by {self.owner} until {self.expires}: {self.reason}"


class Waivers(NamedTuple):
    """Waivers, expired ones too, and what could not be read: one `file: what` each."""

    waivers: tuple[Waiver, ...]
    faults: tuple[str, ...]


def waivers_folder(results: Path) -> Path:
    """Where waivers are kept; people commit it."""
    return results / "waivers"


def read_waivers(results: Path) -> Waivers:
    """All waivers in the order of their names; a file with any fault waives nothing."""
    waivers, faults = [], []
    for path in sorted(waivers_folder(results).glob("*.toml")):
        try:
            waivers.append(_read(path))
        except FashiontlError as error:
            faults.append(str(error))
    return Waivers(tuple(waivers), tuple(faults))


def add_waiver(results: Path, today: date, *, unique: str = "", **fields: str) -> Waiver:
    """Write a waiver.

    Args:
        results: folder of the results.
        today: the day of its making.
        unique: tells apart waivers of one day; drawn at random when empty.
        **fields: `cell`, `metric`, `owner`, `reason`, and `expires` as an ISO date.

    Raises:
        FashiontlError: a field is missing, empty or cannot be, or the file cannot be written; all faults are listed.
    """
    values: dict[str, Any] = {**fields, "created": today}
    # What is no date is told with the other faults.
    with suppress(ValueError):
        values["expires"] = date.fromisoformat(fields.get("expires", ""))
    if faults := _faults(values):
        raise FashiontlError("\n".join(faults))
    name = to_file_name(values["cell"], 60).strip("_") or "any"
    path = waivers_folder(results) / f"{today:%Y%m%d}-{name}-{unique or uuid4().hex[:6]}.toml"
    quoted = {key: json.dumps(values[key], ensure_ascii=False) for key in _TEXTS}
    try:
        if path.exists():
            raise FashiontlError(f"{path} exists; waivers are never overwritten, add another")
        write_atomically(path, _TEMPLATE.format(**values | quoted).encode())
    except OSError as error:
        raise FashiontlError(unwritable(path, error)) from error
    return _read(path)


def _read(path: Path) -> Waiver:
    try:
        values = tomllib.loads(path.read_bytes().decode())
    except (OSError, ValueError) as error:
        raise FashiontlError(f"{path}: expected a waiver in TOML, got: {error}; restore it from git") from error
    if faults := _faults(values):
        raise FashiontlError(f"{path}: {'; '.join(faults)}; it waives nothing until mended")
    del values["created"]
    return Waiver(id=path.stem, path=path, **values)


def _faults(values: Mapping[str, Any]) -> list[str]:
    """All that is wrong with the fields of a waiver."""
    faults = [f"field {name} is unknown" for name in values if name not in {*_TEXTS, *_DATES}]
    for name in _TEXTS:
        value = values.get(name)
        if not (isinstance(value, str) and value.strip() and value.isprintable()):
            faults.append(f"field {name}: expected one line of text, got {_shown(value)}")
    for name in _DATES:
        # A TOML time of day is a date to Python as well.
        if type(values.get(name)) is not date:
            faults.append(f"field {name}: expected a date such as 2027-01-31, got {_shown(values.get(name))}")
    return faults or [*_meaning_faults(**values)]


def _meaning_faults(cell: str, metric: str, created: date, expires: date, **_: str) -> list[str]:
    faults = []
    if metric not in {ANY, *METRICS}:
        faults.append(f"field metric: {unknown_name('metric', metric, METRICS)}; {ANY} is all")
    if cell == metric == ANY:
        faults.append("expected a cell or a metric, got * for both, which would switch the gate off; name one of them")
    if not timedelta() <= expires - created <= LONGEST:
        faults.append(
            f"field expires: expected a date from {created} to {created + LONGEST}, {LONGEST.days} days after its "
            f"making, got {expires}"
        )
    return faults


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)
