"""A record and its line of JSON."""

import functools
import json
import math
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass, replace
from datetime import datetime, timedelta
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import msgspec

from fashiontl.case import Case, Settings
from fashiontl.environment import Environment
from fashiontl.errors import FashiontlError
from fashiontl.metrics import METRICS, Measurement

# Raised when the meaning of a field changes; a line of an older schema is then read by a conversion to this one.
SCHEMA = 1

Status = Literal["ok", "skipped", "oom", "timeout", "crashed", "invalid"]


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

    JSON has no number that is not finite. A measurement with one is written as unknown, with a warning; anywhere else
    such a number becomes null.
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
        return compact(_finite(ordered))


def compact(value: Any) -> str:
    """JSON without needless spaces, in ASCII: a file's name may hold what no encoding of Unicode can.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_json(text: str | bytes, where: str, provenance: Collection[str] | None = None) -> Record:
    """Parse one line.

    Args:
        text: the line; bytes are UTF-8.
        where: `file:line`, for messages.
        provenance: of which entries of it are wanted; all when None. The others, which can be most of a line, are
            looked at as JSON alone; what is equal in several lines may be one object, which must not be changed.

    Raises:
        FashiontlError: not JSON, another schema, fields missing, unknown or of a wrong type, or values that cannot be;
            all faults of the line are listed.
    """
    return _quickly(text, provenance) or _thoroughly(text, where, provenance)


def _thoroughly(text: str | bytes, where: str, provenance: Collection[str] | None) -> Record:
    try:
        line = _DECODER.decode(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError) as error:
        raise FashiontlError(f"{where}: expected one record in JSON, got: {error}; {_NEXT_STEP}") from error
    if not isinstance(line, dict):
        raise FashiontlError(f"{where}: expected a JSON object, got {json_name(type(line))}; {_NEXT_STEP}")
    if line.get("schema") != SCHEMA:
        raise FashiontlError(
            f"{where}: expected schema {SCHEMA}, got {line.get('schema')!r}; read it with the version of fashiontl "
            "that wrote it, or upgrade"
        )
    faults = _faults(line)
    if faults:
        raise FashiontlError(f"{where}: {'; '.join(faults)}; {_NEXT_STEP}")
    for name, kind in _PARTS.items():
        given = line[name]
        line[name] = _shared(kind, tuple(given.get(field.name, field.default) for field in fields(kind)))
    line["warnings"] = tuple(line["warnings"])
    line["measurements"] = tuple(
        Measurement(entry["metric"], tuple(entry["values"]), entry["trials"]) for entry in line["measurements"]
    )
    if provenance is not None:
        line["provenance"] = {name: found for name, found in line["provenance"].items() if name in provenance}
    return Record(**line)


def _quickly(text: str | bytes, provenance: Collection[str] | None) -> Record | None:
    """The record of a line without faults, checked as it is parsed; None is doubt, which `_thoroughly` settles."""
    try:
        # What is skipped is not seen to be UTF-8.
        line = _line_decoder().decode(text if isinstance(text, str) or text.isascii() else text.decode())
        if line.schema != SCHEMA or not is_utc(line.started):
            return None
        measurements = tuple([Measurement(entry.metric, entry.values, entry.trials) for entry in line.measurements])
        # The others' faults are of their types, which have been seen to.
        accuracies = [each for each in measurements if each.metric == "accuracy"]
        if any(_value_faults(each.metric, each.values, each.trials) for each in accuracies):
            return None
        if provenance is None:
            kept = {name: _ANY.decode(raw) for name, raw in line.provenance.items()}
        else:
            kept = {name: _shared_json(bytes(raw)) for name, raw in line.provenance.items() if name in provenance}
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return None
    case, settings, environment = (
        _shared(kind, msgspec.structs.astuple(getattr(line, name))) for name, kind in _PARTS.items()
    )
    run, command, machine = map(sys.intern, (line.run, line.command, line.machine))
    return Record(
        line.schema, line.id, run, command, line.started, case, settings, environment, machine, line.status,
        line.reason, line.warnings, measurements, line.proof, kept, line.artifacts,
    )  # fmt: skip


@functools.cache
def _line_decoder() -> Any:
    """Made when the first line is read."""
    parts = {name: _checked(kind) for name, kind in _PARTS.items()}
    measurements: Any = (_checked(Measurement, metric=_literal(METRICS)), ...)
    line = _checked(Record, measurements=tuple[measurements], provenance=dict[str, msgspec.Raw], **parts)
    return msgspec.json.Decoder(line)


def _literal(names: Iterable[str]) -> Any:
    return Literal[tuple(names)]


def _checked(kind: type, **replaced: Any) -> Any:
    """A dataclass as msgspec parses it: a field that it does not know is a fault."""
    hints = {name: _as_written(hint) for name, hint in get_type_hints(kind).items()} | replaced
    described: list[Any] = [
        (field.name, hints[field.name]) if _is_needed(kind, field) else (field.name, hints[field.name], field.default)
        for field in fields(kind)
    ]
    return msgspec.defstruct(kind.__name__, described, forbid_unknown_fields=True, gc=False)


def _as_written(hint: Any) -> Any:
    """A type hint in which whole numbers among others remain what they are, as msgspec would make them `float`."""
    if hint is float:
        return _WHOLE | float
    if get_origin(hint) is tuple:
        members: Any = tuple(map(_as_written, get_args(hint)))
        return tuple[members]
    if get_origin(hint) in {Union, UnionType}:
        return Union[tuple(map(_as_written, get_args(hint)))]  # noqa: UP007 - its members are computed
    return hint


@functools.lru_cache(maxsize=4096)
def _shared(kind: type, values: tuple[Any, ...]) -> Any:
    """The same object for the same contents: a run's lines differ little in them."""
    return kind(*(sys.intern(value) if type(value) is str else value for value in values))


@functools.lru_cache(maxsize=1024)
def _shared_json(raw: bytes) -> Any:
    """The same object for the same JSON: many cells start from the same weights and data."""
    return _ANY.decode(raw)


_PARTS: dict[str, type] = {"case": Case, "settings": Settings, "environment": Environment}
_STATUSES = get_args(Status)
_NEXT_STEP = "restore the line from git or delete it"


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_not_json)
_ANY = msgspec.json.Decoder()
# Far from what a float cannot hold.
_WHOLE = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


def _faults(line: dict[str, Any]) -> list[str]:
    """All that is wrong with a line, shapes first: values are looked at only where the shapes are right."""
    faults = [*shape_faults(Record, line, "")]
    for name, kind in _PARTS.items():
        if isinstance(line.get(name), dict):
            faults += shape_faults(kind, line[name], name + ".")
    for entry in line["measurements"] if isinstance(line.get("measurements"), list) else ():
        if isinstance(entry, dict):
            faults += shape_faults(Measurement, entry, "measurements[].") or _value_faults(**entry)
        else:
            faults.append(f"field measurements[]: expected an object, got {json_name(type(entry))}")
    if faults:
        return faults
    if line["status"] not in _STATUSES:
        faults.append(f"field status: expected one of {', '.join(_STATUSES)}, got {line['status']!r}")
    if not is_utc(line["started"]):
        faults.append(f"field started: expected an ISO time in UTC, got {line['started']!r}")
    if not {str} >= {type(warning) for warning in line["warnings"]}:
        faults.append("field warnings: expected a list of texts")
    return faults


def _value_faults(metric: str, values: Sequence[Any], trials: int) -> list[str]:
    if metric not in METRICS:
        return [f"field measurements[].metric: expected one of {', '.join(METRICS)}, got {metric!r}"]
    if not _are_finite(values):
        return [f"{metric}: expected a list of finite numbers"]
    if metric == "accuracy" and values and (trials < 1 or not 0 <= min(values) <= max(values) <= 1):
        return [f"accuracy: expected fractions from 0 to 1 of 1 or more trials, got {values} of {trials}"]
    return []


def _are_finite(values: Sequence[Any]) -> bool:
    """Whether all are numbers that a float can hold. A huge literal such as 1e999 is read as infinity."""
    try:
        return {int, float} >= set(map(type, values)) and all(map(math.isfinite, values))
    except OverflowError:
        return False


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
    needed = [field.name for field in fields(kind) if _is_needed(kind, field)]
    faults = [f"field {prefix}{name} is missing" for name in needed if name not in given]
    for name, got in given.items():
        if name not in expected:
            faults.append(f"field {prefix}{name} is unknown")
        elif got not in expected[name]:
            allowed = " or ".join(json_name(each) for each in expected[name])
            faults.append(f"field {prefix}{name}: expected {allowed}, got {json_name(got)}")
    return tuple(faults)


def _is_needed(kind: type, field: "Field[Any]") -> bool:
    # A line from before a setting, an axis or a fact of the machine existed is read with its default, which must mean
    # "as it was before", or unknown.
    return kind not in {Case, Settings, Environment} or field.default is MISSING


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
    elif isinstance(origin, type) and origin in _NAMES:
        yield origin
        if origin is float:
            yield int
    else:
        for member in get_args(hint):
            yield from as_json(member)


_NAMES: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    NoneType: "null",
}


def json_name(kind: type) -> str:
    """What a type that JSON gives is called in messages."""
    return _NAMES.get(kind, kind.__name__)
