import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from gate_raws import CELL, OTHER, epoch, pair, raw
from hypothesis import given
from hypothesis import strategies as st

from fashiontl.core.errors import FashiontlError
from fashiontl.core.metrics import METRICS
from fashiontl.gate.raw import SCHEMA, Answers, Counts, Failure, Raw, Series, Tree
from fashiontl.gate.rawfile import from_json, read, to_json, write

TEXTS = st.text(max_size=12)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2**53)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
ARMS = st.sampled_from(["base", "head"])
EPOCHS = st.builds(
    epoch,
    st.floats(1e-6, 10),
    st.floats(0.5, 2),
    st.integers(1, 5),
    stage=st.sampled_from(["screen", "confirm"]),
    first=ARMS,
)
METRIC = st.sampled_from(sorted(METRICS))
VALUES = st.lists(NUMBERS, max_size=3).map(tuple)
ANSWERS = st.tuples(st.integers(0, 99), st.text("01", min_size=3, max_size=3), st.text("01", min_size=3, max_size=3))


def many(strategy: st.SearchStrategy[Any], least: int = 0) -> st.SearchStrategy[Any]:
    return st.lists(strategy, min_size=least, max_size=3).map(tuple)


TREES = st.builds(Tree, TEXTS, st.none() | TEXTS, st.booleans(), TEXTS, st.integers(0, 9))
RAWS = st.builds(
    raw,
    seconds=st.integers(0, 10**8),
    command=TEXTS,
    machine=TEXTS,
    environment=st.dictionaries(TEXTS, JSON, max_size=3),
    base=TREES,
    head=TREES,
    cells=many(TEXTS).map(lambda cells: tuple(dict.fromkeys(cells))),
    new=many(TEXTS).map(lambda cells: tuple(dict.fromkeys(cells))),
    removed=many(TEXTS).map(lambda cells: tuple(dict.fromkeys(cells))),
    budget=st.floats(0, 9e8),
    series=many(st.builds(Series, TEXTS, METRIC, many(EPOCHS, 1))),
    counts=many(st.builds(Counts, TEXTS, METRIC, VALUES, VALUES)),
    answers=many(st.builds(Answers, TEXTS, many(ANSWERS.map(lambda answers: pair(*answers))))),
    failures=many(st.builds(Failure, TEXTS, ARMS, st.sampled_from(["missing", "crashed", "timeout", "oom"]), TEXTS)),
    doubts=many(TEXTS),
)


@given(RAWS)
def test_what_is_written_is_read_again(made: Raw) -> None:
    text = to_json(made)
    assert "\n" not in text
    assert text.isascii()
    assert from_json(text, "gate.json") == made
    assert from_json(text.encode(), "gate.json") == made


def test_members_are_dataclasses_again() -> None:
    again = from_json(to_json(raw()), "gate.json")
    assert again.series[0].epochs[0].head[0] == pytest.approx(0.0106)
    assert again.answers[0].seeds[1].right_head == "1001"
    assert again.base.commit == again.base.ref.replace("main", "0123456789abcdef" * 2 + "01234567")


def test_a_file_is_written_whole_and_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "gate.json"
    write(raw(), path)
    assert read(path) == raw()
    assert [each.name for each in path.parent.iterdir()] == ["gate.json"]


def test_a_file_that_cannot_be_written_or_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(FashiontlError, match=r"can be written, got .*: .*; free it"):
        write(raw(), tmp_path)
    with pytest.raises(FashiontlError, match=r"expected a gate's JSON, got .*none\.json: No such file"):
        read(tmp_path / "none.json")


def message(text: str | bytes) -> str:
    with pytest.raises(FashiontlError) as caught:
        from_json(text, "gate.json")
    return str(caught.value)


def changed(**changes: Any) -> str:
    return json.dumps(json.loads(to_json(raw())) | changes)


@pytest.mark.parametrize("text", ["", "{", b"\xff", "[" * 100_000])
def test_what_is_no_json_is_told(text: str | bytes) -> None:
    assert message(text).startswith("gate.json: expected JSON, got: ")


@pytest.mark.parametrize(("text", "got"), [("[]", "a list"), ("1", "a number"), ("null", "null")])
def test_what_is_no_object_is_told(text: str, got: str) -> None:
    assert message(text).startswith(f"gate.json: expected an object of JSON, got {got.replace('a number', 'a whole')}")


@pytest.mark.parametrize("schema", [None, SCHEMA + 1, "1", True])
def test_another_schema_is_told(schema: Any) -> None:
    assert message(changed(schema=schema)) == (
        f"gate.json: expected schema {SCHEMA}, got {schema!r}; read it with the version of fashiontl that wrote it, "
        "or upgrade"
    )


def test_all_faults_of_shape_are_told_at_once() -> None:
    entry = json.loads(to_json(raw()))
    del entry["command"]
    del entry["base"]["protocol"]
    entry["cells"] = [CELL, 7]
    entry["budget"] = "none"
    entry["more"] = 1
    entry["series"][0]["epochs"][1]["first"] = "left"
    entry["series"][0]["epochs"][2]["head"][3] = None
    entry["counts"] = [[]]
    assert message(json.dumps(entry)) == "gate.json: " + "; ".join([
        "field command is missing",
        "field budget: expected a number or a whole number, got text",
        "field more is unknown",
        "field base.protocol is missing",
        "field cells[1]: expected text, got a whole number",
        "field series[0].epochs[1].first: expected one of base, head, got 'left'",
        "field series[0].epochs[2].head[3]: expected a number or a whole number, got null",
        "field counts[0]: expected an object, got a list",
        "run the gate again",
    ])  # fmt: skip


def test_numbers_that_are_not_finite_are_told_by_their_place() -> None:
    text = changed(environment={"load": [0.5]}, seconds=float("nan")).replace("0.5]", "1e999, -Infinity]")
    text = text.replace('"budget": 0.0', '"budget": 1' + "0" * 400)
    assert message(text) == (
        "gate.json: field seconds: expected a finite number, got nan; "
        "field environment.load[0]: expected a finite number, got inf; "
        "field environment.load[1]: expected a finite number, got -inf; "
        "field budget: expected a finite number, got a huge one; run the gate again"
    )


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"started": "yesterday"}, "field started: expected an ISO time in UTC, got 'yesterday'"),
        ({"started": "2026-11-25T02:00:00+01:00"}, "field started: expected an ISO time in UTC"),
        ({"series": (Series(CELL, "speed", (epoch(),)),)}, "field series[0].metric: expected one of accuracy, "),
        ({"counts": (Counts(CELL, "size", (), ()),)}, "field counts[0].metric: expected one of accuracy, "),
        ({"series": (Series(CELL, "latency", ()),)}, "field series[0].epochs: expected one or more"),
        (
            {"series": (Series(CELL, "latency", (epoch(), epoch(head=(1.0,)))),)},
            "field series[0].epochs[1]: expected as many slices of each kind, got 4, 1, 4, 4",
        ),
        ({"series": (Series(CELL, "latency", (epoch(slices=0),)),)}, "got 0, 0, 0, 0"),
        (
            {"series": (Series(CELL, "latency", (epoch(seconds=0),)),)},
            "field series[0].epochs[0]: expected seconds above 0",
        ),
        (
            {"answers": (Answers(CELL, (pair(0, "11", "1"),)),)},
            "field answers[0].seeds[0]: expected answers to the same images in both arms, got 2 and 1",
        ),
        ({"answers": (Answers(CELL, (pair(0, "12", "11"),)),)}, "field answers[0].seeds[0]: expected answers as 0 and"),
    ],
)
def test_values_that_cannot_be_are_told(fields: dict[str, Any], fault: str) -> None:
    assert fault in message(to_json(raw(**fields)))


def test_a_statement_of_what_was_asked_for_cannot_ask_for_nothing() -> None:
    entry = json.loads(to_json(raw()))
    entry["asked"] |= {"cells": [CELL, CELL, OTHER], "metrics": ["latency", "latency", "speed"], "slices": -1}
    entry["asked"] |= {"processes": {CELL: -2, "gone": 1}, "seeds": -3}
    said = message(json.dumps(entry))
    for fault in (
        f"field asked.cells: expected each cell once, got {CELL!r} more than once",
        "field asked.metrics: expected each metric once, got 'latency' more than once",
        "field asked.metrics[2]: expected one of accuracy, ",
        f"field asked.processes: expected a number for each cell of asked.cells, got none: {OTHER!r}",
        "field asked.processes: expected a number for each cell of asked.cells, got a cell that was not asked for: 'go",
        f"field asked.processes.{CELL}: expected 0 or more, got -2",
        "field asked.slices: expected 0 or more, got -1",
        "field asked.seeds: expected 0 or more, got -3",
    ):
        assert fault in said


def test_what_is_not_finite_is_never_written(tmp_path: Path) -> None:
    broken = raw(counts=(Counts(CELL, "flops", (1.0,), (float("nan"),)),))
    with pytest.raises(FashiontlError, match=r"field counts\[0\]\.head\[0\]: expected a finite number, got nan"):
        write(broken, tmp_path / "gate.json")
    assert not (tmp_path / "gate.json").exists()


def test_every_field_is_written() -> None:
    assert json.loads(to_json(raw())).keys() == {field.name for field in dataclasses.fields(Raw)}
