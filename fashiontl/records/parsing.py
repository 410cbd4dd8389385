"""A line of JSON back to its record, which may come from anywhere: it is data, and every fault of it is told."""

import functools
import json
import math
import sys
from collections.abc import Callable, Collection
from dataclasses import MISSING, fields, replace
from typing import Any, NoReturn

import msgspec

from fashiontl.core.case import OLD_SETTINGS, Case, Settings
from fashiontl.core.errors import FashiontlError, brief
from fashiontl.core.metrics import Measurement
from fashiontl.machine.environment import Environment
from fashiontl.records.record import SCHEMA, Record
from fashiontl.records.schema import PROOF, PROVENANCE, closed, described, faults, json_name, measurements, some_of
from fashiontl.records.sense import sense_faults


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
    twice: list[str] = []
    decoder = json.JSONDecoder(
        parse_constant=_not_json, parse_float=_float, object_pairs_hook=functools.partial(_object, twice)
    )
    try:
        line = decoder.decode(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError) as error:
        raise FashiontlError(f"{where}: expected one record in JSON, got: {error}; {_NEXT_STEP}") from error
    if not isinstance(line, dict):
        raise FashiontlError(f"{where}: expected a JSON object, got {json_name(type(line))}; {_NEXT_STEP}")
    if line.get("schema") != SCHEMA:
        raise FashiontlError(
            f"{where}: expected schema {SCHEMA}, got {brief(line.get('schema'))}; read it with the version of "
            "fashiontl that wrote it, or upgrade"
        )
    if isinstance(settings := line.get("settings"), dict):
        line["settings"] = {OLD_SETTINGS.get(name, name): value for name, value in settings.items()}
    found = [f"key {name} is given twice" for name in twice] + list(faults(line, _described_line(), ""))
    found += _sense_faults(line)
    if found:
        more = f"; and {len(found) - _MOST_FAULTS} more" if len(found) > _MOST_FAULTS else ""
        raise FashiontlError(f"{where}: {'; '.join(found[:_MOST_FAULTS])}{more}; {_NEXT_STEP}")
    record = _built(line)
    if provenance is None:
        return record
    return replace(record, provenance={name: part for name, part in record.provenance.items() if name in provenance})


def _sense_faults(line: dict[str, Any]) -> list[str]:
    """`sense_faults` of all that is of the right shape."""
    kinds = {field.name: field.type for field in _described_line().fields}

    def sound(value: Any, kind: Any) -> bool:
        return not list(faults(value, kind, ""))

    entries = line.get("measurements")
    kind = kinds["measurements"].item_type
    measured = [
        Measurement(entry["metric"], tuple(entry["values"]), entry["trials"])
        for entry in (entries if isinstance(entries, list) else ())
        if sound(entry, kind)
    ]
    part = line.get("provenance")
    seeds = part.get("evaluation", []) if isinstance(part, dict) else []
    return sense_faults(
        {name: text for name in ("id", "machine", "run", "started") if isinstance(text := line.get(name), str)},
        Case(**line["case"]) if sound(line.get("case"), kinds["case"]) else None,
        measured,
        seeds if sound(seeds, described(PROVENANCE["evaluation"])) else [],
    )


def _built(line: dict[str, Any]) -> Record:
    """The record of an object whose shape is right."""
    parts = {
        name: _shared(kind, tuple(line[name].get(field.name, field.default) for field in fields(kind)))
        for name, kind in _PARTS.items()
    }
    measured = tuple(
        Measurement(entry["metric"], tuple(entry["values"]), entry["trials"]) for entry in line["measurements"]
    )
    return Record(**{**line, **parts, "warnings": tuple(line["warnings"]), "measurements": measured})


def _quickly(text: str | bytes, provenance: Collection[str] | None) -> Record | None:
    """The record of a line without faults, checked as it is parsed; None is doubt, which `_thoroughly` settles."""
    try:
        # What is skipped is not seen to be UTF-8.
        raw = text.encode() if isinstance(text, str) else text
        if not raw.isascii():
            raw.decode()
        line = _line_decoder().decode(raw)
        if line.schema != SCHEMA or not _keys_are_unique(raw, line):
            return None
        kept = {
            name: _part(name, bytes(part))
            for name, part in line.provenance.items()
            if provenance is None or name in provenance
        }
        proof = _part("proof", bytes(line.proof))
        case, settings = case_of_json(bytes(line.case)), settings_of_json(bytes(line.settings))
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return None
    environment = _shared(Environment, msgspec.structs.astuple(line.environment))
    measurements = tuple(
        [Measurement(entry.__struct_config__.tag, entry.values, entry.trials) for entry in line.measurements]
    )
    run, command, machine = map(sys.intern, (line.run, line.command, line.machine))
    record = Record(
        line.schema, line.id, run, command, line.started, case, settings, environment, machine, line.status,
        line.reason, line.warnings, measurements, proof, kept, line.artifacts,
    )  # fmt: skip
    texts = {"id": line.id, "machine": machine, "run": run, "started": line.started}
    return None if sense_faults(texts, case, measurements, kept.get("evaluation", ())) else record


@functools.cache
def _line_decoder() -> Any:
    """Made when the first line is read. What many lines have in common is parsed once, by `_part` and its like."""
    return msgspec.json.Decoder(
        closed(
            Record, case=msgspec.Raw, settings=msgspec.Raw, environment=closed(Environment), proof=msgspec.Raw,
            measurements=measurements(), provenance=dict[str, msgspec.Raw],
        )
    )  # fmt: skip


@functools.cache
def _described_line() -> Any:
    """The same with all of its parts."""
    parts = {name: closed(kind) for name, kind in _PARTS.items()}
    provenance = some_of("provenance", PROVENANCE)
    return described(closed(Record, measurements=measurements(), provenance=provenance, proof=PROOF | None, **parts))


def _keys_are_unique(raw: bytes, line: Any) -> bool:
    """Whether no object of a line has a key twice, of which msgspec would take the last; False where that is not clear.

    In JSON without escapes, and without space after a quote, a quote and a colon are the end of a key and nothing else.
    The parts that are parsed by themselves are looked at there.
    """
    if any(doubt in raw for doubt in (b"\\", b'" ', b'"\t', b'"\n', b'"\r')):
        return False
    parts = (line.case, line.settings, line.proof, *line.provenance.values())
    keys = len(fields(Record)) + len(fields(Environment)) + len(fields(Measurement)) * len(line.measurements)
    keys += len(line.artifacts) + len(line.provenance)

    def count(text: bytes) -> int:
        return raw.count(text) - sum(bytes(part).count(text) for part in parts)

    # Facts of the machine that older records lack.
    given = [count(f'"{field.name}":'.encode()) for field in fields(Environment) if field.default is not MISSING]
    return max(given) <= 1 and count(b'":') == keys - given.count(0)


@functools.lru_cache(maxsize=4096)
def case_of_json(raw: bytes) -> Case:
    """The case of its JSON.

    Raises:
        ValueError: it has a fault.
    """
    case: Case = _part_of(Case, raw)
    return case


@functools.lru_cache(maxsize=1024)
def settings_of_json(raw: bytes) -> Settings:
    """The settings of their JSON, as `case_of_json`."""
    for old, name in OLD_SETTINGS.items():
        raw = raw.replace(b'"%s":' % old.encode(), b'"%s":' % name.encode())
    settings: Settings = _part_of(Settings, raw)
    return settings


def _part_of(kind: Any, raw: bytes) -> Any:
    _raise_on_twice(raw)
    return _shared(kind, msgspec.structs.astuple(_part_decoder(kind).decode(raw)))


@functools.cache
def _part_decoder(kind: Any) -> Any:
    return msgspec.json.Decoder(closed(kind))


@functools.lru_cache(maxsize=1024)
def _part(name: str, raw: bytes) -> Any:
    """The proof or a part of the provenance; the same object for the same JSON, as many cells start from the same.

    Raises:
        ValueError: it has a fault.
    """
    _raise_on_twice(raw)
    if name in _PART_DECODERS:
        _PART_DECODERS[name]().decode(raw)
    return _ANY.decode(raw)


_PART_DECODERS: dict[str, Callable[[], Any]] = {
    name: functools.cache(functools.partial(msgspec.json.Decoder, kind))
    for name, kind in {**PROVENANCE, "proof": PROOF | None}.items()
}


def _raise_on_twice(raw: bytes) -> None:
    twice: list[str] = []
    json.loads(raw, object_pairs_hook=functools.partial(_object, twice))
    if twice:
        raise ValueError(f"key {twice[0]} is given twice")


def _object(twice: list[str], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice += [brief(name) for name in made if names.count(name) > 1]
    return made


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{brief(text)[1:-1]} is more than a float can hold")
    return value


@functools.lru_cache(maxsize=4096)
def _shared(kind: type, values: tuple[Any, ...]) -> Any:
    """The same object for the same contents: a run's lines differ little in them."""
    return kind(*(sys.intern(value) if type(value) is str else value for value in values))


_PARTS: dict[str, type] = {"case": Case, "settings": Settings, "environment": Environment}
_NEXT_STEP = "restore the line from git or delete it"
_MOST_FAULTS = 40
_ANY = msgspec.json.Decoder()
