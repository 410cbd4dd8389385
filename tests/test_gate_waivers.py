from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashiontl.errors import FashiontlError
from fashiontl.gate.waivers import Waiver, add_waiver, read_waivers

TODAY = date(2026, 11, 25)
FIELDS = {
    "cell": "resnet18-*-cpu", "metric": "latency", "owner": "Ada", "reason": "a fix costs 3 %", "expires": "2026-12-24",
}  # fmt: skip
GOOD = """cell = "resnet18-*-cpu"
metric = "latency"
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
    path = tmp_path / "waivers" / "20261125-resnet18-_-cpu-abc123.toml"
    assert waiver == Waiver(
        path.stem, "resnet18-*-cpu", "latency", "Ada", "a fix costs 3 %", date(2026, 12, 24), path,
    )  # fmt: skip
    assert read_waivers(tmp_path) == ((waiver,), ())
    assert path.read_text().partition("\n")[2] == GOOD
    assert str(waiver) == "waived by Ada until 2026-12-24: a fix costs 3 %"


def test_no_waivers_is_no_fault(tmp_path: Path) -> None:
    assert read_waivers(tmp_path) == ((), ())


def test_each_waiver_has_a_file_of_its_own(tmp_path: Path) -> None:
    added = [add_waiver(tmp_path, TODAY, **FIELDS) for _ in range(3)]
    assert len({waiver.path for waiver in added}) == 3
    assert len(read_waivers(tmp_path).waivers) == 3


def test_none_is_overwritten(tmp_path: Path) -> None:
    before = add_waiver(tmp_path, TODAY, unique="same", **FIELDS).path.read_text()
    with pytest.raises(FashiontlError, match="never overwritten"):
        add_waiver(tmp_path, TODAY, unique="same", **FIELDS | {"owner": "Bob"})
    assert read_waivers(tmp_path).waivers[0].path.read_text() == before


@pytest.mark.parametrize(
    ("name", "metric", "day", "covered"),
    [
        ("resnet18-full-cpu", "latency", TODAY, True),
        ("resnet18-full-cpu", "latency", date(2026, 12, 24), True),
        ("resnet18-full-cpu", "latency", date(2026, 12, 25), False),
        ("resnet18-full-cpu", "flops", TODAY, False),
        ("resnet18-full-cuda", "latency", TODAY, False),
        ("Resnet18-full-cpu", "latency", TODAY, False),
    ],
)
def test_what_one_covers(tmp_path: Path, name: str, metric: str, day: date, covered: bool) -> None:
    assert add_waiver(tmp_path, TODAY, **FIELDS).covers(name, metric, day) is covered


def test_an_expired_one_still_says_what_it_was_about(tmp_path: Path) -> None:
    waiver = add_waiver(tmp_path, TODAY, **FIELDS)
    later = TODAY + timedelta(days=99)
    assert waiver.expired(later)
    assert waiver.matches("resnet18-full-cpu", "latency")


def test_a_star_is_all_metrics_and_an_id_with_brackets_matches_itself(tmp_path: Path) -> None:
    waiver = add_waiver(tmp_path, TODAY, **FIELDS | {"metric": "*", "cell": "own[1]-full-cpu"})
    assert waiver.covers("own[1]-full-cpu", "flops", TODAY)
    assert waiver.covers("own1-full-cpu", "", TODAY)


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
        (GOOD.replace("resnet18-*-cpu", "*").replace("latency", "*"), "would switch the gate off"),
        ("cell = [", "expected a waiver in TOML"),
        (GOOD + "cell = 'twice'\n", "expected a waiver in TOML"),
    ],
)
def test_a_broken_file_is_shown_and_waives_nothing(tmp_path: Path, broken: str, fault: str) -> None:
    path = place(tmp_path, broken)
    place(tmp_path, GOOD, "two")
    waivers, faults = read_waivers(tmp_path)
    assert [waiver.id for waiver in waivers] == ["two"]
    assert len(faults) == 1
    assert faults[0].startswith(f"{path}: ")
    assert fault in faults[0]


def test_bytes_that_are_no_text_are_a_fault(tmp_path: Path) -> None:
    place(tmp_path, "").write_bytes(b"\xff\xfe")
    assert "expected a waiver in TOML" in read_waivers(tmp_path).faults[0]


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(FashiontlError) as caught:
        add_waiver(tmp_path, TODAY, cell="", metric="latency", owner="a\nb", expires="soon")
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


@given(name=PRINTABLE, owner=PRINTABLE, reason=PRINTABLE, days=st.integers(0, 90))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, name: str, owner: str, reason: str, days: int):
    expires = TODAY + timedelta(days=days)
    results = tmp_path_factory.mktemp("results")
    waiver = add_waiver(
        results, TODAY, cell=name, metric="flops", owner=owner, reason=reason, expires=expires.isoformat()
    )
    assert (waiver.cell, waiver.owner, waiver.reason, waiver.expires) == (name, owner, reason, expires)
    assert waiver.covers(name, "flops", expires)
