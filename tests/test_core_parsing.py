"""Files from users: one format of errors, whatever is wrong with a file."""

from datetime import date
from typing import Annotated, Literal

import msgspec
import pytest

from fashiontl.core.errors import FashiontlError
from fashiontl.core.parsing import check_schema, decode, decode_toml


class Part(msgspec.Struct, forbid_unknown_fields=True):
    count: Annotated[int, msgspec.Meta(ge=1)]
    side: Literal["left", "right"] = "left"
    day: date = date(2026, 1, 1)


class Whole(msgspec.Struct, forbid_unknown_fields=True):
    parts: tuple[Part, ...] = ()
    size: float = 0.0
    sizes: dict[str, Annotated[float, msgspec.Meta(gt=0)]] = {}
    any: object = None


def test_what_is_right_becomes_typed_values():
    whole = decode(b'{"parts": [{"count": 3}], "size": 2, "sizes": {"a": 1}}', Whole, "w.json")
    assert whole == Whole(parts=(Part(3),), size=2.0, sizes={"a": 1.0})
    assert decode_toml(b"parts = [{count = 3}]\nsize = 2", Whole, "w.toml") == Whole(parts=(Part(3),), size=2.0)


@pytest.mark.parametrize(
    ("text", "place", "expected", "got"),
    [
        ("[]", "", "object", "array"),
        ('{"parts": [{"count": 0}]}', "$.parts[0].count", "`int` >= 1", "0"),
        ('{"parts": [{"count": "3"}]}', "$.parts[0].count", "int", "str"),
        ('{"parts": [{"count": 1.5}]}', "$.parts[0].count", "int", "float"),
        ('{"parts": [{"count": 1, "side": "up"}]}', "$.parts[0].side", "one of the known values", "got 'up'"),
        ('{"parts": [{"count": 1, "day": "soon"}]}', "$.parts[0].day", "a valid", "got 'soon'"),
        ('{"parts": [{}]}', "$.parts[0]", "field `count`", "none"),
        ('{"parts": [], "sise": 1}', "", "known fields", "'sise'"),
        ('{"sizes": {"a": 0}}', "$.sizes[...]", "`float` > 0.0", ""),
    ],
)
def test_a_fault_is_told_with_place_expected_and_got(text, place, expected, got):
    with pytest.raises(FashiontlError) as raised:
        decode(text.encode(), Whole, "w.json")
    message = str(raised.value)
    assert message.startswith(f"w.json, {place}: expected" if place else "w.json: expected")
    assert expected in message
    assert got in message
    assert message.endswith("restore it from version control")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{} {}",
        b'{"size": NaN}',
        b'{"size": Infinity}',
        b'{"size": 1e999}',
        b'{"size": 1' + b"0" * 5000 + b"}",
        b'{"any": 1' + b"0" * 5000 + b"}",
        b'{"any": "\xff"}',
        b'{"any": "\\ud800"}',
        b'{"any": ' + b"[" * 100_000,
        b'{"any": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"size": 1, "size": 2}',
        b'{"any": {"a": 1, "b": 2, "a": 1}}',
    ],
    ids=lambda text: text[:24].decode(errors="replace"),
)
def test_what_is_no_json_is_an_error_and_no_traceback(text):
    with pytest.raises(FashiontlError, match=r"^w\.json(, \$[^:]*)?: "):
        decode(text, Whole, "w.json")


@pytest.mark.parametrize("text", [b"size", b"size = 1\nsize = 2", b"\xff", b"any = " + b"[" * 100_000, b"size = 'x'"])
def test_what_is_no_toml_is_an_error_and_no_traceback(text):
    with pytest.raises(FashiontlError, match=r"^w\.toml"):
        decode_toml(text, Whole, "w.toml")


def test_another_schema_is_told_before_any_other_fault():
    assert check_schema(b'{"schema": 2, "more": 1}', (1, 2), "w.json") == 2
    with pytest.raises(FashiontlError, match="expected schema 1 or 2, got 3; read it with the version"):
        check_schema(b'{"schema": 3, "more": []}', (1, 2), "w.json")
