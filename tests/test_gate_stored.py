import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import LAPTOP, SERVER, failed, record

from fashiontl.core.case import PRESETS, Case
from fashiontl.core.metrics import Measurement
from fashiontl.gate.baselines import Baseline, baseline_of
from fashiontl.gate.rawfile import from_json, to_json
from fashiontl.gate.report import markdown, terminal
from fashiontl.gate.stored import judge_stored
from fashiontl.gate.verdict import Finding, Verdict
from fashiontl.gate.waivers import Waiver
from fashiontl.machine.environment import machine_key
from fashiontl.records import Record

CASE, OTHER = Case("resnet18", "full"), Case("vgg11", "linear_probe")
FIRST = datetime.fromisoformat("2026-11-01T00:00:00+00:00")
TODAY = date(2026, 11, 25)
# Medians of eight runs with a standard deviation of 1 % between them.
EIGHT = [0.01 * math.exp(step) for step in (-0.015, -0.01, -0.005, 0, 0, 0.005, 0.01, 0.015)]
MAKE = "pytest bench/ && fashiontl baseline add"


def measured(number: int = 0, case: Case = CASE, *, values: Mapping[str, float], **fields: Any) -> Record:
    """A record of a run with a number, which began so many hours after the first."""
    made = {
        "run": f"run{number:03}",
        "started": (FIRST + timedelta(hours=number)).isoformat(),
        "measurements": tuple(
            Measurement(name, (value,), 800 if name == "accuracy" else 0) for name, value in values.items()
        ),
    }
    return record(case, **{**made, **fields})


def before(metric: str, values: Sequence[float], **fields: Any) -> list[Baseline]:
    return [baseline_of([measured(index, values={metric: each}, **fields)]) for index, each in enumerate(values)]


def judged(metric: str, values: Sequence[float], now: float, **fields: Any) -> Finding:
    (finding,) = judge_stored(
        [measured(99, values={metric: now}, **fields)], before(metric, values, **fields), today=TODAY
    ).findings
    return finding


def verdict(records: Sequence[Record], baselines: Sequence[Baseline], **options: Any) -> Verdict:
    return judge_stored(records, baselines, today=TODAY, **options)


def told(made: Verdict) -> list[tuple[str, str, str]]:
    return [(finding.cell, finding.metric, finding.word) for finding in made.findings]


def test_the_interval_is_that_of_one_more_run() -> None:
    logarithms = [math.log(value) for value in EIGHT]
    finding = judged("latency", EIGHT, 0.0102)
    # Student's t with 7 degrees of freedom is beyond 2.998 once in a hundred times.
    half = 2.99795 * stdev(logarithms) * math.sqrt(1 + 1 / 8)
    off = math.log(0.0102) - fmean(logarithms)
    assert finding.base == pytest.approx(0.01)
    assert finding.head == 0.0102
    assert finding.change is not None
    assert finding.change.estimate == pytest.approx(0.02)
    assert finding.change.low == pytest.approx(math.expm1(off - half), abs=1e-6)
    assert finding.change.high == pytest.approx(math.expm1(off + half), abs=1e-6)


@pytest.mark.parametrize(
    ("metric", "values", "now", "word", "reason"),
    [
        ("latency", EIGHT, 0.01, "PASS", "+0.0 % is at most +2.0 %, where +5.0 % must be found; 8 runs"),
        ("latency", EIGHT, 0.0102, "PASS", "+2.0 % is at most +4.1 %, where +5.0 % must be found; 8 runs"),
        ("latency", EIGHT, 0.009, "PASS", "-10.0 % is at most -8.2 %, where +5.0 % must be found; 8 runs"),
        ("latency", EIGHT, 0.0103, "INCONCLUSIVE",
         "+3.0 % could be +5.1 %, where +5.0 % must be found: 8 runs scatter too much"),
        ("latency", EIGHT, 0.0106, "SUSPECT",
         "+6.0 % is beyond +3.2 %, the 99 % bound of one more run after 8, and +2.0 %, the tolerated"),
        ("train_throughput", [1 / value for value in EIGHT], 1 / 0.0106, "SUSPECT",
         "+6.0 % is beyond +3.2 %, the 99 % bound of one more run after 8, and +2.0 %, the tolerated"),
        ("train_throughput", [1 / value for value in EIGHT], 1 / 0.009, "PASS",
         "-10.0 % is at most -8.2 %, where +5.0 % must be found; 8 runs"),
        # Surely slower, and by less than is tolerated.
        ("latency", [0.01] * 8, 0.0101, "PASS", "+1.0 % is at most +1.0 %, where +5.0 % must be found; 8 runs"),
        ("latency", [0.01] * 8, 0.0103, "SUSPECT",
         "+3.0 % is beyond +0.0 %, the 99 % bound of one more run after 8, and +2.0 %, the tolerated"),
        ("inference_peak_memory", [1e8] * 8, 1.04e8, "PASS",
         "+4.0 % is at most +4.0 %, where +10.0 % must be found; 8 runs"),
        ("accuracy", [0.9] * 8, 0.9, "PASS",
         "+0.00 points is at most +0.00 points, where +0.50 points must be found; 8 runs"),
        ("accuracy", [0.9] * 8, 0.89, "SUSPECT",
         "+1.00 points is beyond +0.00 points, the 99 % bound of one more run after 8, and +0.10 points, the "
         "tolerated"),
        ("accuracy", [0.0] * 8, 0.5, "PASS",
         "-50.00 points is at most -50.00 points, where +0.50 points must be found; 8 runs"),
        ("inference_peak_memory", [1e8] * 8, 0.0, "INCONCLUSIVE", "a number of 0 or less has no relative change"),
    ],
)  # fmt: skip
def test_what_varies_is_never_regressed(
    metric: str, values: Sequence[float], now: float, word: str, reason: str
) -> None:
    finding = judged(metric, values, now)
    assert (finding.word, finding.reason) == (word, reason)


def test_of_cuda_memory_a_mebibyte_is_tolerated() -> None:
    gpu = {"case": Case("resnet18", "full", "cuda"), "environment": SERVER}
    assert judged("inference_peak_memory", [1e7] * 8, 1.1e7, **gpu).word == "INCONCLUSIVE"
    assert judged("inference_peak_memory", [1e7] * 8, 1.2e7, **gpu).word == "SUSPECT"
    assert judged("inference_peak_memory", [1e7] * 8, 1e7, **gpu).word == "PASS"


@pytest.mark.parametrize(("metric"), ["parameters", "trainable_parameters", "flops", "training_flops"])
def test_one_baseline_is_enough_for_an_exact_number(metric: str) -> None:
    same, more = judged(metric, [1e6], 1e6), judged(metric, [1e6], 1e6 + 1)
    assert (same.word, same.reason, same.change) == ("PASS", "equals the newest baseline", None)
    assert (more.word, more.reason) == ("REGRESSED", "expected 1000000 as before, got 1000001")
    assert more.change is not None
    assert more.change.estimate == pytest.approx(1e-6)


def test_an_exact_number_is_compared_with_the_newest() -> None:
    assert judged("flops", [1e6, 1e6, 2e6], 2e6).word == "PASS"
    finding = judged("flops", [1e6, 1e6, 2e6], 1e6)
    assert finding.word == "REGRESSED"
    assert finding.reason == "expected 2000000 as before, got 1000000; earlier baselines differ from it"
    assert judged("flops", [0.0], 1.0).word == "REGRESSED"


def test_seven_runs_are_too_few() -> None:
    made = verdict([measured(99, values={"latency": 0.01})], before("latency", EIGHT[:7]))
    assert (made.word, made.exit_code) == ("NO_BASELINE", 11)
    assert made.findings[0].reason == (
        f"7 of 8 independent runs of latency; 1 more time, at least an hour apart: {MAKE}"
    )


def test_runs_that_followed_each_other_are_one() -> None:
    same_hour = [dataclasses.replace(each, started=FIRST.isoformat()) for each in before("latency", EIGHT)]
    made = verdict([measured(99, values={"latency": 0.01})], same_hour)
    assert told(made) == [(CASE.id, "*", "NO_BASELINE")]
    assert "1 of 8 independent runs of latency; 7 more times" in made.findings[0].reason


def test_exact_numbers_are_judged_where_runs_are_too_few_for_timings() -> None:
    now = measured(99, values={"latency": 0.01, "parameters": 2.0, "accuracy": 0.9})
    made = verdict([now], before("parameters", [1.0]))
    assert told(made) == [(CASE.id, "parameters", "REGRESSED"), (CASE.id, "*", "NO_BASELINE")]
    assert (made.word, made.exit_code) == ("REGRESSED", 1)
    assert "0 of 8 independent runs of latency, accuracy" in made.findings[1].reason


def test_a_run_is_no_baseline_of_itself() -> None:
    own = measured(3, values={"latency": 0.02})
    made = verdict([own], [*before("latency", EIGHT[:3]), baseline_of([own])])
    assert "3 of 8" in made.findings[0].reason


def test_without_a_baseline_the_command_that_makes_one_is_told() -> None:
    made = verdict([measured(99, values={"latency": 0.01})], [])
    assert (made.word, made.exit_code) == ("NO_BASELINE", 11)
    assert made.findings[0].reason == f"no baseline of {machine_key(LAPTOP)}; make one: {MAKE}"
    assert MAKE in terminal(made)


def test_another_machine_is_no_baseline() -> None:
    made = verdict([measured(99, values={"latency": 0.01})], before("latency", EIGHT, environment=SERVER))
    assert told(made) == [(CASE.id, "*", "NO_BASELINE")]
    assert made.findings[0].reason == (
        f"no baseline of {machine_key(LAPTOP)}, only of other machines ({machine_key(SERVER)}); make one here: {MAKE}"
    )


def test_other_settings_are_no_baseline() -> None:
    settings = dataclasses.replace(PRESETS["quick"], throughput_batch=64)
    made = verdict([measured(99, values={"latency": 0.01})], before("latency", EIGHT, settings=settings))
    assert made.word == "NO_BASELINE"
    assert "were measured with other settings" in made.findings[0].reason


def test_a_new_cell_has_no_baseline() -> None:
    now = [measured(99, values={"latency": 0.01}), measured(99, OTHER, values={"latency": 0.01})]
    made = verdict(now, before("latency", EIGHT))
    assert told(made) == [(CASE.id, "latency", "PASS"), (OTHER.id, "*", "NO_BASELINE")]
    assert made.findings[1].reason == f"no baseline has this cell; make one: {MAKE}"
    assert made.exit_code == 11


def test_a_cell_that_the_run_lacks_is_missing() -> None:
    made = verdict([measured(99, values={"latency": 0.01})], [
        *before("latency", EIGHT), baseline_of([measured(8, OTHER, values={"latency": 0.01})]),
    ])  # fmt: skip
    assert told(made) == [(CASE.id, "latency", "PASS"), (OTHER.id, "*", "MISSING")]
    assert (made.word, made.exit_code, made.raw.removed) == ("MISSING", 12, (OTHER.id,))


def test_a_cell_that_was_not_asked_for_is_not_missing() -> None:
    old = [*before("latency", EIGHT), baseline_of([measured(8, OTHER, values={"latency": 0.01})])]
    made = verdict([measured(99, values={"latency": 0.01})], old, asked={CASE.id})
    assert told(made) == [(CASE.id, "latency", "PASS")]


def test_a_number_that_the_run_lacks_is_missing() -> None:
    made = verdict([measured(99, values={"flops": 1.0})], before("latency", EIGHT))
    assert told(made) == [(CASE.id, "latency", "MISSING"), (CASE.id, "*", "NO_BASELINE")]
    assert made.findings[0].base == pytest.approx(0.01)


def test_a_cell_without_numbers_that_are_judged_never_passes() -> None:
    made = verdict([measured(99, values={"wall_time": 1.0})], before("wall_time", [1.0]))
    assert (told(made), made.exit_code) == ([(CASE.id, "*", "MISSING")], 12)


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ("crashed", "CRASHED"),
        ("diverged", "CRASHED"),
        ("oom", "CRASHED"),
        ("timeout", "CRASHED"),
        ("invalid", "CRASHED"),
        ("skipped", "MISSING"),
    ],
)
def test_a_cell_that_failed_never_passes(status: str, word: str) -> None:
    now = failed(CASE, status, "because", run="run099")
    made = verdict([now], before("latency", EIGHT))
    assert told(made) == [(CASE.id, "*", word)]
    assert made.findings[0].reason == f"{status}: because"
    assert made.exit_code == 12


def waiver(expires: date, metric: str = "parameters") -> Waiver:
    return Waiver("w1", CASE.id, metric, 100.0, "Ada", "a new head", expires, Path("w1.toml"))


def test_a_waiver_counts_until_it_expires() -> None:
    now, old = [measured(99, values={"parameters": 2.0})], before("parameters", [1.0])
    made = verdict(now, old, waivers=[waiver(TODAY)])
    assert (made.word, made.exit_code) == ("PASS", 0)
    assert made.findings[0].waiver == "waived up to 100 % by Ada until 2026-11-25: a new head"
    made = verdict(now, old, waivers=[waiver(TODAY - timedelta(days=1))])
    assert (made.word, made.exit_code) == ("REGRESSED", 1)
    assert [note for note in made.notes if "expired" in note] == [
        "waiver w1 of Ada expired on 2026-11-24 and no longer counts: a new head"
    ]


def test_it_says_what_was_compared() -> None:
    dirty = dataclasses.replace(LAPTOP, git_dirty=True)
    old = [*before("latency", EIGHT), baseline_of([measured(30, values={"latency": 0.01}, environment=dirty)])]
    made = verdict([measured(99, values={"latency": 0.01}, warnings=("another process used 1 core",))], old)
    assert made.notes == (
        "compared with 9 runs from 2026-11-01 to 2026-11-02 of this machine, 9 independent ones",
        "measured with changes that were not committed: run030",
        "stored timings cannot fail: SUSPECT asks for `fashiontl gate --base REF` on this machine",
        "another process used 1 core",
    )
    assert made.raw.base.ref == "stored: 9 runs from 2026-11-01 to 2026-11-02"
    assert made.raw.head.ref == "run run099"
    (counts,) = made.raw.counts
    assert (len(counts.base), counts.head) == (9, (0.01,))


def test_it_can_be_reported_and_kept() -> None:
    made = verdict([measured(99, values={"latency": 0.0106})], before("latency", EIGHT))
    assert (made.word, made.exit_code) == ("SUSPECT", 10)
    assert from_json(to_json(made.raw), "gate.json") == made.raw
    assert "compare head to head: `fashiontl gate --base 0123456789abcdef" in markdown(made)
    assert "--arch resnet18 --policy full --device cpu" in markdown(made)


LOGS = st.lists(st.floats(-0.2, 0.2), min_size=8, max_size=12)


@given(LOGS, st.floats(-0.3, 0.3), st.floats(0.1, 10))
def test_the_unit_and_which_way_is_better_do_not_matter(logs: list[float], off: float, unit: float) -> None:
    values, now = [0.01 * math.exp(each) for each in logs], 0.01 * math.exp(off)
    latency = judged("latency", values, now)
    scaled = judged("latency", [unit * value for value in values], unit * now)
    inverse = judged("inference_throughput", [1 / value for value in values], 1 / now)
    assert latency.change is not None
    for other in (scaled, inverse):
        assert other.change is not None
        assert other.change.estimate == pytest.approx(latency.change.estimate, abs=1e-9)
        assert other.change.high == pytest.approx(latency.change.high, abs=1e-9)


@pytest.mark.slow
def test_an_unchanged_machine_is_suspected_once_in_a_hundred_times_at_most_and_a_slow_one_rarely_passes() -> None:
    draw = random.Random(1)

    def words(shift: float, rounds: int = 1500) -> list[str]:
        made = []
        for _ in range(rounds):
            values = [0.01 * math.exp(draw.gauss(0, 0.012)) for _ in EIGHT]
            made.append(judged("latency", values, 0.01 * math.exp(draw.gauss(0, 0.012) + shift)).word)
        return made

    unchanged, slower = words(0.0), words(math.log1p(0.05))
    # Four standard deviations of a binomial count around the 1 % and 5 % that the bounds promise.
    assert unchanged.count("SUSPECT") <= 1500 * 0.01 + 4 * math.sqrt(1500 * 0.01)
    assert slower.count("PASS") <= 1500 * 0.05 + 4 * math.sqrt(1500 * 0.05)
    assert set(unchanged + slower) <= {"PASS", "SUSPECT", "INCONCLUSIVE"}
