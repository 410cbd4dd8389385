"""What must never pass in silence."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from gate_raws import BASE_COMMIT, CELL, HEAD_COMMIT, OTHER, epoch, pair, raw
from hypothesis import given
from hypothesis import strategies as st

from fashiontl.cli import main
from fashiontl.core.errors import FashiontlError
from fashiontl.gate.asked import TIMED
from fashiontl.gate.judge import judge
from fashiontl.gate.raw import Answers, Counts, Epoch, Failure, Raw, Series, Untold
from fashiontl.gate.rawfile import from_json, to_json
from fashiontl.gate.verdict import EXIT_CODES, Verdict, Word
from fashiontl.gate.waivers import Waiver

TODAY = date(2026, 11, 25)
RENAMED = "resnet18-all-cpu"
SIZES = ("training_peak_memory", "inference_peak_memory")


def series(factor: float = 1.0, cell: str = CELL, **fields: Any) -> Series:
    """As many epochs as decide: those of the screen, and of a confirmation where they would be asked for."""
    fresh = [epoch(factor=factor, stage="confirm", **fields)] * (16 if abs(factor - 1) > 0.02 else 0)
    return Series(cell, "latency", (*[epoch(factor=factor, **fields)] * 6, *fresh))


def judged(*measured: Series, waivers: tuple[Waiver, ...] = (), **fields: Any) -> Verdict:
    """The verdict on a gate of these series; of one cell unless fields say otherwise."""
    values = {"cells": (CELL,), "series": measured, "counts": (), "answers": (), "failures": ()}
    return judge(raw(**{**values, **fields}), waivers, today=TODAY)


def waiver(cell: str = CELL, expires: date = TODAY, metric: str = "*", ceiling: float = 100.0) -> Waiver:
    return Waiver("w1", cell, metric, ceiling, "Ada", "as agreed", expires, Path("w1.toml"))


def outcome(verdict: Verdict) -> tuple[Word, int]:
    assert verdict.exit_code == EXIT_CODES[verdict.word]
    return verdict.word, verdict.exit_code


def test_a_renamed_cell_fails() -> None:
    verdict = judged(cells=(RENAMED,), new=(RENAMED,), removed=(CELL,))
    assert outcome(verdict) == ("MISSING", 12)
    verdict = judged(series(cell=OTHER), cells=(RENAMED, OTHER), new=(RENAMED,), removed=(CELL,))
    assert outcome(verdict) == ("MISSING", 12), "also where others are compared"
    assert any(RENAMED in note for note in verdict.notes)


def test_new_cells_alone_are_no_comparison() -> None:
    verdict = judged(series(1.5), new=(CELL,))
    assert outcome(verdict) == ("MISSING", 12)
    assert "nothing was compared" in verdict.notes[0]


def test_a_new_cell_beside_others_is_listed() -> None:
    verdict = judged(series(), series(1.5, OTHER), cells=(CELL, OTHER), new=(OTHER,))
    assert outcome(verdict) == ("PASS", 0)
    assert f"new, so with nothing to compare with: {OTHER}" in verdict.notes


def test_what_was_asked_for_and_not_measured_fails() -> None:
    assert outcome(judged()) == ("MISSING", 12)
    assert outcome(judged(cells=())) == ("MISSING", 12)
    assert outcome(judged(counts=(Counts(CELL, "parameters", (), ()),))) == ("NO_BASELINE", 11)


@pytest.mark.parametrize("lost", ["latency", "parameters", "accuracy"])
def test_a_number_that_was_not_asked_for_shows_a_shortened_statement(lost: str) -> None:
    counts = (Counts(CELL, "parameters", (1.0,) * 2, (1.0,) * 2),)
    through = replace(series(), metric="inference_throughput")
    gate = raw(
        cells=(CELL,), series=(series(), through), counts=counts, answers=(Answers(CELL, (pair(),)),), failures=()
    )
    assert gate.asked is not None
    assert outcome(judge(gate, today=TODAY)) == ("PASS", 0)
    kept = tuple(metric for metric in gate.asked.metrics if metric != lost)
    verdict = judge(replace(gate, asked=replace(gate.asked, metrics=kept)), today=TODAY)
    assert outcome(verdict) == ("MISSING", 12)
    assert f"got {lost} as well" in verdict.notes[0]


def test_everything_skipped_fails() -> None:
    lacking = tuple(Failure(cell, "head", "missing", "not here") for cell in (CELL, OTHER))
    assert outcome(judged(cells=(CELL, OTHER), failures=lacking)) == ("MISSING", 12)


def test_a_slowdown_fails_without_being_asked_to() -> None:
    assert outcome(judged(series(1.5))) == ("REGRESSED", 1)


@pytest.mark.parametrize("word", get_args(Word))
def test_only_what_was_compared_and_is_no_worse_exits_0(word: Word) -> None:
    assert (EXIT_CODES[word] == 0) == (word in {"PASS", "IMPROVED"})
    assert EXIT_CODES[word] != 2, "which says that the command was mistyped"


def test_a_removed_cell_fails_unless_waived() -> None:
    assert outcome(judged(series(), removed=(OTHER,))) == ("MISSING", 12)
    assert outcome(judged(series(), removed=(OTHER,), waivers=(waiver(OTHER),))) == ("PASS", 0)


def test_no_cell_in_common_is_12_even_where_all_is_waived() -> None:
    apart = {"cells": (CELL,), "new": (CELL,), "removed": (OTHER,)}
    assert outcome(judged(series(), **apart)) == ("MISSING", 12)
    assert outcome(judged(series(), **apart, waivers=(waiver(CELL), waiver(OTHER)))) == ("MISSING", 12)


def test_an_expired_waiver_no_longer_counts() -> None:
    old = waiver(expires=TODAY - timedelta(days=1), metric="latency")
    assert outcome(judged(series(1.5), waivers=(waiver(metric="latency"),))) == ("PASS", 0)
    verdict = judged(series(1.5), waivers=(old,))
    assert outcome(verdict) == ("REGRESSED", 1)
    assert any("expired on 2026-11-24 and no longer counts" in note for note in verdict.notes)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("control", [0.0019, 0.0021])
def test_a_contaminated_control_never_passes(factor: float, control: float) -> None:
    assert outcome(judged(series(factor, control_head=(control,) * 4))) == ("INCONCLUSIVE", 10)


@pytest.mark.parametrize("taken", range(6))
def test_too_few_epochs_never_pass(taken: int) -> None:
    expected = ("INCONCLUSIVE", 10) if taken else ("CRASHED", 12)
    assert outcome(judged(Series(CELL, "latency", (epoch(),) * taken))) == expected


def test_a_suspect_without_its_confirmation_never_passes() -> None:
    assert outcome(judged(Series(CELL, "latency", series(1.5).epochs[:-1]))) == ("INCONCLUSIVE", 10)


@pytest.mark.parametrize("arm", ["base", "head"])
@pytest.mark.parametrize("kind", ["crashed", "timeout", "oom"])
def test_an_arm_that_crashes_or_hangs_fails(arm: Any, kind: Any) -> None:
    failure = Failure(CELL, arm, kind, "signal 11")
    alone = judged(failures=(failure,))
    assert outcome(alone) == ("CRASHED", 12), "also where nothing else is compared"
    assert [(found.cell, found.word, found.reason) for found in alone.findings] == [
        (CELL, "CRASHED", f"{kind} in the {arm}: signal 11")
    ]
    assert "nothing was compared" in alone.notes[0]
    every = judged(cells=(CELL, OTHER), failures=(failure, replace(failure, cell=OTHER)))
    assert outcome(every) == ("CRASHED", 12)
    assert outcome(judged(failures=(failure,), waivers=(waiver(),))) == ("MISSING", 12), "a waiver compares nothing"
    assert outcome(judged(series(), failures=(failure,))) == ("CRASHED", 12), "also after enough epochs"
    others = judged(series(cell=OTHER), cells=(CELL, OTHER), failures=(failure,))
    assert outcome(others) == ("CRASHED", 12), "also beside a cell that passes"


BAD = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -1.0])


@given(BAD, st.sampled_from(["base", "head", "control_base", "control_head"]), st.integers(0, 5), st.integers(0, 3))
def test_times_that_are_none_never_pass(bad: float, field: str, number: int, place: int) -> None:
    epochs: list[Epoch] = [epoch() for _ in range(6)]
    times = list(getattr(epochs[number], field))
    times[place] = bad
    epochs[number] = replace(epochs[number], **{field: tuple(times)})
    broken = Series(CELL, "latency", tuple(epochs))
    assert outcome(judged(broken)) == ("CRASHED", 12), "also where nothing else is compared"
    assert outcome(judged(broken, series(cell=OTHER), cells=(CELL, OTHER))) == ("CRASHED", 12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("metric", ["parameters", "inference_peak_memory"])
def test_counts_that_are_none_never_pass(bad: float, metric: str) -> None:
    for base, head in ((bad, 1.0), (1.0, bad), (bad, bad)):
        assert judged(series(), counts=(Counts(CELL, metric, (base,) * 6, (head,) * 6),)).exit_code == 12


# A file that holds less than was asked for; the statement is that of the whole gate.


def full() -> Raw:
    """Two cells with every kind of number, that pass."""
    timed = tuple(Series(cell, metric, (epoch(),) * 6) for cell in (CELL, OTHER) for metric in TIMED)
    counted = tuple(
        Counts(cell, metric, (5.0,) * 6, (5.0,) * 6) for cell in (CELL, OTHER) for metric in ("parameters", *SIZES)
    )
    answers = tuple(Answers(cell, (pair(),), 4) for cell in (CELL, OTHER))
    return raw(series=timed, counts=counted, answers=answers, failures=())


def without(kind: str, keep: Callable[[Any], bool]) -> Raw:
    return replace(full(), **{kind: tuple(one for one in getattr(full(), kind) if keep(one))})


def verdict_of(measured: Raw) -> tuple[Word, int]:
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


@pytest.mark.parametrize("metric", [*TIMED, "parameters", *SIZES])
def test_a_metric_that_is_gone_never_passes(metric: str) -> None:
    kind = "series" if metric in TIMED else "counts"
    assert verdict_of(without(kind, lambda one: one.metric != metric)) == ("MISSING", 12), "in every cell"
    assert verdict_of(without(kind, lambda one: (one.cell, one.metric) != (CELL, metric))) == ("MISSING", 12)
    assert verdict_of(replace(full(), **{kind: ()})) == ("MISSING", 12)


def test_accuracy_that_is_gone_never_passes() -> None:
    assert verdict_of(replace(full(), answers=())) == ("MISSING", 12)


def test_a_metric_that_neither_arm_tells_is_said_to_be_so() -> None:
    told = without("counts", lambda one: (one.cell, one.metric) != (CELL, "parameters"))
    assert verdict_of(replace(told, untold=(Untold(CELL, "parameters"),))) == ("PASS", 0)


@pytest.mark.parametrize(("base", "head"), [(6, 5), (5, 6), (6, 1), (5, 5), (1, 1), (0, 6), (6, 0), (0, 0)])
@pytest.mark.parametrize("metric", ["parameters", *SIZES])
def test_processes_that_are_gone_never_pass(metric: str, base: int, head: int) -> None:
    counts = tuple(
        replace(one, base=one.base[:base], head=one.head[:head]) if (one.cell, one.metric) == (CELL, metric) else one
        for one in full().counts
    )
    assert verdict_of(replace(full(), counts=counts))[1] != 0


def test_epochs_and_slices_that_are_gone_never_pass() -> None:
    first, *others = full().series
    short = replace(first, epochs=first.epochs[:5])
    assert verdict_of(replace(full(), series=(short, *others))) == ("INCONCLUSIVE", 10)
    few = replace(first, epochs=(*first.epochs[:5], epoch(slices=3)))
    assert verdict_of(replace(full(), series=(few, *others))) == ("CRASHED", 12)


@pytest.mark.parametrize("taken", [0, 1, 15])
def test_an_improvement_that_was_not_confirmed_never_passes(taken: int) -> None:
    faster = series(0.9)
    assert outcome(judged(faster)) == ("IMPROVED", 0)
    less = replace(faster, epochs=faster.epochs[: 6 + taken])
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
    verdict = judge(replace(full(), interrupted=True), today=TODAY)
    assert outcome(verdict) == ("MISSING", 12)
    assert "interrupted" in verdict.notes[0]
    slow = judged(series(1.5), interrupted=True)
    assert outcome(slow) == ("REGRESSED", 1), "what was found stays"


def test_a_gate_that_does_not_say_what_was_asked_for_never_passes() -> None:
    verdict = judge(replace(full(), asked=None), today=TODAY)
    assert outcome(verdict) == ("MISSING", 12)
    assert "what was asked for is not stated" in verdict.notes[0]


def test_a_file_of_schema_1_is_read_and_never_passes(tmp_path: Path) -> None:
    entry = json.loads(to_json(full()))
    for name in ("asked", "untold", "interrupted"):
        del entry[name]
    for answers in entry["answers"]:
        del answers["images"]
    text = json.dumps(entry | {"schema": 1})
    assert verdict_of(from_json(text, "old.json")) == ("MISSING", 12)
    (tmp_path / "old.json").write_text(text)
    for more in ([], ["--inconclusive", "warn"]):
        options = ["gate", "--replay", str(tmp_path / "old.json"), "--results", str(tmp_path)]
        assert main([*options, *more]) == 12


def test_what_a_gate_states_is_kept_in_its_file() -> None:
    entry = json.loads(to_json(full()))["asked"]
    assert entry["cells"] == [CELL, OTHER]
    assert set(entry["metrics"]) == {*TIMED, "parameters", *SIZES, "accuracy"}
    assert entry["processes"] == {CELL: 6, OTHER: 6}
    assert entry["settings"]["preset"] == "quick"
    assert (entry["base"], entry["head"]) == (BASE_COMMIT, HEAD_COMMIT)
    assert entry["thresholds"]["limits"]["latency"]["tolerated"] == 0.02
    assert from_json(to_json(full()), "gate.json") == full()


@given(st.integers(1, 10_000))
def test_a_file_that_is_cut_is_no_file(place: int) -> None:
    text = to_json(full())
    with pytest.raises(FashiontlError, match="expected JSON, got"):
        from_json(text[:-place], "gate.json")


# A waiver covers no more than it says.


@pytest.mark.parametrize(("ceiling", "code"), [(4.0, 1), (7.9, 1), (8.1, 0), (50.0, 0)])
def test_a_waiver_covers_a_change_up_to_its_ceiling(ceiling: float, code: int) -> None:
    verdict = judged(series(1.08), waivers=(waiver(metric="latency", ceiling=ceiling),))
    assert verdict.exit_code == code
    assert any("does not count: expected a change of" in note for note in verdict.notes) == bool(code)


def test_a_waiver_of_the_whole_cell_waives_no_slowdown() -> None:
    assert outcome(judged(series(1.08), waivers=(waiver(ceiling=1000.0),))) == ("REGRESSED", 1)
