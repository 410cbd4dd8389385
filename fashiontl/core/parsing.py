"""Files from users, JSON and TOML, into typed values: checked once by msgspec, with one format of error messages."""

import json
import re
import tomllib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from fashiontl.core.errors import FashiontlError, brief

_T = TypeVar("_T")

NEXT_STEP = "correct it, or restore it from version control"
# msgspec's messages: what was expected, and the place of it.
_MESSAGE = re.compile(r"(?P<text>.*?)(?: - at `(?P<place>[^`]*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_NOT_ONE_OF = re.compile(r"Invalid enum value (.*)", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")


def load_json(data: bytes | str, what: str, surrogates: str = "strict") -> Any:
    """Parse JSON into lists, dictionaries and the rest; strictly: UTF-8, finite numbers, each key of an object once.

    Args:
        data: UTF-8.
        what: the file, and the line if there are several, for messages: `gate.json`, `runs/a.jsonl:3`.
        surrogates: what becomes of half a surrogate pair, as in names of files that are not UTF-8: `errors` of
            `str.encode`.

    Raises:
        FashiontlError: it is not JSON.
    """
    with _read_as("JSON", what):
        raw = data if isinstance(data, bytes) else data.encode()
        raw.decode()  # msgspec does not look at all of it
        if surrogates != "strict" and b"\\ud" in raw.lower():
            raw = json.dumps(json.loads(raw, object_pairs_hook=_refuse_repeated), ensure_ascii=False).encode(
                errors=surrogates
            )
        values = msgspec.json.decode(raw)
        # msgspec takes the last of a key that an object has twice. Each key ends with a quote and a colon, as long as
        # no space is between them and no quote is written as an escape.
        odd = any(each in raw for each in (b"\\u0022", b'" ', b'"\t', b'"\n', b'"\r'))
        if odd or raw.count(b'":') != msgspec.json.encode(values).count(b'":'):
            json.loads(raw, object_pairs_hook=_refuse_repeated)
    return values


def decode(data: bytes, type: type[_T], what: str) -> _T:  # noqa: A002 the word for it
    """Parse JSON, as `load_json`, into a msgspec Struct or any other type that msgspec converts to."""
    return _converted(load_json(data, what), type, what)


def decode_toml(data: bytes, type: type[_T], what: str) -> _T:  # noqa: A002
    """Parse TOML; arguments and errors as of `decode`."""
    with _read_as("TOML", what):
        values = tomllib.loads(data.decode())
    return _converted(values, type, what)


@contextmanager
def _read_as(form: str, what: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        got = " too many levels of nesting" if isinstance(error, RecursionError) else f": {error}"
        raise FashiontlError(f"{what}: expected {form}, got{got}; {NEXT_STEP}") from error


def _converted(values: Any, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.convert(values, kind, str_keys=True)
    except msgspec.ValidationError as error:
        separator = ", " if " - at `" in str(error) else ": "
        raise FashiontlError(f"{what}{separator}{explained(error, values)}; {NEXT_STEP}") from error


def check_schema(data: Any, known: Collection[int], what: str) -> int:
    """The number in the field `schema` of a JSON object, given as bytes or as what `load_json` made of them.

    Raises:
        FashiontlError: it is not one of those known, or as `decode`.
    """
    schema = _converted(load_json(data, what) if isinstance(data, bytes) else data, _Versioned, what).schema
    if schema not in known:
        raise FashiontlError(
            f"{what}: expected schema {' or '.join(map(str, known))}, got {brief(schema)}; read it with the version of "
            "fashiontl that wrote it, or upgrade"
        )
    return schema


class _Versioned(msgspec.Struct):
    schema: int


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {brief(twice)} twice in one object")
    return found


def explained(error: msgspec.MsgspecError, source: Any, root: str = "") -> str:
    """A message of msgspec's in the project's form, with its place, and the value where msgspec leaves it out.

    `source` is what it was to convert, and `root` that one's place in the whole, such as `$.cells`.
    """
    found = _MESSAGE.fullmatch(str(error))
    assert found is not None  # every text matches
    text, place = found["text"], found["place"] or ""
    if missing := _MISSING.fullmatch(text):
        text = f"expected a field `{missing[1]}`, got none"
    elif unknown := _UNKNOWN.fullmatch(text):
        text = f"expected known fields only, got {brief(unknown[1])}"
    elif other := _NOT_ONE_OF.fullmatch(text):
        text = f"expected one of the known values, got {brief(other[1])[1:-1]}"
    elif text.startswith("Invalid "):
        text = text.replace("Invalid", "expected a valid", 1) + _got(source, place)
    elif text.endswith("out of range"):
        text = "expected a number that a float holds, got a larger one"
    elif ", got " not in text:
        text += _got(source, place)
    where = root + place.removeprefix("$") if root else place
    return f"{where}: {text[:1].lower()}{text[1:]}" if where else f"{text[:1].lower()}{text[1:]}"


def _got(source: Any, place: str) -> str:
    """`, got` and the value at a place such as `$.series[0].cell`; nothing where it cannot be found."""
    try:
        for name, index in _STEP.findall(place):
            source = source[name] if name else source[int(index)]
    except (LookupError, TypeError, ValueError):
        return ""
    # Of the entries of a dictionary, `[...]`, msgspec does not say which.
    return "" if "[...]" in place else f", got {brief(source)}"
