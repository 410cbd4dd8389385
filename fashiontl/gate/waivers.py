"""Waivers: a change for the worse that someone answers for, up to a size and until a date. No torch.

Files are append-only, one a waiver, and each is of one cell by its name: nobody can waive what is not there yet.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from fashiontl.core.errors import FashiontlError, no_file, unknown_name, unwritable
from fashiontl.core.escape import to_file_name
from fashiontl.core.files import write_atomically
from fashiontl.core.metrics import METRICS

# A quarter outlasts most releases and few memories: what is still wanted then deserves being said again, and what is
# not would otherwise hide the next regression of the same cell.
LONGEST = timedelta(days=90)
# Of a ceiling in per cent: eleven times as slow. Whatever is larger waives anything.
LARGEST = 1000.0
# What is gone as a whole, or was not measured, has changed by all of it.
ALL = 100.0

WHOLE = "*"

_TEXTS = ("cell", "metric", "owner", "reason")
_DATES = ("created", "expires")
_FIELDS = ("cell", "metric", "ceiling", "owner", "reason", *_DATES)
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


@dataclass(frozen=True)
class Waiver:
    """One waiver.

    Attributes:
        id: name of its file without `.toml`.
        cell: id of a case.
        metric: a key of `fashiontl.core.metrics.METRICS`, or `*` for the cell as a whole: that it is gone, or crashes.
        ceiling: the largest change that it covers, in per cent, of accuracy in points.
        owner: who answers for it.
        reason: why the change is accepted.
        expires: the last day on which it counts.
        path: of its file.
    """

    id: str
    cell: str
    metric: str
    ceiling: float
    owner: str
    reason: str
    expires: date
    path: Path

    def matches(self, cell: str, metric: str) -> bool:
        """Whether it is about a cell and metric, expired or not."""
        return (self.cell, self.metric) == (cell, metric)

    def expired(self, today: date) -> bool:
        """Whether its last day has passed."""
        return today > self.expires

    def covers(self, cell: str, metric: str, change: float, today: date) -> bool:
        """Whether it counts today for a change of a cell and metric.

        Args:
            cell: id of the case.
            metric: as a finding has it.
            change: the largest that it may be, in per cent, of accuracy in points.
            today: the day.
        """
        return self.matches(cell, metric) and change <= self.ceiling and not self.expired(today)

    def __str__(self) -> str:
        unit = "points" if self.metric == "accuracy" else "%"
        return f"waived up to {self.ceiling:g} {unit} by {self.owner} until {self.expires}: {self.reason}"


class Waivers(NamedTuple):
    """Waivers, expired ones too, and what could not be read: one `file: what` each."""

    waivers: tuple[Waiver, ...]
    faults: tuple[str, ...]


def waivers_folder(results: Path) -> Path:
    """Where waivers are kept; people commit it."""
    return results / "waivers"


def read_waivers(results: Path, today: date) -> Waivers:
    """All waivers in the order of their names; a file with any fault waives nothing.

    Args:
        results: folder of the results.
        today: the day; a waiver that says it was made later is a fault.
    """
    waivers, faults = [], []
    for path in sorted(waivers_folder(results).glob("*.toml")):
        try:
            waivers.append(_read(path, today))
        except FashiontlError as error:
            faults.append(str(error))
    return Waivers(tuple(waivers), tuple(faults))


def add_waiver(results: Path, today: date, *, unique: str = "", **fields: str) -> Waiver:
    """Write a waiver.

    Args:
        results: folder of the results.
        today: the day of its making.
        unique: tells apart waivers of one day; drawn at random when empty.
        **fields: `cell`, `metric`, `ceiling`, `owner`, `reason`, and `expires` as an ISO date.

    Raises:
        FashiontlError: a field is missing, empty or cannot be, or the file cannot be written; all faults are listed.
    """
    if faults := waiver_faults(today, **fields):
        raise FashiontlError("\n".join(faults))
    values = _values(today, fields)
    name = to_file_name(values["cell"], 60).strip("_") or "any"
    path = waivers_folder(results) / f"{today:%Y%m%d}-{name}-{unique or uuid4().hex[:6]}.toml"
    quoted = {key: json.dumps(values[key], ensure_ascii=False) for key in _TEXTS}
    try:
        if path.exists():
            raise FashiontlError(f"{path} exists; waivers are never overwritten, add another")
        write_atomically(path, _TEMPLATE.format(**values | quoted).encode())
    except OSError as error:
        raise FashiontlError(unwritable(path, error)) from error
    return _read(path, today)


def waiver_faults(today: date, **fields: str) -> list[str]:
    """All that is wrong with a waiver that would be written; arguments as of `add_waiver`."""
    return _faults(_values(today, fields), today)


def _values(today: date, fields: Mapping[str, str]) -> dict[str, Any]:
    """Fields as a file has them; what is no number or date stays text, which is a fault."""
    values: dict[str, Any] = {**fields, "created": today}
    with suppress(ValueError):
        values["ceiling"] = float(fields.get("ceiling", "").removesuffix("%").removesuffix("points"))
    with suppress(ValueError):
        values["expires"] = date.fromisoformat(fields.get("expires", ""))
    return values


def _read(path: Path, today: date) -> Waiver:
    if kind := no_file(path):
        raise FashiontlError(f"{path}: expected a waiver in TOML, got {kind}; move it away")
    try:
        values = tomllib.loads(path.read_bytes().decode())
    except (OSError, ValueError, RecursionError) as error:
        raise FashiontlError(f"{path}: expected a waiver in TOML, got: {error}; restore it from git") from error
    if faults := _faults(values, today):
        raise FashiontlError(f"{path}: {'; '.join(faults)}; it waives nothing until mended")
    del values["created"]
    return Waiver(id=path.stem, path=path, **values | {"ceiling": float(values["ceiling"])})


def _faults(values: Mapping[str, Any], today: date) -> list[str]:
    """All that is wrong with the fields of a waiver."""
    faults = [f"field {name} is unknown; expected {', '.join(_FIELDS)}" for name in values if name not in _FIELDS]
    for name in _TEXTS:
        value = values.get(name)
        if not (isinstance(value, str) and value.strip() and value.isprintable()):
            faults.append(f"field {name}: expected one line of text, got {_shown(value)}")
    for name in _DATES:
        # A TOML time of day is a date to Python as well.
        if type(values.get(name)) is not date:
            faults.append(f"field {name}: expected a date such as 2027-01-31, got {_shown(values.get(name))}")
    cell, metric = values.get("cell"), values.get("metric")
    if isinstance(cell, str) and _PATTERN.search(cell):
        faults.append(
            f"field cell: expected the id of one cell, got the pattern {cell!r}; write one waiver for each cell"
        )
    if isinstance(metric, str) and metric.strip() and metric not in {WHOLE, *METRICS}:
        faults.append(
            f"field metric: {unknown_name('metric', metric, METRICS)}; {WHOLE} is the cell that is gone or crashes"
        )
    return [*faults, *_size_faults(values.get("ceiling"), metric), *_date_faults(values, today)]


def _size_faults(ceiling: Any, metric: Any) -> list[str]:
    is_number = isinstance(ceiling, int | float) and not isinstance(ceiling, bool)
    if not is_number or not 0 < ceiling <= LARGEST:
        return [
            f"field ceiling: expected the largest change that passes, in % (of accuracy in points), above 0 and up to "
            f"{LARGEST:g}, got {_shown(ceiling)}"
        ]
    if metric == WHOLE and ceiling < ALL:
        return [
            f"field ceiling: expected {ALL:g} or more for a whole cell, which is gone by {ALL:g} %, got {ceiling:g}"
        ]
    return []


def _date_faults(values: Mapping[str, Any], today: date) -> list[str]:
    created, expires = (values.get(name) for name in _DATES)
    # Of the form is told already.
    if type(created) is not date or type(expires) is not date:
        return []
    if created > today:
        return [f"field created: expected {today} or before, got {created}, which is to come"]
    if not timedelta() <= expires - created <= LONGEST:
        return [
            f"field expires: expected a date from {created} to {created + LONGEST}, {LONGEST.days} days after its "
            f"making, got {expires}"
        ]
    return []


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)[:60]
