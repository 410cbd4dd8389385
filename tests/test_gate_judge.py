from typing import Any

import pytest
from gate_raws import CELL, OTHER, TODAY, pair, raw, timed, trial, waiver
from msgspec.structs import replace

from fashiontl.core.errors import FashiontlError
from fashiontl.gate.judge import judge
from fashiontl.gate.raw import Answers, Counts, Failure, Raw, Series
from fashiontl.gate.result import Finding, GateResult
from fashiontl.gate.waivers import Waiver


def gate(*series: Series, **fields: Any) -> Raw:
    """Two cells that were measured and are the same, unless fields say otherwise."""
    values = {
        "series": series or (timed(), timed(cell=OTHER)), "counts": (), "answers": (), "failures": (),
    }  # fmt: skip
    return raw(**{**values, **fields})


def judged(measured: Raw, *waivers: Waiver) -> GateResult:
    return judge(measured, waivers, today=TODAY)


def finding(result: GateResult, cell: str = CELL, metric: str = "latency") -> Finding:
    (found,) = [f for f in result.findings if (f.cell, f.metric, f.advisory) == (cell, metric, False)]
    return found


def test_a_gate_without_change_passes() -> None:
    result = judged(gate())
    assert (result.verdict, result.exit_code) == ("PASS", 0)
    assert [(f.cell, f.metric, f.verdict, f.advisory) for f in result.findings] == [
        (CELL, "latency", "PASS", False),
        (CELL, "latency", "PASS", True),
        (OTHER, "latency", "PASS", False),
        (OTHER, "latency", "PASS", True),
    ]


def test_a_confirmed_slowdown_fails() -> None:
    result = judged(gate(timed(1.08), timed(cell=OTHER)))
    assert (result.verdict, result.exit_code) == ("REGRESSED", 1)
    found = finding(result)
    assert found.base == pytest.approx(0.010015)
    assert found.head == pytest.approx(0.010015 * 1.08)
    assert found.trials == (6, 16)


def test_a_speedup_is_told_and_fails_nothing() -> None:
    result = judged(gate(timed(0.9), timed(cell=OTHER)))
    assert (result.verdict, result.exit_code) == ("IMPROVED", 0)


@pytest.mark.parametrize("metric", ["train_throughput", "inference_throughput"])
def test_throughput_is_shown_in_images_and_judged_by_seconds(metric: str) -> None:
    found = finding(judged(gate(timed(1.08, metric=metric, images=32), cells=(CELL,))), metric=metric)
    assert found.verdict == "REGRESSED"
    assert found.base == pytest.approx(32 / 0.010015)
    assert found.head == pytest.approx(32 / 0.010015 / 1.08)
    assert found.change is not None
    assert found.change.estimate == pytest.approx(0.08)


def test_the_tail_is_shown_and_decides_nothing() -> None:
    steady = trial(slices=12)
    stalled = replace(steady, head=(*steady.head[:-1], 0.02))
    result = judged(gate(Series(CELL, "latency", (stalled,) * 6), cells=(CELL,)))
    assert result.exit_code == 0
    (tail,) = [f for f in result.findings if f.advisory]
    assert (tail.verdict, tail.trials) == ("SUSPECT", (6, 0))
    assert tail.change is not None
    assert tail.change.low > 0.05


def test_counts_do_not_stand_in_for_trials() -> None:
    result = judged(gate(timed(), counts=(Counts(OTHER, "parameters", (5.0,), (5.0,)),)))
    assert finding(result, OTHER, "*").verdict == "MISSING"


@pytest.mark.parametrize(("arm", "values"), [("base", ((), (5.0,))), ("head", ((5.0,), ()))])
def test_what_an_arm_that_crashed_did_not_count_is_no_finding_of_its_own(arm: Any, values: Any) -> None:
    failure = Failure(OTHER, arm, "crashed", "inference: RuntimeError: no")
    counts = (Counts(OTHER, "parameters", *values), Counts(OTHER, "flops", (5.0,), (6.0,)))
    result = judged(gate(timed(), counts=counts, failures=(failure,)))
    assert result.verdict == "CRASHED"
    assert [(f.metric, f.verdict) for f in result.findings if f.cell == OTHER] == [
        ("*", "CRASHED"), ("flops", "REGRESSED"),
    ]  # fmt: skip
    alone = judged(
        raw(series=(), answers=(), counts=counts[:1], failures=(failure,), cells=(OTHER,)),
        waiver(cell=OTHER, metric="*"),
    )
    assert alone.exit_code == 12, "a waiver of the crash lets nothing pass that was not compared"


def test_cells_that_only_the_head_has_say_what_to_compare_with() -> None:
    result = judged(gate(timed(), cells=(CELL,), new=(CELL,)))
    assert (result.verdict, result.exit_code) == ("MISSING", 12)
    assert result.notes[0].endswith("nothing passed; name a base that has these cells")


def test_a_new_cell_is_listed_and_not_judged() -> None:
    failures = (Failure(OTHER, "base", "missing", "not there yet"),)
    result = judged(gate(timed(), timed(1.5, OTHER), new=(OTHER,), failures=failures))
    assert result.exit_code == 0
    assert not [f for f in result.findings if f.cell == OTHER]
    assert any(OTHER in note for note in result.notes)


def test_a_new_cell_that_crashes_fails() -> None:
    failures = (Failure(OTHER, "head", "crashed", "SIGSEGV"),)
    assert judged(gate(timed(), new=(OTHER,), failures=failures)).exit_code == 12


def test_a_removed_cell_fails_unless_waived() -> None:
    gone = "gone-full-cpu"
    removed = gate(removed=(gone,))
    assert judged(removed).verdict == "MISSING"
    assert judged(removed, waiver(cell=gone)).exit_code == 12
    result = judged(removed, waiver(cell=gone, metric="*"))
    assert result.exit_code == 0
    assert finding(result, gone, "*").waiver == f"waived up to 100 % by ann until {TODAY}: asked for"


@pytest.mark.parametrize(
    "fields",
    [
        {"cells": (), "series": ()},
        {"cells": (), "series": (), "removed": (CELL,)},
        {"series": (), "new": (CELL, OTHER)},
        {"series": (timed(1.5),), "cells": (CELL,), "new": (CELL,), "removed": (OTHER,)},
        {"series": (), "failures": (Failure(CELL, "head", "crashed", "x"), Failure(OTHER, "head", "crashed", "x"))},
    ],
)
def test_where_nothing_was_compared_nothing_passes_waived_or_not(fields: dict[str, Any]) -> None:
    waivers = [waiver(cell=cell, metric="*") for cell in (CELL, OTHER)]
    result = judged(gate(**fields), *waivers)
    assert result.exit_code == 12
    assert "nothing was compared" in result.notes[0]


def test_a_waiver_covers_one_finding_and_hides_none() -> None:
    slow = gate(timed(1.08), timed(1.08, OTHER))
    result = judged(slow, waiver())
    assert result.exit_code == 1
    assert (finding(result).verdict, finding(result).waiver[:10]) == ("REGRESSED", "waived up ")
    assert finding(result, OTHER).waiver == ""
    assert judged(slow, waiver(), waiver(cell="vgg*")).exit_code == 1, "a cell has one name"
    assert judged(slow, waiver(), waiver(cell=OTHER)).exit_code == 0


def test_a_waiver_of_what_is_harmless_is_not_used() -> None:
    assert finding(judged(gate(), waiver())).waiver == ""


def test_twice_the_same_metric_is_an_error() -> None:
    counts = Counts(CELL, "parameters", (5.0,), (5.0,))
    answers = Answers(CELL, (pair(0),))
    for fields in ({"series": (timed(), timed())}, {"counts": (counts,) * 2}, {"answers": (answers,) * 2}):
        result = judged(gate(**{"series": (timed(),), "cells": (CELL,), **fields}))
        assert result.exit_code == 12
        assert any("is there twice" in f.reason for f in result.findings)


def test_the_worst_verdict_decides() -> None:
    slow = (timed(1.08), timed(0.9, OTHER))
    assert judged(gate(*slow)).verdict == "REGRESSED"
    assert judged(gate(*slow, failures=(Failure(OTHER, "head", "oom", "x"),))).verdict == "CRASHED"
    assert judged(gate(timed(1.08), Series(OTHER, "latency", (trial(),)))).verdict == "REGRESSED"
    assert judged(gate(timed(0.9), Series(OTHER, "latency", (trial(),)))).verdict == "INCONCLUSIVE"


def test_another_schema_is_not_judged() -> None:
    with pytest.raises(FashiontlError, match="expected measurements of schema 3, got 0"):
        judged(gate(schema=0))


def test_notes_tell_what_a_reader_must_know() -> None:
    measured = gate(warnings=("the clock is coarse",))
    same = replace(measured, head=replace(measured.base, protocol=99))
    assert any("protocol" in note for note in judged(same).notes)
    assert any("both arms are commit 0123456789ab" in note for note in judged(same).notes)
    assert any("working tree, differs" in note for note in judged(measured).notes)
    assert "the clock is coarse" in judged(measured).notes


@pytest.mark.parametrize("metric", ["wall_time", "accuracy", "no_metric"])
def test_what_has_no_limit_cannot_be_judged(metric: str) -> None:
    assert judged(gate(timed(), timed(metric=metric), cells=(CELL,))).exit_code == 12
    counts = (Counts(CELL, metric, (5.0,), (5.0,)),)
    assert judged(gate(timed(), cells=(CELL,), counts=counts)).exit_code == 12
