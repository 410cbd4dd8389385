import os
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashiontl.core.errors import FashiontlError
from fashiontl.gate.waivers import Terms, Waiver, add_waivers, read_waivers

TODAY = date(2026, 11, 25)
CELL = "resnet18-full-cpu"
GOOD = """cell = "resnet18-full-cpu"
metric = "latency"
# The largest change that passes, in %; of accuracy in points.
ceiling = 4.5
owner = "Ada"
reason = "a fix costs 3 %"
created = 2026-11-25
expires = 2026-12-24
"""


def terms(**fields: Any) -> Terms:
    values = {
        "cell": CELL, "metric": "latency", "ceiling": 4.5, "owner": "Ada", "reason": "a fix costs 3 %",
        "created": TODAY, "expires": date(2026, 12, 24),
    }  # fmt: skip
    return Terms(**values | fields)


def add(results: Path, **fields: Any) -> Waiver:
    (waiver,) = add_waivers(results, TODAY, [terms(**fields)])
    return waiver


def place(results: Path, text: str, name: str = "one") -> Path:
    path = results / "waivers" / f"{name}.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_what_is_added_is_read_again(tmp_path: Path) -> None:
    waiver = add(tmp_path)
    assert waiver.path.stem.startswith("20261125-resnet18-full-cpu-")
    assert waiver.path.parent == tmp_path / "waivers"
    assert read_waivers(tmp_path, TODAY) == ((waiver,), ())
    assert waiver.path.read_text().partition("\n")[2] == GOOD
    assert str(waiver) == "waived up to 4.5 % by Ada until 2026-12-24: a fix costs 3 %"


def test_each_waiver_has_a_file_of_its_own(tmp_path: Path) -> None:
    assert read_waivers(tmp_path, TODAY) == ((), ())
    assert len({add(tmp_path).path for _ in range(3)}) == 3
    assert len(read_waivers(tmp_path, TODAY)[0]) == 3


@pytest.mark.parametrize(
    ("name", "metric", "change", "day", "covered"),
    [
        (CELL, "latency", 3.0, TODAY, True),
        (CELL, "latency", 4.5, date(2026, 12, 24), True),
        (CELL, "latency", 4.6, TODAY, False),
        (CELL, "latency", 3.0, date(2026, 12, 25), False),
        (CELL, "flops", 3.0, TODAY, False),
        (CELL, "*", 3.0, TODAY, False),
        ("resnet18-full-cuda", "latency", 3.0, TODAY, False),
        ("resnet18-full-cpu-bf16", "latency", 3.0, TODAY, False),
    ],
)
def test_what_one_covers(tmp_path: Path, name: str, metric: str, change: float, day: date, covered: bool) -> None:
    assert add(tmp_path).covers(name, metric, change, day) is covered


def test_a_star_is_the_cell_as_a_whole_and_no_other_metric(tmp_path: Path) -> None:
    waiver = add(tmp_path, metric="*", ceiling=100.0)
    assert waiver.covers(CELL, "*", 100.0, TODAY)
    assert not waiver.covers(CELL, "latency", 1.0, TODAY)


@pytest.mark.parametrize("pattern", ["*", "?*", "[!~]*", "resnet1?-full-cpu", "[a-z]"])
def test_a_pattern_waives_nothing_whoever_wrote_it(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(FashiontlError, match=r"expected the id of one cell, got the pattern"):
        add(tmp_path, cell=pattern)
    place(tmp_path, GOOD.replace(CELL, pattern))
    waivers, errors = read_waivers(tmp_path, TODAY)
    assert waivers == ()
    assert "got the pattern" in errors[0]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        *(("4.5", size, "ceiling") for size in ("0", "-3", "nan", "inf", "1e400", "1000.1", "true", '"5"', "[5]")),
        ("4.5", "9" * 400, "ceiling"),
        ("2026-11-25", "2026-11-26", "created: expected 2026-11-25 or before, got 2026-11-26, which is to come"),
        ("2026-11-25", "9999-12-31", "created: expected 2026-11-25 or before"),
        ("2026-12-24", "2027-02-24", "expires: expected a date from 2026-11-25 to 90 days later, got 2027-02-24"),
        ("2026-12-24", "9999-12-31", "expires: expected a date from 2026-11-25"),
        ("2026-12-24", "2026-11-24", "expires: expected a date from 2026-11-25"),
        ("2026-11-25", "0001-01-01", "expires: expected a date from 0001-01-01"),
        ("2026-12-24", '"never"', "$.expires: expected a valid"),
        ("2026-12-24", "2026-12-24T00:00:00", "$.expires: expected `date`, got `datetime`"),
        ('owner = "Ada"\n', "", "expected a field `owner`, got none"),
        ('"Ada"', "7", "$.owner: expected `str`, got `int`"),
        ('"a fix costs 3 %"', '" "', "field reason: expected one line of text, got ' '"),
        ('"latency"', '"latencies"', "unknown metric 'latencies'; did you mean latency"),
        ('"latency"', '"*"', "field ceiling: expected 100 or more for a whole cell"),
        ("owner", "forever = 1\nowner", "expected known fields only, got 'forever'"),
        ("owner", "owner = 'twice'\nowner", "expected TOML"),
        (GOOD, "cell = [", "expected TOML"),
        (GOOD, "a = " + "[" * 5000, "expected TOML"),
    ],
)
def test_a_broken_file_is_shown_and_waives_nothing(tmp_path: Path, before: str, after: str, message: str) -> None:
    path = place(tmp_path, GOOD.replace(before, after))
    place(tmp_path, GOOD, "two")
    waivers, errors = read_waivers(tmp_path, TODAY)
    assert [waiver.path.stem for waiver in waivers] == ["two"]
    (error,) = errors
    assert error.startswith(str(path))
    assert message in error


def test_what_is_no_file_of_text_is_an_error_and_is_not_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "waivers"
    (folder / "folder.toml").mkdir(parents=True)
    os.mkfifo(folder / "pipe.toml")
    (folder / "device.toml").symlink_to("/dev/zero")
    (folder / "a.toml").write_bytes(b"\xff\xfe")
    (folder / "b.toml").symlink_to("nowhere")
    errors = read_waivers(tmp_path, TODAY)[1]
    assert ["expected TOML" in errors[0], "No such file" in errors[1]] == [True, True]
    assert [error.partition("got ")[2] for error in errors[2:]] == [
        "a device or socket; move it away", "a folder; move it away", "a named pipe; move it away",
    ]  # fmt: skip


def test_all_errors_of_values_are_told_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    bad = terms(cell="", metric="speed", ceiling=0.0, owner="a\nb", expires=date(2030, 1, 1))
    with pytest.raises(FashiontlError) as caught:
        add_waivers(tmp_path, TODAY, [terms(), bad])
    for name in ("cell", "metric", "ceiling", "owner", "expires"):
        assert f"field {name}: " in str(caught.value)
    assert not (tmp_path / "waivers").exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "waivers").write_text("a file")
    with pytest.raises(FashiontlError, match="can be written"):
        add(tmp_path)


PRINTABLE = st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable() and bool(text.strip()))
NAMES = PRINTABLE.filter(lambda text: not set(text) & set("*?["))


@settings(max_examples=30)
@given(name=NAMES, owner=PRINTABLE, reason=PRINTABLE, days=st.integers(0, 90))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, name: str, owner: str, reason: str, days: int):
    made = terms(cell=name, owner=owner, reason=reason, expires=TODAY + timedelta(days=days))
    results = tmp_path_factory.mktemp("results")
    assert add_waivers(results, TODAY, [made]) == list(read_waivers(results, TODAY)[0])
