"""A record and its line of JSON."""

import functools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fashiontl.core.case import Case, Settings
from fashiontl.core.metrics import Measurement
from fashiontl.machine.environment import Environment
from fashiontl.records.schema import JSON_TYPES, is_needed, json_name

# Raised when the meaning of a field changes; a line of an older schema is then read by a conversion to this one.
SCHEMA = 1

Status = Literal["ok", "skipped", "diverged", "oom", "timeout", "crashed", "invalid"]


@dataclass(frozen=True, slots=True)
class Record:
    """What was measured of one case, and everything needed to judge it.

    Attributes:
        schema: of the line; `SCHEMA`.
        id: the case's id.
        run: name of the run, which is its file's name without `.jsonl`.
        command: what was typed.
        started: when the case started, ISO 8601 in UTC.
        case: what was measured.
        settings: how.
        environment: where and with what.
        machine: `machine_key(environment)`.
        status: `ok`, or how the case failed.
        reason: why it is not `ok`; empty when it is.
        warnings: doubts about the numbers.
        measurements: raw values; those of the phases before a failure are kept.
        proof: that the policy was kept (`fashiontl.freezing.proof.PolicyProof` as a dictionary); None when the case
            did not get so far.
        provenance: sources and SHA-256 of data and weights, the recipe, and what else came with the numbers.
        artifacts: kind of file to its path.
    """

    schema: int
    id: str
    run: str
    command: str
    started: str
    case: Case
    settings: Settings
    environment: Environment
    machine: str
    status: Status
    reason: str
    warnings: tuple[str, ...]
    measurements: tuple[Measurement, ...]
    proof: dict[str, Any] | None
    provenance: dict[str, Any]
    artifacts: dict[str, str]

    def values(self, metric: str) -> tuple[float, ...]:
        """Raw values of a metric in its base unit; empty when unknown."""
        measurement = self.measurement(metric)
        return measurement.values if measurement else ()

    def measurement(self, metric: str) -> Measurement | None:
        """The measurement of a metric, if there is one."""
        return next((measurement for measurement in self.measurements if measurement.metric == metric), None)


# What identifies a line stands first in it, in this order, so that `read_newest` need not parse the rest.
_FIRST = ("schema", "started", "machine", "case", "settings")


def to_json(record: Record) -> str:
    """The record as one line of JSON, without the line's end.

    JSON has no number that is not finite. A measurement with one is written as unknown, and such a number anywhere else
    as null; a warning says so of each.
    """
    broken = [m.metric for m in record.measurements if not all(map(math.isfinite, m.values))]
    if broken:
        known = tuple(replace(m, values=()) if m.metric in broken else m for m in record.measurements)
        doubts = tuple(f"{metric}: a value was not a finite number; shown as unknown" for metric in broken)
        record = replace(record, measurements=known, warnings=record.warnings + doubts)
    dictionary = asdict(record)
    ordered = {name: dictionary.pop(name) for name in _FIRST} | dictionary
    try:
        return compact(ordered)
    except ValueError:
        places: list[str] = []
        finite = _finite(ordered, "", places)
        more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
        doubt = f"expected finite numbers, got {', '.join(places[:_SHOWN])}{more}; written as null"
        return compact({**finite, "warnings": [*finite["warnings"], doubt]})


def compact(value: Any) -> str:
    """JSON without needless spaces, in ASCII: a file's name may hold what no encoding of Unicode can.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


# Numbers that are not finite of which a warning names the places.
_SHOWN = 3


def _finite(value: Any, where: str, places: list[str]) -> Any:
    """The value with null for each number that is not finite; the place and number of each are added to a list."""
    if isinstance(value, Mapping):
        return {key: _finite(item, f"{where}.{key}" if where else str(key), places) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item, f"{where}[{index}]", places) for index, item in enumerate(value)]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    places.append(f"{where} {value}")
    return None


def is_utc(text: str) -> bool:
    """Whether a text is an ISO time in UTC."""
    try:
        return datetime.fromisoformat(text).utcoffset() == timedelta()
    except ValueError:
        return False


def shape_faults(kind: type, entry: dict[str, Any], prefix: str) -> tuple[str, ...]:
    """Fields of a dataclass that an object of JSON lacks, has too many, or has of a wrong type; members not looked at.

    Args:
        kind: the dataclass.
        entry: the object.
        prefix: of the fields' names in messages.
    """
    return _shape_faults_once(kind, tuple(entry), tuple(map(type, entry.values())), prefix)


# A file's lines have few shapes and each line several parts, so that each shape is judged once and not once a line.
@functools.lru_cache(maxsize=4096)
def _shape_faults_once(kind: type, names: tuple[str, ...], types: tuple[type, ...], prefix: str) -> tuple[str, ...]:
    expected = _json_types(kind)
    given = dict(zip(names, types, strict=True))
    needed = [field.name for field in fields(kind) if is_needed(kind, field)]
    faults = [f"field {prefix}{name} is missing" for name in needed if name not in given]
    for name, got in given.items():
        if name not in expected:
            faults.append(f"field {prefix}{name} is unknown")
        elif got not in expected[name]:
            allowed = " or ".join(json_name(each) for each in expected[name])
            faults.append(f"field {prefix}{name}: expected {allowed}, got {json_name(got)}")
    return tuple(faults)


@functools.cache
def _json_types(kind: type) -> dict[str, tuple[type, ...]]:
    """What each field of a dataclass may be in JSON."""
    hints = get_type_hints(kind)
    return {field.name: tuple(as_json(hints[field.name])) for field in fields(kind)}


def as_json(hint: Any) -> Iterator[type]:
    """The types that a value of a type hint may have in JSON; none where it may be anything."""
    origin = get_origin(hint) or hint
    if origin is Literal:
        yield str
    elif origin is tuple:
        yield list
    elif is_dataclass(origin):
        yield dict
    elif isinstance(origin, type) and origin in JSON_TYPES:
        yield origin
        if origin is float:
            yield int
    else:
        for member in get_args(hint):
            yield from as_json(member)
