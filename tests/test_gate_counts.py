import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashiontl.gate.counts import judge_counts
from fashiontl.gate.limits import limit_of
from fashiontl.gate.raw import Counts
from fashiontl.gate.result import Finding

MIB = 2.0**20
CPU, CUDA = "resnet18-full-cpu", "resnet18-full-cuda"


def judged(metric: str, base: tuple[float, ...], head: tuple[float, ...], cell: str = CPU) -> Finding:
    limit = limit_of(cell, metric)
    assert limit is not None
    return judge_counts(Counts(cell, metric, base, head), limit)


@pytest.mark.parametrize("metric", ["parameters", "trainable_parameters", "flops", "training_flops"])
@pytest.mark.parametrize("head", [99.0, 101.0])
def test_any_change_of_a_count_is_a_finding(metric: str, head: float) -> None:
    assert judged(metric, (100.0, 100.0), (100.0, 100.0)).verdict == "PASS"
    finding = judged(metric, (100.0,), (head,))
    assert finding.verdict == "REGRESSED"
    assert finding.reason == f"changed from 100 to {head:g}, where any change is a finding"
    assert finding.change is not None
    assert finding.change.estimate == pytest.approx(head / 100 - 1)


def test_nothing_to_train_is_a_count_like_others() -> None:
    assert judged("trainable_parameters", (0.0,), (0.0,)).verdict == "PASS"
    finding = judged("trainable_parameters", (0.0,), (5.0,))
    assert (finding.verdict, finding.change) == ("REGRESSED", None)


def test_counts_that_do_not_repeat_themselves() -> None:
    assert judged("flops", (100.0, 101.0), (100.0, 101.0)).verdict == "INCONCLUSIVE"
    assert judged("flops", (100.0, 100.0), (100.0, 101.0)).verdict == "REGRESSED"


@pytest.mark.parametrize(
    ("base", "head", "verdict"),
    [
        ((), (1.0,), "NO_BASELINE"),
        ((1.0,), (), "MISSING"),
        ((), (), "NO_BASELINE"),
        ((1.0,), (math.nan,), "CRASHED"),
        ((math.inf,), (1.0,), "CRASHED"),
        ((1.0,), (-1.0,), "CRASHED"),
    ],
)
def test_values_that_are_none(base: tuple[float, ...], head: tuple[float, ...], verdict: str) -> None:
    assert judged("flops", base, head).verdict == verdict


def test_on_cuda_memory_that_repeats_is_exact() -> None:
    base = (100 * MIB,) * 2
    assert judged("training_peak_memory", base, base, CUDA).verdict == "PASS"
    assert judged("training_peak_memory", base, (100 * MIB + 512,) * 2, CUDA).verdict == "REGRESSED"
    assert judged("training_peak_memory", base, (100 * MIB - 512,) * 2, CUDA).verdict == "IMPROVED"


@pytest.mark.parametrize(
    ("head", "verdict"), [((500.5, 501.0), "PASS"), ((508.0, 508.5), "REGRESSED"), ((505.0, 512.0), "INCONCLUSIVE")]
)
def test_on_cuda_memory_that_does_not_repeat_may_grow_by_one_percent(head: tuple[float, ...], verdict: str) -> None:
    finding = judged("training_peak_memory", (500 * MIB, 501 * MIB), tuple(size * MIB for size in head), CUDA)
    assert finding.verdict == verdict


def test_on_cuda_a_mebibyte_is_tolerated_however_small_the_network() -> None:
    base = (10 * MIB, 10.1 * MIB)
    assert judged("training_peak_memory", base, (10.9 * MIB, 11.0 * MIB), CUDA).verdict == "PASS"
    assert judged("training_peak_memory", base, (11.2 * MIB, 11.3 * MIB), CUDA).verdict == "REGRESSED"


@pytest.mark.parametrize(("case_id", "few"), [(CPU, 5), (CUDA, 1)])
def test_too_few_processes_decide_nothing_about_memory(case_id: str, few: int) -> None:
    finding = judged("training_peak_memory", (100 * MIB,) * few, (200 * MIB,) * few, case_id)
    assert finding.verdict == "INCONCLUSIVE"
    assert f"got {few}" in finding.reason


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (370, 392, "PASS"),
        (400, 415, "INCONCLUSIVE"),
        (412, 430, "REGRESSED"),
        (330, 350, "IMPROVED"),
        (330, 360, "PASS"),
    ],
)
def test_on_the_cpu_resident_sets_range_over_some_percent(low: float, high: float, verdict: str) -> None:
    """370 to 392 MiB is what identical runs gave."""
    base = tuple((370 + 22 * index / 5) * MIB for index in range(6))
    head = tuple((low + (high - low) * index / 5) * MIB for index in range(6))
    assert judged("inference_peak_memory", base, head).verdict == verdict


@given(st.lists(st.floats(1e6, 1e9), min_size=6, max_size=8), st.lists(st.floats(1e6, 1e9), min_size=6, max_size=8))
def test_swapping_the_arms_exchanges_the_verdicts(base: list[float], head: list[float]) -> None:
    there = judged("inference_peak_memory", tuple(base), tuple(head))
    back = judged("inference_peak_memory", tuple(head), tuple(base))
    assert (there.verdict == "REGRESSED") == (back.verdict == "IMPROVED")
    if there.verdict == "PASS":
        assert max(head) < 1.10 * min(base)
