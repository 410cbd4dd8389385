import math
import random
from statistics import fmean, variance

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashiontl.core.stats import (
    Drift,
    Interval,
    accuracy_interval,
    digamma,
    drift_test,
    mean_interval,
    median_interval,
    percentile,
    percentile_interval,
    smallest_difference,
    student_quantile,
    student_tail,
    trigamma,
    trigamma_inverse,
    wilson,
)

FINITE = st.floats(-1e6, 1e6)
SAMPLES = st.lists(FINITE, min_size=1, max_size=50)
PERCENTAGES = st.floats(0, 100)


def binomial(count: int, successes: int, proportion: float) -> float:
    return math.comb(count, successes) * proportion**successes * (1 - proportion) ** (count - successes)


@given(SAMPLES, PERCENTAGES)
def test_percentile_is_numpys(values: list[float], q: float) -> None:
    assert percentile(values, q) == pytest.approx(float(np.percentile(values, q)), abs=1e-6)


@given(SAMPLES, PERCENTAGES, st.sampled_from([0.5, 0.95, 0.99]))
def test_percentile_interval_encloses_its_estimate(values: list[float], q: float, confidence: float) -> None:
    interval = percentile_interval(values, q, confidence)
    assert interval.low <= interval.estimate <= interval.high
    assert interval.estimate == percentile(values, q)
    assert {interval.low, interval.high} <= {*values, interval.estimate, -math.inf, math.inf}


@pytest.mark.parametrize("count", [1, 5, 6, 20, 100, 333])
@pytest.mark.parametrize("q", [50, 90, 99])
def test_percentile_interval_covers_by_its_ranks(count: int, q: float) -> None:
    """The true percentile lies between the ranks exactly when as many values lie below it: a binomial sum."""
    interval = percentile_interval(range(1, count + 1), q)
    low = 0 if interval.low == -math.inf else int(interval.low)
    high = count + 1 if interval.high == math.inf else int(interval.high)
    masses = [binomial(count, below, q / 100) for below in range(count + 1)]
    assert sum(masses[low:high]) >= 0.95
    # One step narrower on a side would leave more than half of the error beyond it.
    assert sum(masses[: low + 1]) > 0.025
    assert sum(masses[high - 1 :]) > 0.025


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(1, -math.inf, math.inf), (5, -math.inf, math.inf), (6, 1, 6), (20, 6, 15), (200, 86, 115)],
)
def test_median_interval_ranks(count: int, low: float, high: float) -> None:
    assert median_interval(range(1, count + 1)) == Interval((count + 1) / 2, low, high)


def test_too_few_values_leave_one_side_open() -> None:
    assert percentile_interval(range(1, 21), 90) == Interval(pytest.approx(18.1), 15, math.inf)


def test_median_interval_covers_skewed_samples() -> None:
    draw = random.Random(7)
    inside = sum(
        interval.low <= math.log(2) <= interval.high
        for interval in (median_interval([draw.expovariate(1) for _ in range(30)]) for _ in range(1000))
    )
    assert 0.94 <= inside / 1000 <= 0.99


def test_wilson_equals_the_published_example() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81 of 263 gives 0.2553 to 0.3662.
    interval = wilson(81, 263)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)


@given(st.integers(1, 10_000).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_wilson_stays_a_proportion_and_mirrors(case: tuple[int, int]) -> None:
    successes, trials = case
    interval = wilson(successes, trials)
    mirrored = wilson(trials - successes, trials)
    assert 0 <= interval.low <= interval.estimate == successes / trials <= interval.high <= 1
    assert interval.low == pytest.approx(1 - mirrored.high, abs=1e-12)


@settings(max_examples=20)
@given(st.integers(30, 200))
def test_wilson_covers_on_average(trials: int) -> None:
    intervals = [wilson(successes, trials) for successes in range(trials + 1)]
    coverages = [
        sum(
            binomial(trials, successes, proportion)
            for successes, interval in enumerate(intervals)
            if interval.low <= proportion <= interval.high
        )
        for proportion in np.linspace(0.05, 0.95, 37).tolist()
    ]
    assert 0.945 <= fmean(coverages) <= 0.96
    assert min(coverages) > 0.91


@pytest.mark.parametrize(
    ("freedom", "confidence", "expected"),
    # Printed tables of Student's distribution, two-sided.
    [(1, 0.95, 12.706), (2, 0.95, 4.303), (3, 0.95, 3.182), (4, 0.95, 2.776), (29, 0.95, 2.045), (10, 0.99, 3.169),
     (5, 0.9, 2.015), (120, 0.95, 1.980)],
)  # fmt: skip
def test_student_quantile(freedom: int, confidence: float, expected: float) -> None:
    assert student_quantile(freedom, confidence) == pytest.approx(expected, abs=5e-4)


def test_mean_interval() -> None:
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.estimate == 2
    assert interval.high - 2 == pytest.approx(4.302653 / math.sqrt(3))
    assert 2 - interval.low == pytest.approx(interval.high - 2)
    assert mean_interval([5.0]) == Interval(5, -math.inf, math.inf)


def test_mean_interval_covers_normal_samples() -> None:
    draw = random.Random(3)
    inside = sum(
        interval.low <= 0 <= interval.high
        for interval in (mean_interval([draw.gauss(0, 1) for _ in range(3)]) for _ in range(2000))
    )
    assert 0.94 <= inside / 2000 <= 0.96


def test_accuracy_of_one_seed_is_wilsons() -> None:
    assert accuracy_interval([0.9], 800) == wilson(720, 800)


def test_accuracy_of_several_seeds_adds_both_sources() -> None:
    interval = accuracy_interval([0.9, 0.91, 0.92], 800)
    images = wilson(0.91 * 800, 800)
    spread = 4.302653 * 0.01 / math.sqrt(3)
    assert interval.estimate == pytest.approx(0.91)
    assert interval.high - 0.91 == pytest.approx(math.hypot(images.high - 0.91, spread), rel=1e-6)
    assert 0.91 - interval.low == pytest.approx(math.hypot(0.91 - images.low, spread), rel=1e-6)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(1, 10_000))
def test_accuracy_interval_stays_a_proportion_and_is_never_narrower_than_one_seeds(
    fractions: list[float], trials: int
) -> None:
    interval = accuracy_interval(fractions, trials)
    images = wilson(fmean(fractions) * trials, trials)
    assert 0 <= interval.low <= images.low + 1e-9
    assert images.high - 1e-9 <= interval.high <= 1


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 1, True), (1.5, 2, True), (2.5, 3, False), (-math.inf, math.inf, True)]
)
def test_overlaps(low: float, high: float, expected: bool) -> None:
    assert Interval(1.5, 1, 2).overlaps(Interval(low, low, high)) is expected
    assert Interval(low, low, high).overlaps(Interval(1.5, 1, 2)) is expected


def test_drift_is_not_noise_and_noise_is_not_drift() -> None:
    found = drift_test([1 + 0.01 * number for number in range(20)])
    assert found.change == pytest.approx(0.1 / 1.095)
    assert found.noise == pytest.approx(0.01 / 0.9296 / 1.095, rel=1e-3)
    assert found.seen
    assert found.chance < 1e-6
    found = drift_test([1.0, 1.2] * 10)
    assert found.change == 0
    assert found.noise == pytest.approx(0.2 / 0.9296 / 1.1, rel=1e-3)
    assert not found.seen


def test_one_outlier_is_neither() -> None:
    found = drift_test([1.0] * 9 + [100.0] + [1.0] * 10)
    assert (found.change, found.noise, found.seen) == (0.0, 0.0, False)


def test_equal_values_do_not_drift() -> None:
    assert drift_test([2.0] * 6) == Drift(0.0, 0.0, 1.0, 0.0)


def test_noise_of_normal_values_is_their_deviation() -> None:
    draw = random.Random(1)
    found = drift_test([draw.gauss(10, 0.5) for _ in range(4000)])
    assert found.noise == pytest.approx(0.05, rel=0.1)
    assert abs(found.change) < 0.01


def drifts(count: int, drift: float, alike: float = 0.0) -> list[Drift]:
    """Of 400 series with 6 % noise whose neighbours are alike."""
    rng = np.random.default_rng(7)
    noise = rng.standard_normal((400, count))
    for number in range(1, count):
        noise[:, number] = alike * noise[:, number - 1] + math.sqrt(1 - alike**2) * noise[:, number]
    return [drift_test(values) for values in (1 + 0.06 * noise + np.linspace(0, drift, count)).tolist()]


@pytest.mark.parametrize(("count", "alike"), [(12, 0.0), (60, 0.0), (60, 0.15)])
def test_a_drift_is_seen_in_what_does_not_move_once_in_twenty(count: int, alike: float) -> None:
    assert fmean(found.seen for found in drifts(count, 0.0, alike)) <= 0.06


def test_the_detectable_drift_is_seen_in_nine_of_ten() -> None:
    """60 values show a drift of 10 % at 6 % noise."""
    found = drifts(60, 0.1)
    assert fmean(one.seen for one in found) >= 0.9
    assert 0.09 < fmean(one.detectable for one in found) < 0.12
    assert fmean(one.change for one in found) == pytest.approx(0.05 / 1.05, rel=0.1)


@given(st.lists(st.floats(1e-6, 1e3), min_size=4, max_size=40))
def test_drift_has_no_unit_and_no_side(values: list[float]) -> None:
    found, larger, back = (drift_test(other) for other in (values, [2 * value for value in values], values[::-1]))
    for one in (larger, back):
        assert abs(one.change) == pytest.approx(abs(found.change))
        assert one.noise == pytest.approx(found.noise)
        assert one.chance == pytest.approx(found.chance)
    assert 0 <= found.chance <= 1
    assert found.noise >= 0


@pytest.mark.parametrize("x", [0.1, 0.5, 1.0, 2.5, 40.0])
def test_polygamma_functions_are_the_derivatives_of_the_gamma_functions_logarithm(x: float) -> None:
    step = 1e-4
    around = [math.lgamma(x - step), math.lgamma(x), math.lgamma(x + step)]
    assert digamma(x) == pytest.approx((around[2] - around[0]) / (2 * step), rel=1e-4)
    assert trigamma(x) == pytest.approx((digamma(x + step) - digamma(x - step)) / (2 * step), rel=1e-4)
    assert trigamma_inverse(trigamma(x)) == pytest.approx(x)


@pytest.mark.parametrize(("count", "difference"), [(17, 1.0), (64, 0.5)])
def test_the_smallest_difference_is_cohens(count: int, difference: float) -> None:
    """Table 2.4.1 of his Statistical Power Analysis: values a side at 5 % error, two-sided, and 80 % power."""
    assert smallest_difference(1, count) <= difference < smallest_difference(1, count - 1)


def test_the_smallest_difference_is_found_four_times_in_five() -> None:
    draw = random.Random(2)
    count, deviation = 8, 0.01
    difference = smallest_difference(deviation, count)
    critical = student_quantile(2 * count - 2, 0.95)
    found = 0
    for _ in range(4000):
        sides = [[draw.gauss(mean, deviation) for _ in range(count)] for mean in (0, difference)]
        error = math.sqrt(sum(variance(side) for side in sides) / count)
        found += abs(fmean(sides[1]) - fmean(sides[0])) > critical * error
    assert found / 4000 == pytest.approx(0.8, abs=0.02)


@given(st.floats(1e-6, 1e3), st.integers(2, 200), st.floats(0.55, 0.99))
def test_the_smallest_difference_has_the_deviations_unit_and_falls_with_more_values(
    deviation: float, count: int, power: float
) -> None:
    difference = smallest_difference(deviation, count, power=power)
    assert difference == pytest.approx(deviation * smallest_difference(1, count, power=power))
    assert smallest_difference(deviation, count + 1, power=power) < difference
    assert smallest_difference(deviation, count, power=power + 0.005) > difference


@given(st.integers(1, 200), st.floats(0.01, 0.99))
def test_the_tail_is_the_quantiles_inverse(freedom: int, confidence: float) -> None:
    t = student_quantile(freedom, confidence)
    assert student_tail(freedom, t) == pytest.approx((1 - confidence) / 2, abs=1e-9)
    assert student_tail(freedom, -t) == pytest.approx((1 + confidence) / 2, abs=1e-9)


def test_the_tail_of_one_degree_of_freedom_is_cauchys() -> None:
    assert student_tail(1, 1.0) == pytest.approx(0.25)
    assert student_tail(1, math.inf) == pytest.approx(0.0)
