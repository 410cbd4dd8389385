"""A gate's file: what is written is read again, also of earlier versions; what cannot be is refused or never passes."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from gate_raws import CELL, OTHER, pair, raw, trial
from hypothesis import given, settings
from hypothesis import strategies as st

from fashiontl.core.errors import FashiontlError
from fashiontl.gate.judge import judge
from fashiontl.gate.raw import SCHEMA, Answers, Counts, Failure, Raw, Series, Tree, from_json, read, to_json, write

TEXTS = st.text(max_size=12)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
ARMS = st.sampled_from(["base", "head"])
TRIALS = st.builds(
    trial,
    st.floats(1e-6, 10),
    st.floats(0.5, 2),
    st.integers(1, 5),
    stage=st.sampled_from(["screen", "confirm"]),
    first=ARMS,
)


def many(strategy: st.SearchStrategy[Any], least: int = 0) -> st.SearchStrategy[Any]:
    return st.lists(strategy, min_size=least, max_size=3).map(tuple)


RAWS = st.builds(
    raw,
    command=TEXTS,
    environment=st.dictionaries(TEXTS, st.none() | TEXTS | NUMBERS, max_size=3),
    base=st.builds(Tree, TEXTS, st.none() | TEXTS, st.booleans(), TEXTS, st.integers(0, 9)),
    cells=many(TEXTS),
    series=many(st.builds(Series, TEXTS, TEXTS, many(TRIALS, 1))),
    counts=many(st.builds(Counts, TEXTS, TEXTS, many(NUMBERS), many(NUMBERS))),
    answers=many(st.builds(Answers, TEXTS, many(st.builds(pair, st.integers(0, 99))))),
    failures=many(st.builds(Failure, TEXTS, ARMS, st.sampled_from(["missing", "crashed", "timeout", "oom"]), TEXTS)),
    warnings=many(TEXTS),
)


@settings(max_examples=30)
@given(RAWS)
def test_what_is_written_is_read_again(made: Raw) -> None:
    text = to_json(made)
    assert text.count(b"\n") == 1
    assert from_json(text, "gate.json") == made


def test_a_file_that_cannot_be_written_or_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(FashiontlError, match=r"can be written, got .*: .*; free it"):
        write(raw(), tmp_path)
    with pytest.raises(FashiontlError, match=r"none\.json: expected a gate's JSON, got: No such file"):
        read(tmp_path / "none.json")
    with pytest.raises(FashiontlError, match="got a folder"):
        read(tmp_path)


def test_what_is_not_finite_is_never_written(tmp_path: Path) -> None:
    broken = raw(counts=(Counts(CELL, "flops", (1.0,), (float("nan"),)),))
    with pytest.raises(FashiontlError, match=r"\$\.counts\[0\]\.head\[0\]: expected `float`, got `null`"):
        write(broken, tmp_path / "gate.json")
    assert not (tmp_path / "gate.json").exists()


def of_schema(schema: int) -> bytes:
    """The same gate as an earlier version wrote it."""
    text = to_json(raw()).decode()
    for now, before in {
        "trials": "epochs", "reference_base": "control_base", "reference_head": "control_head", "reference": "control",
        "warnings": "doubts", "unavailable": "untold",
    }.items():  # fmt: skip
        text = text.replace(f'"{now}":', f'"{before}":')
    entry = json.loads(text) | {"schema": schema}
    if schema == 1:
        for name in ("asked", "untold", "interrupted"):
            del entry[name]
        for answers in entry["answers"]:
            del answers["images"]
    return json.dumps(entry).encode()


def test_files_of_earlier_versions_are_read() -> None:
    assert b'"epochs":' in of_schema(2)
    assert from_json(of_schema(2), "gate.json") == raw()
    old = from_json(of_schema(1), "gate.json")
    assert old == raw(asked=None)
    assert judge(old, today=date(2026, 11, 25)).exit_code == 12, "it does not say what was asked for"


@pytest.mark.parametrize("schema", [0, SCHEMA + 1])
def test_another_schema_is_told(schema: int) -> None:
    text = json.dumps(json.loads(to_json(raw())) | {"schema": schema, "more": 1}).encode()
    with pytest.raises(FashiontlError, match=f"expected schema 1 or 2 or 3, got {schema}; read it with the version"):
        from_json(text, "gate.json")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("seconds",), -1.0),
        (("budget",), "none"),
        (("cells",), [CELL, 7]),
        (("more",), 1),
        (("series", 0, "images"), 0),
        (("series", 0, "trials", 1, "first"), "left"),
        (("series", 0, "trials", 2, "head", 3), None),
        (("asked", "slices"), -1),
        (("asked", "seeds"), -3),
        (("asked", "processes", CELL), -2),
    ],
    ids=str,
)
def test_what_is_of_a_wrong_shape_is_told_with_its_place(path: tuple[Any, ...], value: object) -> None:
    entry = json.loads(to_json(raw()))
    at = entry
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    with pytest.raises(FashiontlError, match=r"gate\.json.*: expected ") as raised:
        from_json(json.dumps(entry).encode(), "gate.json")
    assert str(path[-1]) in str(raised.value) or "[...]" in str(raised.value)


@pytest.mark.parametrize("schema", [1, 2, 3])
@pytest.mark.parametrize("cut", [1, 2, 100, 1000])
def test_a_file_that_is_cut_is_no_file(schema: int, cut: int) -> None:
    text = of_schema(schema) if schema < SCHEMA else to_json(raw()).rstrip()
    with pytest.raises(FashiontlError, match="expected JSON, got"):
        from_json(text[:-cut], "gate.json")


@pytest.mark.parametrize("processes", [{}, {CELL: 6}])
def test_a_statement_without_processes_for_each_cell_never_passes(processes: dict[str, int]) -> None:
    entry = json.loads(to_json(raw(failures=())))
    entry["asked"] |= {"cells": [CELL, OTHER], "processes": processes}
    result = judge(from_json(json.dumps(entry).encode(), "gate.json"), today=date(2026, 11, 25))
    assert any("no processes of a cell" in note for note in result.notes)
    assert result.exit_code == 12
