"""Pure statistics: percentiles, and the intervals that are shown beside every number. No I/O."""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, median, stdev

# How often a drift is seen where there is none, and how often one of the size said is seen.
_ALARMS = 0.05
_POWER = 0.9
# What neighbours are more alike than by this is movement, such as the curve of a warm-up, and no noise.
_MOST_ALIKE = 0.5


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval in the unit of the values; too few of them give infinite bounds."""

    estimate: float
    low: float
    high: float

    def overlaps(self, other: "Interval") -> bool:
        """Whether some number lies in both."""
        return self.low <= other.high and other.low <= self.high


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile, q from 0 to 100, interpolated linearly between neighbours (numpy's default)."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * q / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    # Written so that equal neighbours give exactly themselves, and nothing outside of them.
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def percentile_interval(values: Sequence[float], q: float, confidence: float = 0.95) -> Interval:
    """The q-th percentile with an interval between two of the values, whatever their distribution.

    How many of n independent values lie below the true percentile is binomial, so two order statistics enclose it with
    at least the confidence asked (David and Nagaraja, Order Statistics, 7.1). Values that follow one another in time
    are not quite independent; then the interval is a little too narrow.
    """
    # Ranks from 1: the largest r with P(B < r) within half of the error, and the smallest with P(B >= r) within the
    # other half; B is binomial. 0 and one more than there are values where there is none.
    tail = (1 - confidence) / 2
    below, above = _rank(len(values), q / 100, tail), len(values) + 1 - _rank(len(values), 1 - q / 100, tail)
    ordered = sorted(values)
    low = ordered[below - 1] if below >= 1 else -math.inf
    high = ordered[above - 1] if above <= len(ordered) else math.inf
    estimate = percentile(ordered, q)
    # Far from the median of few values, interpolation can step over a bound.
    return Interval(estimate, min(low, estimate), max(high, estimate))


def median_interval(values: Sequence[float]) -> Interval:
    """The median with an interval between two of the values; it takes six of them to have one at 95 %."""
    return percentile_interval(values, 50)


@dataclass(frozen=True)
class Drift:
    """Whether values in the order of time move on the whole.

    Attributes:
        change: difference of the second half's median from the first's, over the median of all.
        noise: standard deviation that differences of neighbours suggest if the values are normal, over the median (von
            Neumann, Annals of Mathematical Statistics, 1941; here through the mean size of all but the largest tenth,
            so that neither a drift nor a few outliers count as noise).
        chance: probability of such a trend, or a clearer one, among values that do not move.
        detectable: the steady change from the first value to the last that is told from chance in nine of ten cases.
    """

    change: float
    noise: float
    chance: float
    detectable: float

    @property
    def seen(self) -> bool:
        """Whether the values move, with one false alarm in twenty."""
        return self.chance < _ALARMS


def drift_test(values: Sequence[float]) -> Drift:
    """Test for a trend by Spearman's rank correlation with time, two-sided.

    Ranks, because timings have tails. Values that are alike because they are near in time are fewer than they look: of
    n remain n (1 - r) / (1 + r), r being the correlation of neighbours about the trend where it is positive (Bayley and
    Hammersley, Supplement to the JRSS 8, 1946), corrected for its bias (Kendall, Biometrika 41, 1954).

    Args:
        values: four or more, positive.
    """
    count = len(values)
    change, noise = _halves(values), _noise(values)
    ranks = _ranks(values)
    middle = (count - 1) / 2
    across = sum((time - middle) * rank for time, rank in enumerate(ranks))
    spread = (count**3 - count) / 12
    squares = sum((rank - middle) ** 2 for rank in ranks)
    if not squares:
        return Drift(0.0, noise, 1.0, 0.0)
    rho = across / math.sqrt(spread * squares)
    slope = across / spread
    rest = [rank - middle - slope * (time - middle) for time, rank in enumerate(ranks)]
    left = sum(value * value for value in rest)
    alike = sum(before * after for before, after in itertools.pairwise(rest)) / left if left > 1e-9 else 0.0
    alike = min(max(0.0, alike + (2 + 4 * alike) / count), _MOST_ALIKE)
    worth = count * (1 - alike) / (1 + alike)
    freedom = int(worth - 2)
    if freedom < 1:
        return Drift(change, noise, 1.0, math.inf)
    if abs(rho) < 1 - 1e-12:
        chance = 2 * student_tail(freedom, abs(rho) * math.sqrt((worth - 2) / (1 - rho * rho)))
    else:
        # Of all orders of so many values there are two that rise or fall throughout.
        chance = 2 / math.factorial(min(count, 20))
    # The standard error of a least-squares trend over the whole time; ranks lose 4.5 % of it (Stuart, JASA 49, 1954).
    error = noise / math.sqrt(1 - alike) * math.sqrt(12 / worth) / 0.955
    found = student_quantile(freedom, 1 - _ALARMS) + student_quantile(freedom, 2 * _POWER - 1)
    return Drift(change, noise, min(1.0, chance), found * error)


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    for _, group in itertools.groupby(order, key=values.__getitem__):
        indices = list(group)
        for index in indices:
            ranks[index] = start + (len(indices) - 1) / 2
        start += len(indices)
    return ranks


def _halves(values: Sequence[float]) -> float:
    half = len(values) // 2
    middle = median(values)
    return (median(values[-half:]) - median(values[:half])) / middle if middle else 0.0


def _noise(values: Sequence[float]) -> float:
    middle = median(values)
    if not middle:
        return 0.0
    jumps = sorted(abs(after - before) for before, after in itertools.pairwise(values))
    # A difference of two normal values has sqrt(2) times their deviation, and 0.6573 of that as the mean size of all
    # but the tenth that is largest.
    return fmean(jumps[: max(1, int(0.9 * len(jumps)))]) / (0.6573 * math.sqrt(2)) / middle


def wilson(successes: float, trials: int) -> Interval:
    """A proportion with Wilson's score interval (Wilson, JASA 1927; recommended by Brown, Cai and DasGupta, 2001).

    The mean of several counts of successes need not be whole.
    """
    proportion = successes / trials
    z = NormalDist().inv_cdf(0.975)
    weight = 1 + z * z / trials
    centre = (proportion + z * z / (2 * trials)) / weight
    half = z / weight * math.sqrt(proportion * (1 - proportion) / trials + z * z / (4 * trials * trials))
    # At 0 and 1 the bound is the proportion itself, up to rounding.
    return Interval(proportion, min(proportion, max(0.0, centre - half)), max(proportion, min(1.0, centre + half)))


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of roughly normal values with Student's t interval; unbounded for a single value."""
    mean = fmean(values)
    if len(values) == 1:
        return Interval(mean, -math.inf, math.inf)
    half = student_quantile(len(values) - 1, 0.95) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def accuracy_interval(fractions: Sequence[float], trials: int) -> Interval:
    """Mean accuracy over seeds, with an interval for new test images and, with several seeds, for new seeds too.

    All seeds are tested on the same images, so their trials must not be pooled: Wilson's interval is that of one
    seed's trials at the mean accuracy. The spread between seeds is another, independent source; each side of the two
    intervals is added in quadrature.
    """
    mean = fmean(fractions)
    images = wilson(mean * trials, trials)
    if len(fractions) == 1:
        return images
    half = mean_interval(fractions).high - mean
    return Interval(
        mean,
        max(0.0, mean - math.hypot(mean - images.low, half)),
        min(1.0, mean + math.hypot(images.high - mean, half)),
    )


@functools.lru_cache(maxsize=4096)
def _rank(count: int, proportion: float, tail: float) -> int:
    """The largest rank r for which a binomial variable is below r with at most the tail's probability."""
    if proportion in {0, 1}:
        return int(proportion) * count
    cumulative = 0.0
    for rank in range(count + 1):
        cumulative += _binomial(count, rank, proportion)
        if cumulative > tail:
            return rank
    return count


def _binomial(count: int, successes: int, proportion: float) -> float:
    # By logarithms, since the coefficients leave the range of a float near a thousand values.
    coefficient = math.lgamma(count + 1) - math.lgamma(successes + 1) - math.lgamma(count - successes + 1)
    return math.exp(coefficient + successes * math.log(proportion) + (count - successes) * math.log1p(-proportion))


@functools.lru_cache(maxsize=1024)
def student_quantile(freedom: int, confidence: float) -> float:
    """The t with P(|T| <= t) = confidence for Student's distribution with some degrees of freedom, 1 or more."""
    low, high = 0.0, math.pi / 2
    while low < (angle := (low + high) / 2) < high:
        low, high = (angle, high) if _student_probability(freedom, angle) < confidence else (low, angle)
    return math.sqrt(freedom) * math.tan(angle)


def student_tail(freedom: int, t: float) -> float:
    """P(T >= t) for Student's distribution with some degrees of freedom, 1 or more."""
    inside = _student_probability(freedom, math.atan(abs(t) / math.sqrt(freedom)))
    return (1 - math.copysign(inside, t)) / 2


def _student_probability(freedom: int, angle: float) -> float:
    """P(|T| <= sqrt(freedom) tan(angle)), the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    odd = freedom % 2
    cosine = math.cos(angle)
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for step in range(2 + odd, freedom - 1, 2):
        term *= cosine * cosine * (step - 1) / step
        total += term
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total


def digamma(x: float) -> float:
    """The logarithmic derivative of the gamma function at x > 0 (Abramowitz and Stegun, 6.3.5 and 6.3.18)."""
    total = 0.0
    while x < 8:
        total -= 1 / x
        x += 1
    square = 1 / (x * x)
    return total + math.log(x) - 1 / (2 * x) - square * (1 / 12 - square * (1 / 120 - square / 252))


def trigamma(x: float) -> float:
    """The derivative of `digamma` at x > 0 (Abramowitz and Stegun, 6.4.6 and 6.4.12)."""
    total = 0.0
    while x < 8:
        total += 1 / (x * x)
        x += 1
    square = 1 / (x * x)
    return total + 1 / x + square / 2 + square / x * (1 / 6 - square * (1 / 30 - square / 42))


def trigamma_inverse(y: float) -> float:
    """The x > 0 at which `trigamma` is y > 0."""
    # It falls from infinity to 0, and lies between 1 / x and 1 / x + 1 / x².
    low, high = 1 / y, 1 / y + 1 / math.sqrt(y)
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if trigamma(middle) > y else (low, middle)
    return high


def smallest_difference(deviation: float, count: int, confidence: float = 0.95, power: float = 0.8) -> float:
    """The difference between two means that a t test detects with some power: (t + t') s sqrt(2 / n).

    t is its critical value, two-sided, and t' the quantile at the power, both with 2n - 2 degrees of freedom. The exact
    answer, by the non-central distribution, differs by less than 1 % from 4 values a side up.

    Args:
        deviation: standard deviation of single values; that of logarithms gives a relative difference.
        count: independent values on each side, 2 or more.
        confidence: of the test.
        power: how often the difference is detected, 0.5 or more.
    """
    freedom = 2 * count - 2
    critical, found = student_quantile(freedom, confidence), student_quantile(freedom, 2 * power - 1)
    return (critical + found) * deviation * math.sqrt(2 / count)
