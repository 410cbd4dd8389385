import os
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashiontl.core.errors import FashiontlError
from fashiontl.gate.waivers import Waiver, add_waiver, read_waivers

TODAY = date(2026, 11, 25)
FIELDS = {
    "cell": "resnet18-full-cpu", "metric": "latency", "ceiling": "4.5", "owner": "Ada", "reason": "a fix costs 3 %",
    "expires": "2026-12-24",
}  # fmt: skip
GOOD = """cell = "resnet18-full-cpu"
metric = "latency"
# The largest change that passes, in %; of accuracy in points.
ceiling = 4.5
owner = "Ada"
reason = "a fix costs 3 %"
created = 2026-11-25
expires = 2026-12-24
"""


def place(results: Path, text: str, name: str = "one") -> Path:
    path = results / "waivers" / f"{name}.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_what_is_added_is_read_again(tmp_path: Path) -> None:
    waiver = add_waiver(tmp_path, TODAY, unique="abc123", **FIELDS)
    path = tmp_path / "waivers" / "20261125-resnet18-full-cpu-abc123.toml"
    assert waiver == Waiver(
        path.stem, "resnet18-full-cpu", "latency", 4.5, "Ada", "a fix costs 3 %", date(2026, 12, 24), path,
    )  # fmt: skip
    assert read_waivers(tmp_path, TODAY) == ((waiver,), ())
    assert path.read_text().partition("\n")[2] == GOOD
    assert str(waiver) == "waived up to 4.5 % by Ada until 2026-12-24: a fix costs 3 %"


def test_no_waivers_is_no_fault(tmp_path: Path) -> None:
    assert read_waivers(tmp_path, TODAY) == ((), ())


def test_each_waiver_has_a_file_of_its_own(tmp_path: Path) -> None:
    added = [add_waiver(tmp_path, TODAY, **FIELDS) for _ in range(3)]
    assert len({waiver.path for waiver in added}) == 3
    assert len(read_waivers(tmp_path, TODAY).waivers) == 3


def test_none_is_overwritten(tmp_path: Path) -> None:
    before = add_waiver(tmp_path, TODAY, unique="same", **FIELDS).path.read_text()
    with pytest.raises(FashiontlError, match="never overwritten"):
        add_waiver(tmp_path, TODAY, unique="same", **FIELDS | {"owner": "Bob"})
    assert read_waivers(tmp_path, TODAY).waivers[0].path.read_text() == before


@pytest.mark.parametrize(
    ("name", "metric", "change", "day", "covered"),
    [
        ("resnet18-full-cpu", "latency", 3.0, TODAY, True),
        ("resnet18-full-cpu", "latency", 4.5, date(2026, 12, 24), True),
        ("resnet18-full-cpu", "latency", 4.6, TODAY, False),
        ("resnet18-full-cpu", "latency", 3.0, date(2026, 12, 25), False),
        ("resnet18-full-cpu", "flops", 3.0, TODAY, False),
        ("resnet18-full-cpu", "*", 3.0, TODAY, False),
        ("resnet18-full-cuda", "latency", 3.0, TODAY, False),
        ("Resnet18-full-cpu", "latency", 3.0, TODAY, False),
        ("resnet18-full-cpu-bf16", "latency", 3.0, TODAY, False),
    ],
)
def test_what_one_covers(tmp_path: Path, name: str, metric: str, change: float, day: date, covered: bool) -> None:
    assert add_waiver(tmp_path, TODAY, **FIELDS).covers(name, metric, change, day) is covered


def test_an_expired_one_still_says_what_it_was_about(tmp_path: Path) -> None:
    waiver = add_waiver(tmp_path, TODAY, **FIELDS)
    later = TODAY + timedelta(days=99)
    assert waiver.expired(later)
    assert waiver.matches("resnet18-full-cpu", "latency")


def test_a_star_is_the_cell_as_a_whole_and_no_other_metric(tmp_path: Path) -> None:
    waiver = add_waiver(tmp_path, TODAY, **FIELDS | {"metric": "*", "ceiling": "100 %"})
    assert waiver.covers("resnet18-full-cpu", "*", 100.0, TODAY)
    assert not waiver.covers("resnet18-full-cpu", "latency", 1.0, TODAY)


@pytest.mark.parametrize("pattern", ["*", "**", "?*", "[!~]*", "resnet18-*-cpu", "resnet1?-full-cpu", "[a-z]"])
@pytest.mark.parametrize("metric", ["latency", "*"])
def test_a_pattern_waives_nothing_whoever_wrote_it(tmp_path: Path, pattern: str, metric: str) -> None:
    fields = FIELDS | {"cell": pattern, "metric": metric, "ceiling": "100"}
    with pytest.raises(
        FashiontlError, match=r"expected the id of one cell, got the pattern .*write one waiver for each"
    ):
        add_waiver(tmp_path, TODAY, **fields)
    place(tmp_path, GOOD.replace("resnet18-full-cpu", pattern))
    waivers, faults = read_waivers(tmp_path, TODAY)
    assert waivers == ()
    assert "got the pattern" in faults[0]


@pytest.mark.parametrize(
    "size", ["", "0", "-3", "nan", "inf", "1e400", "1000.1", "true", '"5"', "9" * 400, "[5]", "2026-12-24"]
)
def test_a_size_is_a_number_that_means_something(tmp_path: Path, size: str) -> None:
    place(tmp_path, GOOD.replace("ceiling = 4.5", f"ceiling = {size}" if size else ""))
    waivers, faults = read_waivers(tmp_path, TODAY)
    assert waivers == ()
    assert len(faults) == 1
    assert "ceiling" in faults[0] or "expected a waiver in TOML" in faults[0]


@pytest.mark.parametrize(
    ("created", "expires", "field"),
    [
        ("2026-11-26", "2026-12-24", "created: expected 2026-11-25 or before, got 2026-11-26, which is to come"),
        ("9999-12-31", "9999-12-31", "created: expected 2026-11-25 or before"),
        ("2026-11-25", "9999-12-31", "expires: expected a date from 2026-11-25 to 2027-02-23"),
        ("0001-01-01", "2026-12-24", "expires: expected a date from 0001-01-01"),
    ],
)
def test_the_time_of_a_waiver_is_short_and_has_begun(tmp_path: Path, created: str, expires: str, field: str) -> None:
    place(tmp_path, GOOD.replace("2026-11-25", created).replace("2026-12-24", expires))
    waivers, faults = read_waivers(tmp_path, TODAY)
    assert waivers == ()
    assert field in faults[0]


def test_all_faults_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    text = 'cell = "**"\nmetric = "speed"\nowner = 7\nwhen = 1\ncreated = 2027-01-01\nexpires = 9999-01-01\n'
    place(tmp_path, text)
    (fault,) = read_waivers(tmp_path, TODAY).faults
    for part in ("when is unknown", "owner: expected", "reason: expected", "pattern '**'", "unknown metric 'speed'",
                 "ceiling: expected", "created: expected"):  # fmt: skip
        assert part in fault


def test_what_is_no_file_is_a_fault_and_is_not_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "waivers"
    (folder / "folder.toml").mkdir(parents=True)
    os.mkfifo(folder / "pipe.toml")
    (folder / "device.toml").symlink_to("/dev/zero")
    faults = read_waivers(tmp_path, TODAY).faults
    assert [fault.partition("got ")[2] for fault in faults] == [
        "a device or socket; move it away", "a folder; move it away", "a named pipe; move it away",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (GOOD.replace('owner = "Ada"\n', ""), "field owner: expected one line of text, got nothing"),
        (GOOD.replace('"a fix costs 3 %"', '" "'), "field reason: expected one line of text, got ' '"),
        (GOOD.replace('"Ada"', "7"), "field owner: expected one line of text, got 7"),
        (GOOD.replace("expires = 2026-12-24\n", ""), "field expires: expected a date such as 2027-01-31, got nothing"),
        (GOOD.replace("2026-12-24", '"never"'), "field expires: expected a date such as 2027-01-31, got 'never'"),
        (GOOD.replace("2026-12-24", "2026-12-24T00:00:00"), "field expires: expected a date such as 2027-01-31"),
        (GOOD + 'forever = "yes"\n', "field forever is unknown"),
        (GOOD.replace("latency", "latencies"), "unknown metric 'latencies'; did you mean latency"),
        (
            GOOD.replace("2026-12-24", "2027-02-24"),
            "expected a date from 2026-11-25 to 2027-02-23, 90 days after its making, got 2027-02-24",
        ),
        (GOOD.replace("2026-12-24", "2026-11-24"), "expected a date from 2026-11-25"),
        (GOOD.replace("latency", "*"), "field ceiling: expected 100 or more for a whole cell"),
        ("a = " + "[" * 5000, "expected a waiver in TOML"),
        ("cell = [", "expected a waiver in TOML"),
        (GOOD + "cell = 'twice'\n", "expected a waiver in TOML"),
    ],
)
def test_a_broken_file_is_shown_and_waives_nothing(tmp_path: Path, broken: str, fault: str) -> None:
    path = place(tmp_path, broken)
    place(tmp_path, GOOD, "two")
    waivers, faults = read_waivers(tmp_path, TODAY)
    assert [waiver.id for waiver in waivers] == ["two"]
    assert len(faults) == 1
    assert faults[0].startswith(f"{path}: ")
    assert fault in faults[0]


def test_bytes_that_are_no_text_are_a_fault(tmp_path: Path) -> None:
    place(tmp_path, "").write_bytes(b"\xff\xfe")
    assert "expected a waiver in TOML" in read_waivers(tmp_path, TODAY).faults[0]


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(FashiontlError) as caught:
        add_waiver(tmp_path, TODAY, cell="", metric="latency", ceiling="5", owner="a\nb", expires="soon")
    assert str(caught.value).splitlines() == [
        "field cell: expected one line of text, got ''",
        "field owner: expected one line of text, got 'a\\nb'",
        "field reason: expected one line of text, got nothing",
        "field expires: expected a date such as 2027-01-31, got 'soon'",
    ]
    assert not (tmp_path / "waivers").exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "waivers").write_text("a file")
    with pytest.raises(FashiontlError, match="can be written"):
        add_waiver(tmp_path, TODAY, **FIELDS)


PRINTABLE = st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable() and bool(text.strip()))
NAMES = PRINTABLE.filter(lambda text: not set(text) & set("*?["))


@given(name=NAMES, owner=PRINTABLE, reason=PRINTABLE, days=st.integers(0, 90))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, name: str, owner: str, reason: str, days: int):
    expires = TODAY + timedelta(days=days)
    results = tmp_path_factory.mktemp("results")
    waiver = add_waiver(
        results, TODAY, cell=name, metric="flops", ceiling="7", owner=owner, reason=reason, expires=expires.isoformat()
    )
    assert (waiver.cell, waiver.owner, waiver.reason, waiver.expires) == (name, owner, reason, expires)
    assert waiver.covers(name, "flops", 7.0, expires)
