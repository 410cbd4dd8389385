from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from gate_raws import CELL, EXPLAINED, OTHER, epoch, pair, raw

from fashiontl.core.errors import FashiontlError
from fashiontl.gate.judge import judge
from fashiontl.gate.raw import Answers, Counts, Epoch, Failure, Raw, Series
from fashiontl.gate.rawfile import from_json, to_json
from fashiontl.gate.verdict import Finding, Verdict
from fashiontl.gate.waivers import Waiver

TODAY = date(2026, 11, 25)


def waiver(**fields: Any) -> Waiver:
    values = {
        "id": "w1", "cell": CELL, "metric": "latency", "ceiling": 100.0, "owner": "ann", "reason": "asked for",
        "expires": TODAY, "path": Path("w1.toml"),
    }  # fmt: skip
    return Waiver(**{**values, **fields})


def timed(factor: float = 1.0, cell: str = CELL, metric: str = "latency", *, images: int = 1) -> Series:
    epochs = [epoch(factor=factor) for _ in range(6)]
    if abs(factor - 1) > 0.02:
        epochs += [epoch(factor=factor, stage="confirm") for _ in range(16)]
    return Series(cell, metric, tuple(epochs), images)


def gate(*series: Series, **fields: Any) -> Raw:
    """Two cells that were measured and are the same, unless fields say otherwise."""
    values = {
        "series": series or (timed(), timed(cell=OTHER)), "counts": (), "answers": (), "failures": (),
    }  # fmt: skip
    return raw(**{**values, **fields})


def judged(measured: Raw, *waivers: Waiver) -> Verdict:
    return judge(measured, waivers, today=TODAY)


def finding(verdict: Verdict, cell: str = CELL, metric: str = "latency") -> Finding:
    (found,) = [f for f in verdict.findings if (f.cell, f.metric, f.advisory) == (cell, metric, False)]
    return found


def test_a_gate_without_change_passes() -> None:
    verdict = judged(gate())
    assert (verdict.word, verdict.exit_code) == ("PASS", 0)
    assert [(f.cell, f.metric, f.word, f.advisory) for f in verdict.findings] == [
        (CELL, "latency", "PASS", False),
        (CELL, "latency", "PASS", True),
        (OTHER, "latency", "PASS", False),
        (OTHER, "latency", "PASS", True),
    ]


def test_a_confirmed_slowdown_fails() -> None:
    verdict = judged(gate(timed(1.08), timed(cell=OTHER)))
    assert (verdict.word, verdict.exit_code) == ("REGRESSED", 1)
    found = finding(verdict)
    assert found.base == pytest.approx(0.010015)
    assert found.head == pytest.approx(0.010015 * 1.08)
    assert found.epochs == (6, 16)


def test_a_speedup_is_told_and_fails_nothing() -> None:
    verdict = judged(gate(timed(0.9), timed(cell=OTHER)))
    assert (verdict.word, verdict.exit_code) == ("IMPROVED", 0)


@pytest.mark.parametrize("metric", ["train_throughput", "inference_throughput"])
def test_throughput_is_shown_in_images_and_judged_by_seconds(metric: str) -> None:
    found = finding(judged(gate(timed(1.08, metric=metric, images=32), cells=(CELL,))), metric=metric)
    assert found.word == "REGRESSED"
    assert found.base == pytest.approx(32 / 0.010015)
    assert found.head == pytest.approx(32 / 0.010015 / 1.08)
    assert found.change is not None
    assert found.change.estimate == pytest.approx(0.08)


def test_the_tail_is_shown_and_decides_nothing() -> None:
    calm = epoch(slices=12)
    stalled = replace(calm, head=(*calm.head[:-1], 0.02))
    verdict = judged(gate(Series(CELL, "latency", (stalled,) * 6), cells=(CELL,)))
    assert verdict.exit_code == 0
    (tail,) = [f for f in verdict.findings if f.advisory]
    assert (tail.word, tail.epochs) == ("SUSPECT", (6, 0))
    assert tail.change is not None
    assert tail.change.low > 0.05


@pytest.mark.parametrize("taken", range(1, 6))
def test_too_few_epochs_are_inconclusive(taken: int) -> None:
    verdict = judged(gate(Series(CELL, "latency", (epoch(),) * taken), cells=(CELL,)))
    assert (verdict.word, verdict.exit_code) == ("INCONCLUSIVE", 10)


@pytest.mark.parametrize(
    "epochs",
    [
        (),
        (epoch(),) * 6 + (epoch(head=(0.01,) * 3),),
        (epoch(),) * 6 + (epoch(head=(0.0,) * 4),),
        (epoch(),) * 6 + (epoch(base=(float("nan"),) * 4),),
        (epoch(),) * 6 + (epoch(control_base=(), control_head=()),),
    ],
)
def test_epochs_that_are_none_crash_even_where_others_would_decide(epochs: tuple[Epoch, ...]) -> None:
    verdict = judged(gate(Series(CELL, "latency", epochs), timed(cell=OTHER)))
    assert finding(verdict).word == "CRASHED"
    assert verdict.exit_code == 12


def test_a_contaminated_series_is_inconclusive() -> None:
    contaminated = tuple(replace(each, control_head=(0.0021,) * 4) for each in timed(1.08).epochs)
    verdict = judged(gate(Series(CELL, "latency", contaminated), timed(cell=OTHER)))
    assert (finding(verdict).word, verdict.exit_code) == ("INCONCLUSIVE", 10)


def test_a_cell_that_was_asked_for_and_not_measured_is_missing() -> None:
    verdict = judged(gate(timed()))
    assert finding(verdict, OTHER, "*").word == "MISSING"
    assert (verdict.word, verdict.exit_code) == ("MISSING", 12)


def test_counts_do_not_stand_in_for_epochs() -> None:
    verdict = judged(gate(timed(), counts=(Counts(OTHER, "parameters", (5.0,), (5.0,)),)))
    assert finding(verdict, OTHER, "*").word == "MISSING"


def test_a_metric_that_other_cells_have_is_missing() -> None:
    series = (timed(), timed(metric="train_throughput"), timed(cell=OTHER))
    verdict = judged(gate(*series))
    assert finding(verdict, OTHER, "train_throughput").word == "MISSING"
    assert verdict.exit_code == 12


@pytest.mark.parametrize(
    ("kind", "word"), [("missing", "MISSING"), ("crashed", "CRASHED"), ("timeout", "CRASHED"), ("oom", "CRASHED")]
)
@pytest.mark.parametrize("arm", ["base", "head"])
def test_failures_fail(kind: Any, word: str, arm: Any) -> None:
    verdict = judged(gate(timed(), failures=(Failure(OTHER, arm, kind, "so it was"),)))
    assert finding(verdict, OTHER, "*").word == word
    assert finding(verdict, OTHER, "*").reason == f"{kind} in the {arm}: so it was"
    assert (verdict.word, verdict.exit_code) == (word, 12)


@pytest.mark.parametrize(("arm", "values"), [("base", ((), (5.0,))), ("head", ((5.0,), ()))])
def test_what_an_arm_that_crashed_did_not_count_is_no_finding_of_its_own(arm: Any, values: Any) -> None:
    failure = Failure(OTHER, arm, "crashed", "inference: RuntimeError: no")
    counts = (Counts(OTHER, "parameters", *values), Counts(OTHER, "flops", (5.0,), (6.0,)))
    verdict = judged(gate(timed(), counts=counts, failures=(failure,)))
    assert verdict.word == "CRASHED"
    assert [(f.metric, f.word) for f in verdict.findings if f.cell == OTHER] == [
        ("*", "CRASHED"), ("flops", "REGRESSED"),
    ]  # fmt: skip
    alone = judged(
        raw(series=(), answers=(), counts=counts[:1], failures=(failure,), cells=(OTHER,)),
        waiver(cell=OTHER, metric="*"),
    )
    assert alone.exit_code == 12, "a waiver of the crash lets nothing pass that was not compared"


def test_cells_that_only_the_head_has_say_what_to_compare_with() -> None:
    verdict = judged(gate(timed(), cells=(CELL,), new=(CELL,)))
    assert (verdict.word, verdict.exit_code) == ("MISSING", 12)
    assert verdict.notes[0].endswith("nothing passed; name a base that has these cells")


def test_a_new_cell_is_listed_and_not_judged() -> None:
    failures = (Failure(OTHER, "base", "missing", "not there yet"),)
    verdict = judged(gate(timed(), timed(1.5, OTHER), new=(OTHER,), failures=failures))
    assert verdict.exit_code == 0
    assert not [f for f in verdict.findings if f.cell == OTHER]
    assert any(OTHER in note for note in verdict.notes)


def test_a_new_cell_that_crashes_fails() -> None:
    failures = (Failure(OTHER, "head", "crashed", "SIGSEGV"),)
    assert judged(gate(timed(), new=(OTHER,), failures=failures)).exit_code == 12


def test_a_removed_cell_fails_unless_waived() -> None:
    gone = "gone-full-cpu"
    removed = gate(removed=(gone,))
    assert judged(removed).word == "MISSING"
    assert judged(removed, waiver(cell=gone)).exit_code == 12
    verdict = judged(removed, waiver(cell=gone, metric="*"))
    assert verdict.exit_code == 0
    assert finding(verdict, gone, "*").waiver == f"waived up to 100 % by ann until {TODAY}: asked for"


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
    verdict = judged(gate(**fields), *waivers)
    assert verdict.exit_code == 12
    assert "nothing was compared" in verdict.notes[0]


def test_a_waiver_covers_one_finding_and_hides_none() -> None:
    slow = gate(timed(1.08), timed(1.08, OTHER))
    verdict = judged(slow, waiver())
    assert verdict.exit_code == 1
    assert (finding(verdict).word, finding(verdict).waiver[:10]) == ("REGRESSED", "waived up ")
    assert finding(verdict, OTHER).waiver == ""
    assert judged(slow, waiver(), waiver(cell="vgg*")).exit_code == 1, "a cell has one name"
    assert judged(slow, waiver(), waiver(cell=OTHER)).exit_code == 0


def test_a_waiver_of_what_is_harmless_is_not_used() -> None:
    assert finding(judged(gate(), waiver())).waiver == ""


def test_an_expired_waiver_counts_no_longer_and_is_named() -> None:
    old = waiver(expires=date(2026, 11, 24))
    verdict = judged(gate(timed(1.08), timed(cell=OTHER)), old)
    assert verdict.exit_code == 1
    assert any("waiver w1 of ann expired on 2026-11-24" in note for note in verdict.notes)
    assert not any("expired" in note for note in judged(gate(), old).notes)


def test_twice_the_same_metric_is_a_fault() -> None:
    counts = Counts(CELL, "parameters", (5.0,), (5.0,))
    answers = Answers(CELL, (pair(0),))
    for fields in ({"series": (timed(), timed())}, {"counts": (counts,) * 2}, {"answers": (answers,) * 2}):
        verdict = judged(gate(**{"series": (timed(),), "cells": (CELL,), **fields}))
        assert verdict.exit_code == 12
        assert any("is there twice" in f.reason for f in verdict.findings)


@pytest.mark.parametrize("metric", ["wall_time", "accuracy", "no_metric"])
def test_what_has_no_limit_cannot_be_judged(metric: str) -> None:
    assert judged(gate(timed(), timed(metric=metric), cells=(CELL,))).exit_code == 12
    counts = (Counts(CELL, metric, (5.0,), (5.0,)),)
    assert judged(gate(timed(), cells=(CELL,), counts=counts)).exit_code == 12


def test_the_worst_word_decides() -> None:
    slow = (timed(1.08), timed(0.9, OTHER))
    assert judged(gate(*slow)).word == "REGRESSED"
    assert judged(gate(*slow, failures=(Failure(OTHER, "head", "oom", "x"),))).word == "CRASHED"
    assert judged(gate(timed(1.08), Series(OTHER, "latency", (epoch(),)))).word == "REGRESSED"
    assert judged(gate(timed(0.9), Series(OTHER, "latency", (epoch(),)))).word == "INCONCLUSIVE"


def test_a_replay_says_the_same() -> None:
    measured = raw()
    again = from_json(to_json(measured), "gate.json")
    assert judged(again).findings == judged(measured).findings
    assert judged(again).word == "CRASHED"


def test_another_schema_is_not_judged() -> None:
    with pytest.raises(FashiontlError, match="expected measurements of schema 2, got 0"):
        judged(gate(schema=0))


def test_notes_tell_what_a_reader_must_know() -> None:
    measured = gate(doubts=("the clock is coarse",))
    same = replace(measured, head=replace(measured.base, protocol=99))
    assert any("protocol" in note for note in judged(same).notes)
    assert any("both arms are commit 0123456789ab" in note for note in judged(same).notes)
    assert any("working tree, differs" in note for note in judged(measured).notes)
    assert "the clock is coarse" in judged(measured).notes


def test_what_explains_is_passed_on_largest_first() -> None:
    small = replace(EXPLAINED, head_seconds=0.0013)
    assert judge(gate(), (), (small, EXPLAINED), today=TODAY).explained == (EXPLAINED, small)
