"""What must never pass in silence."""

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any, get_args

import pytest
from gate_raws import CELL, OTHER, TODAY, pair, raw, timed, trial, waiver
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fashiontl.gate.judge import judge
from fashiontl.gate.limits import TIMED
from fashiontl.gate.raw import Answers, Counts, Failure, Raw, Series, Trial, Unavailable
from fashiontl.gate.report import terminal
from fashiontl.gate.result import EXIT_CODES, NO_TIME, GateResult, Verdict
from fashiontl.gate.waivers import Waiver

RENAMED = "resnet18-all-cpu"
SIZES = ("training_peak_memory", "inference_peak_memory")


def judged(*measured: Series, waivers: tuple[Waiver, ...] = (), **fields: Any) -> GateResult:
    """The verdict on a gate of these series; of one cell unless fields say otherwise."""
    values = {"cells": (CELL,), "series": measured, "counts": (), "answers": (), "failures": ()}
    return judge(raw(**{**values, **fields}), waivers, today=TODAY)


def outcome(result: GateResult) -> tuple[Verdict, int]:
    assert result.exit_code == EXIT_CODES[result.verdict]
    return result.verdict, result.exit_code


def test_a_renamed_cell_fails() -> None:
    result = judged(cells=(RENAMED,), new=(RENAMED,), removed=(CELL,))
    assert outcome(result) == ("MISSING", 12)
    result = judged(timed(cell=OTHER), cells=(RENAMED, OTHER), new=(RENAMED,), removed=(CELL,))
    assert outcome(result) == ("MISSING", 12), "also where others are compared"
    assert any(RENAMED in note for note in result.notes)


def test_what_was_asked_for_and_not_measured_fails() -> None:
    assert outcome(judged()) == ("MISSING", 12)
    assert outcome(judged(cells=())) == ("MISSING", 12)
    assert outcome(judged(counts=(Counts(CELL, "parameters", (), ()),))) == ("NO_BASELINE", 11)


@pytest.mark.parametrize("lost", ["latency", "parameters", "accuracy"])
def test_a_number_that_was_not_asked_for_shows_a_shortened_statement(lost: str) -> None:
    counts = (Counts(CELL, "parameters", (1.0,) * 2, (1.0,) * 2),)
    through = replace(timed(), metric="inference_throughput")
    gate = raw(
        cells=(CELL,), series=(timed(), through), counts=counts, answers=(Answers(CELL, (pair(),)),), failures=()
    )
    assert gate.asked is not None
    assert outcome(judge(gate, today=TODAY)) == ("PASS", 0)
    kept = tuple(metric for metric in gate.asked.metrics if metric != lost)
    result = judge(replace(gate, asked=replace(gate.asked, metrics=kept)), today=TODAY)
    assert outcome(result) == ("MISSING", 12)
    assert f"got {lost} as well" in result.notes[0]


@pytest.mark.parametrize("verdict", get_args(Verdict))
def test_only_what_was_compared_and_is_no_worse_exits_0(verdict: Verdict) -> None:
    assert (EXIT_CODES[verdict] == 0) == (verdict in {"PASS", "IMPROVED"})
    assert EXIT_CODES[verdict] != 2, "which says that the command was mistyped"


def test_an_expired_waiver_no_longer_counts() -> None:
    old = waiver(expires=TODAY - timedelta(days=1))
    assert outcome(judged(timed(1.5), waivers=(waiver(),))) == ("PASS", 0)
    result = judged(timed(1.5), waivers=(old,))
    assert outcome(result) == ("REGRESSED", 1)
    assert any("expired on 2026-11-24 and no longer counts" in note for note in result.notes)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("reference", [0.0019, 0.0021])
def test_a_contaminated_reference_kernel_never_passes(factor: float, reference: float) -> None:
    assert outcome(judged(timed(factor, reference_head=(reference,) * 4))) == ("INCONCLUSIVE", 10)


@pytest.mark.parametrize("taken", range(6))
def test_too_few_trials_never_pass(taken: int) -> None:
    expected = ("INCONCLUSIVE", 10) if taken else ("CRASHED", 12)
    assert outcome(judged(Series(CELL, "latency", (trial(),) * taken))) == expected


def test_a_suspect_without_its_confirmation_never_passes() -> None:
    assert outcome(judged(Series(CELL, "latency", timed(1.5).trials[:-1]))) == ("INCONCLUSIVE", 10)


@pytest.mark.parametrize("arm", ["base", "head"])
@pytest.mark.parametrize("kind", ["crashed", "timeout", "oom"])
def test_an_arm_that_crashes_or_hangs_fails(arm: Any, kind: Any) -> None:
    failure = Failure(CELL, arm, kind, "signal 11")
    alone = judged(failures=(failure,))
    assert outcome(alone) == ("CRASHED", 12), "also where nothing else is compared"
    assert [(found.cell, found.verdict, found.reason) for found in alone.findings] == [
        (CELL, "CRASHED", f"{kind} in the {arm}: signal 11")
    ]
    assert "nothing was compared" in alone.notes[0]
    every = judged(cells=(CELL, OTHER), failures=(failure, replace(failure, cell=OTHER)))
    assert outcome(every) == ("CRASHED", 12)
    assert outcome(judged(failures=(failure,), waivers=(waiver(metric="*"),))) == ("MISSING", 12), (
        "a waiver compares nothing"
    )
    assert outcome(judged(timed(), failures=(failure,))) == ("CRASHED", 12), "also after enough trials"
    others = judged(timed(cell=OTHER), cells=(CELL, OTHER), failures=(failure,))
    assert outcome(others) == ("CRASHED", 12), "also beside a cell that passes"


BAD = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -1.0])


@given(BAD, st.sampled_from(["base", "head", "reference_base", "reference_head"]), st.integers(0, 5), st.integers(0, 3))
def test_times_that_are_none_never_pass(bad: float, field: str, number: int, place: int) -> None:
    trials: list[Trial] = [trial() for _ in range(6)]
    times = list(getattr(trials[number], field))
    times[place] = bad
    trials[number] = replace(trials[number], **{field: tuple(times)})
    broken = Series(CELL, "latency", tuple(trials))
    assert outcome(judged(broken)) == ("CRASHED", 12), "also where nothing else is compared"
    assert outcome(judged(broken, timed(cell=OTHER), cells=(CELL, OTHER))) == ("CRASHED", 12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("metric", ["parameters", "inference_peak_memory"])
def test_counts_that_are_none_never_pass(bad: float, metric: str) -> None:
    for base, head in ((bad, 1.0), (1.0, bad), (bad, bad)):
        assert judged(timed(), counts=(Counts(CELL, metric, (base,) * 6, (head,) * 6),)).exit_code == 12


# A file that holds less than was asked for; the statement is that of the whole gate.


def full() -> Raw:
    """Two cells with every kind of number, that pass."""
    timed = tuple(Series(cell, metric, (trial(),) * 6) for cell in (CELL, OTHER) for metric in TIMED)
    counted = tuple(
        Counts(cell, metric, (5.0,) * 6, (5.0,) * 6) for cell in (CELL, OTHER) for metric in ("parameters", *SIZES)
    )
    answers = tuple(Answers(cell, (pair(),), 4) for cell in (CELL, OTHER))
    return raw(series=timed, counts=counted, answers=answers, failures=())


def without(kind: str, keep: Callable[[Any], bool]) -> Raw:
    return replace(full(), **{kind: tuple(one for one in getattr(full(), kind) if keep(one))})


def verdict_of(measured: Raw) -> tuple[Verdict, int]:
    return outcome(judge(measured, today=TODAY))


def test_the_whole_gate_passes() -> None:
    assert verdict_of(full()) == ("PASS", 0)


@pytest.mark.parametrize("kind", ["series", "counts", "answers"])
def test_a_cell_that_is_gone_never_passes(kind: str) -> None:
    less = without(kind, lambda one: one.cell != OTHER)
    assert verdict_of(less) == ("MISSING", 12)
    assert verdict_of(replace(less, cells=(CELL,))) == ("MISSING", 12), "also where the cell is not listed any more"
    nothing = replace(full(), series=(), counts=(), answers=(), cells=())
    assert verdict_of(nothing) == ("MISSING", 12)


def test_what_the_budget_left_no_time_for_is_missing_and_needs_more_time_and_no_waiver() -> None:
    less = replace(without("series", lambda one: False), budget=30.0, seconds=36.0)
    result = judge(less, today=TODAY)
    assert outcome(result) == ("MISSING", 12)
    assert {finding.reason for finding in result.findings if finding.verdict == "MISSING"} == {
        f"the budget of 30 s (--budget) {NO_TIME}"
    }
    assert "--budget MINUTES" in terminal(result)
    assert "fashiontl waive" not in terminal(result)


@pytest.mark.parametrize("metric", [*TIMED, "parameters", *SIZES])
def test_a_metric_that_is_gone_never_passes(metric: str) -> None:
    kind = "series" if metric in TIMED else "counts"
    assert verdict_of(without(kind, lambda one: one.metric != metric)) == ("MISSING", 12), "in every cell"
    assert verdict_of(without(kind, lambda one: (one.cell, one.metric) != (CELL, metric))) == ("MISSING", 12)
    assert verdict_of(replace(full(), **{kind: ()})) == ("MISSING", 12)


def test_a_metric_that_neither_arm_tells_is_said_to_be_so() -> None:
    without_one = without("counts", lambda one: (one.cell, one.metric) != (CELL, "parameters"))
    assert verdict_of(replace(without_one, unavailable=(Unavailable(CELL, "parameters"),))) == ("PASS", 0)


@pytest.mark.parametrize(("base", "head"), [(6, 5), (5, 6), (6, 1), (5, 5), (1, 1), (0, 6), (6, 0), (0, 0)])
@pytest.mark.parametrize("metric", ["parameters", *SIZES])
def test_processes_that_are_gone_never_pass(metric: str, base: int, head: int) -> None:
    counts = tuple(
        replace(one, base=one.base[:base], head=one.head[:head]) if (one.cell, one.metric) == (CELL, metric) else one
        for one in full().counts
    )
    assert verdict_of(replace(full(), counts=counts))[1] != 0


def test_trials_and_slices_that_are_gone_never_pass() -> None:
    first, *others = full().series
    short = replace(first, trials=first.trials[:5])
    assert verdict_of(replace(full(), series=(short, *others))) == ("INCONCLUSIVE", 10)
    few = replace(first, trials=(*first.trials[:5], trial(slices=3)))
    assert verdict_of(replace(full(), series=(few, *others))) == ("CRASHED", 12)


@pytest.mark.parametrize("taken", [0, 1, 15])
def test_an_improvement_that_was_not_confirmed_never_passes(taken: int) -> None:
    faster = timed(0.9)
    assert outcome(judged(faster)) == ("IMPROVED", 0)
    less = replace(faster, trials=faster.trials[: 6 + taken])
    assert outcome(judged(less)) == ("INCONCLUSIVE", 10)


def test_seeds_and_images_that_are_gone_never_pass() -> None:
    first, other = full().answers
    some = replace(first, seeds=(pair(1), pair(2)))
    assert verdict_of(replace(full(), answers=(some, other)))[1] != 0, "the first tells whether others were needed"
    fewer = replace(first, seeds=(pair(0, "110", "110"),))
    assert verdict_of(replace(full(), answers=(fewer, other))) == ("CRASHED", 12)


@pytest.mark.parametrize(
    "fields", [{"base": "f" * 40}, {"head": None}, {"thresholds": {}}, {"cells": ()}, {"metrics": ()}]
)
def test_what_is_not_what_was_asked_for_never_passes(fields: dict[str, Any]) -> None:
    asked = full().asked
    assert asked is not None
    assert verdict_of(replace(full(), asked=replace(asked, **fields))) == ("MISSING", 12)


def test_an_interrupted_gate_never_passes_even_where_inconclusive_may() -> None:
    result = judge(replace(full(), interrupted=True), today=TODAY)
    assert outcome(result) == ("MISSING", 12)
    assert "interrupted" in result.notes[0]
    slow = judged(timed(1.5), interrupted=True)
    assert outcome(slow) == ("REGRESSED", 1), "what was found stays"


def test_a_gate_that_does_not_say_what_was_asked_for_never_passes() -> None:
    result = judge(replace(full(), asked=None), today=TODAY)
    assert outcome(result) == ("MISSING", 12)
    assert "what was asked for is not stated" in result.notes[0]


# A waiver covers no more than it says.


@pytest.mark.parametrize(("ceiling", "code"), [(4.0, 1), (7.9, 1), (8.1, 0), (50.0, 0)])
def test_a_waiver_covers_a_change_up_to_its_ceiling(ceiling: float, code: int) -> None:
    result = judged(timed(1.08), waivers=(waiver(ceiling=ceiling),))
    assert result.exit_code == code
    assert any("does not count: expected a change of" in note for note in result.notes) == bool(code)
