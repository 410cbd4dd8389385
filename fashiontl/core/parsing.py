"""Files from users, JSON and TOML, into typed values: checked once by msgspec, with one format of error messages."""

import functools
import json
import re
import tomllib
from collections.abc import Collection, Hashable
from typing import Any, TypeVar, cast

import msgspec

from fashiontl.core.errors import FashiontlError, brief

_T = TypeVar("_T")

NEXT_STEP = "correct it, or restore it from version control"
# msgspec's messages: what was expected, and the place of it.
_MESSAGE = re.compile(r"(?P<fault>.*?)(?: - at `(?P<place>[^`]*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_NOT_ONE_OF = re.compile(r"Invalid enum value (.*)", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")


def decode(data: bytes, type: type[_T], what: str) -> _T:  # noqa: A002 the word for it
    """Parse JSON.

    What msgspec lets pass is checked too: text that is not UTF-8, and a key that an object has twice.

    Args:
        data: UTF-8.
        type: a msgspec Struct, or any type that `msgspec.json.Decoder` takes.
        what: the file, and what it is, for messages: `gate.json`, `runs/a.jsonl:3`.

    Raises:
        FashiontlError: the first fault: what was expected, what was got, where, and what to do.
    """
    try:
        data.decode()
        value: _T = _decoder(cast(Hashable, type)).decode(data)
        json.loads(data, object_pairs_hook=_refuse_repeated)
    except msgspec.ValidationError as error:
        raise _invalid(what, error, data) from error
    except RecursionError as error:
        raise FashiontlError(f"{what}: expected JSON, got too many levels of nesting; {NEXT_STEP}") from error
    except (ValueError, msgspec.DecodeError) as error:
        raise FashiontlError(f"{what}: expected JSON, got: {error}; {NEXT_STEP}") from error
    return value


def decode_toml(data: bytes, type: type[_T], what: str) -> _T:  # noqa: A002
    """Parse TOML; arguments and errors as of `decode`."""
    try:
        values = tomllib.loads(data.decode())
        return msgspec.convert(values, type)
    except msgspec.ValidationError as error:
        raise _invalid(what, error, values) from error
    except RecursionError as error:
        raise FashiontlError(f"{what}: expected TOML, got too many levels of nesting; {NEXT_STEP}") from error
    except ValueError as error:
        raise FashiontlError(f"{what}: expected TOML, got: {error}; {NEXT_STEP}") from error


def check_schema(data: bytes, known: Collection[int], what: str) -> int:
    """Read the number in the field `schema` of a JSON object, before the rest of it is parsed.

    Raises:
        FashiontlError: it is not one of those known, or as `decode`.
    """
    schema = decode(data, _Versioned, what).schema
    if schema not in known:
        raise FashiontlError(
            f"{what}: expected schema {' or '.join(map(str, known))}, got {brief(schema)}; read it with the version of "
            "fashiontl that wrote it, or upgrade"
        )
    return schema


class _Versioned(msgspec.Struct):
    schema: int


@functools.cache
def _decoder(kind: Hashable) -> Any:
    return msgspec.json.Decoder(kind)


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {brief(twice)} twice in one object")


def _invalid(what: str, error: msgspec.ValidationError, source: Any) -> FashiontlError:
    return FashiontlError(f"{what}{', ' if ' - at `' in str(error) else ': '}{explained(error, source)}; {NEXT_STEP}")


def explained(error: msgspec.MsgspecError, source: Any, root: str = "") -> str:
    """A message of msgspec's in the project's form, with its place, and the value where msgspec leaves it out.

    Args:
        error: what msgspec raised.
        source: what it was to parse: JSON, or values.
        root: place of the source in what contains it, such as `$.cells`; left out when it is the whole.
    """
    found = _MESSAGE.fullmatch(str(error))
    assert found is not None  # every text matches
    fault, place = found["fault"], found["place"] or ""
    if missing := _MISSING.fullmatch(fault):
        fault = f"expected a field `{missing[1]}`, got none"
    elif unknown := _UNKNOWN.fullmatch(fault):
        fault = f"expected known fields only, got {brief(unknown[1])}"
    elif other := _NOT_ONE_OF.fullmatch(fault):
        fault = f"expected one of the known values, got {brief(other[1])[1:-1]}"
    elif fault.startswith("Invalid "):
        fault = fault.replace("Invalid", "expected a valid", 1) + _got(source, place)
    elif fault.endswith("out of range"):
        fault = "expected a number that a float holds, got a larger one"
    elif ", got " not in fault:
        fault += _got(source, place)
    where = root + place.removeprefix("$") if root else place
    return f"{where}: {fault[:1].lower()}{fault[1:]}" if where else f"{fault[:1].lower()}{fault[1:]}"


def _got(source: Any, place: str) -> str:
    """`, got` and the value at a place such as `$.series[0].cell`; nothing where it cannot be found."""
    try:
        value = json.loads(source) if isinstance(source, bytes) else source
        for name, index in _STEP.findall(place):
            value = value[name] if name else value[int(index)]
    except (LookupError, TypeError, ValueError):
        return ""
    # Of the entries of a dictionary, `[...]`, msgspec does not say which.
    return "" if "[...]" in place else f", got {brief(value)}"
