"""JSON to dataclasses and back, strictly: nothing missing, unknown, of a wrong type or not finite. No torch."""

import functools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from fashiontl.core.errors import FashiontlError
from fashiontl.records.record import compact

_Kind = TypeVar("_Kind")


def write_strictly(value: Any, what: str) -> str:
    """A dataclass as JSON.

    Raises:
        FashiontlError: a number in it is not finite; all such are listed.
    """
    fields = asdict(value)
    if faults := list(_endless(fields, "")):
        raise FashiontlError(f"{what}: {'; '.join(faults)}; report it with what was run, it is a defect of fashiontl")
    return compact(fields)


def read_strictly(
    kind: type[_Kind],
    schema: int,
    text: str | bytes,
    where: str,
    next_step: str,
    upgrade: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> _Kind:
    """A dataclass of what `write_strictly` wrote.

    Args:
        kind: a dataclass with a field `schema`; its fields are texts, numbers, booleans, literals, dataclasses, tuples
            of one of these, dictionaries of texts to one of these, one of these or None, or `object`, which is taken as
            it is.
        schema: the one that can be read.
        text: JSON; bytes are UTF-8.
        where: the file, for messages.
        next_step: for messages.
        upgrade: makes an entry of an earlier schema into one of this.

    Raises:
        FashiontlError: not JSON, a key that is there twice, another schema, or fields that are missing, unknown, of a
            wrong type or not finite; all faults are listed.
    """
    try:
        entry = json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=_once)
        faults = list(_endless(entry, ""))
    except (ValueError, RecursionError) as error:
        raise FashiontlError(f"{where}: expected JSON, got: {error}; {next_step}") from error
    if not isinstance(entry, dict):
        raise FashiontlError(f"{where}: expected an object of JSON, got {json_name(type(entry))}; {next_step}")
    upgrade(entry)
    if entry.get("schema") != schema or isinstance(entry["schema"], bool):
        raise FashiontlError(
            f"{where}: expected schema {schema}, got {entry.get('schema')!r}; read it with the version of fashiontl "
            "that wrote it, or upgrade"
        )
    built = _object(kind, entry, "", faults)
    if faults:
        raise FashiontlError(f"{where}: {'; '.join(faults)}; {next_step}")
    assert isinstance(built, kind)
    return built


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError("; ".join(f"key {name!r} is given twice" for name in twice))
    return entry


def _endless(value: Any, where: str) -> Iterator[str]:
    """Numbers that no float holds, by their place."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _endless(item, f"{where}.{name}" if where else str(name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _endless(item, f"{where}[{index}]")
    elif isinstance(value, int | float) and not _finite(value):
        yield f"field {where}: expected a finite number, got {value if isinstance(value, float) else 'a huge one'}"


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        return False


def _object(kind: Any, entry: dict[str, Any], prefix: str, faults: list[str]) -> Any:
    """The dataclass, or None where a fault was found."""
    before = len(faults)
    faults += shape_faults(kind, entry, prefix)
    hints = get_type_hints(kind)
    sound = {name: value for name, value in entry.items() if name in hints and _fits(hints[name], value)}
    fields = {name: _value(hints[name], value, prefix + name, faults) for name, value in sound.items()}
    return kind(**fields) if len(faults) == before else None


def _value(hint: Any, value: Any, where: str, faults: list[str]) -> Any:
    """A value whose own type is right, with its members made into what the hint says."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in {Union, UnionType} and value is not None and NoneType in inner:
        (hint, *_) = [member for member in inner if member is not NoneType]
        origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal and value not in inner:
        faults.append(f"field {where}: expected one of {', '.join(inner)}, got {value!r}")
    elif is_dataclass(hint):
        return _object(hint, value, where + ".", faults)
    elif origin is tuple:
        return tuple(_member(inner[0], item, f"{where}[{index}]", faults) for index, item in enumerate(value))
    elif origin is dict:
        return {name: _member(inner[1], item, f"{where}.{name}", faults) for name, item in value.items()}
    return value


def _member(hint: Any, value: Any, where: str, faults: list[str]) -> Any:
    if _fits(hint, value):
        return _value(hint, value, where, faults)
    expected = " or ".join(map(json_name, _types(hint)))
    faults.append(f"field {where}: expected {expected}, got {json_name(type(value))}")
    return None


def _fits(hint: Any, value: Any) -> bool:
    return hint is object or type(value) in _types(hint)


@functools.cache
def _types(hint: Any) -> tuple[type, ...]:
    return tuple(as_json(hint))


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
    needed = [field.name for field in fields(kind)]
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


JSON_TYPES: dict[type, str] = {
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
    return JSON_TYPES.get(kind, kind.__name__)
