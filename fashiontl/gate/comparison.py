"""Statistics of comparing two versions: robust bounds, many tests at once, paired answers, a new run. Pure, no I/O."""

import math
from collections.abc import Sequence
from statistics import fmean

from fashiontl.core.stats import Interval, student_quantile, student_tail

# Of each end, as Wilcox advises (Introduction to Robust Estimation and Hypothesis Testing, 4.3).
TRIMMED = 0.2
# Below it trimming leaves five values or fewer, and plain t is the shorter of the two.
FEWEST_TO_TRIM = 8
# More trials than these are not worth saying.
MOST_NEEDED = 100_000


def round_changes(base: Sequence[float], head: Sequence[float]) -> list[float]:
    """log(head / base) of each round ABBA of two arms that take turns.

    In a round each arm is once the first of two neighbours and once the second, and follows once the other arm and
    once itself; so a drift of the machine, or what the other arm leaves in the caches, falls on both alike. Arguments
    are positive seconds, two a round of each arm.
    """
    changes = [math.log(mine) - math.log(other) for other, mine in zip(base, head, strict=True)]
    return [fmean(changes[start : start + 2]) for start in range(0, len(changes), 2)]


def trimmed_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The 20 % trimmed mean and its interval (Tukey and McLaughlin, 1963; Yuen, Biometrika, 1974); plain t below 8.

    What it encloses is the trimmed mean of the values' distribution, which is the mean where that is symmetric. Its
    two bounds are one-sided bounds at half of the error each.

    >>> trimmed_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 1000.0]).estimate
    5.5

    Args:
        values: one or more, independent; a single one has no bounds.
        confidence: between 0 and 1.
    """
    estimate, error, freedom = _trimmed(values)
    if not freedom:
        return Interval(estimate, -math.inf, math.inf)
    half = student_quantile(freedom, confidence) * error
    return Interval(estimate, estimate - half, estimate + half)


def chance_above(values: Sequence[float], threshold: float) -> float:
    """How likely values at least as high are if the true trimmed mean is the threshold: a one-sided p-value.

    It is at most (1 - c) / 2 exactly where `trimmed_interval` with confidence c has a lower bound at the threshold or
    above it. A single value proves nothing.
    """
    estimate, error, freedom = _trimmed(values)
    if not freedom:
        return 1.0
    if not error:
        return float(estimate <= threshold)
    return student_tail(freedom, (estimate - threshold) / error)


def values_needed(values: Sequence[float], distance: float, confidence: float) -> int | None:
    """How many values of the same spread give an interval that reaches no further than a distance to either side.

    None when they are more than `MOST_NEEDED`, or the distance is not positive; two values or more tell the spread.
    """
    _, error, _ = _trimmed(values)
    spread = error * math.sqrt(len(values))
    if distance <= 0:
        return None
    # Beyond a hundred the quantile hardly falls any more, so fewer than these are never enough.
    count = max(2, math.ceil((student_quantile(100, confidence) * spread / distance) ** 2))
    while count <= MOST_NEEDED:
        freedom = min(_kept(count) - 1, 100)
        if student_quantile(freedom, confidence) * spread / math.sqrt(count) <= distance:
            return count
        count += 1
    return None


def _kept(count: int) -> int:
    return count if count < FEWEST_TO_TRIM else count - 2 * math.floor(TRIMMED * count)


def _trimmed(values: Sequence[float]) -> tuple[float, float, int]:
    """Estimate, standard error and degrees of freedom; sums are exact, so that negated values give its negative."""
    count, kept = len(values), _kept(len(values))
    cut = (count - kept) // 2
    ordered = sorted(values)
    estimate = math.fsum(ordered[cut : count - cut]) / kept
    if kept < 2:
        return estimate, math.inf, 0
    winsorised = [ordered[cut]] * cut + ordered[cut : count - cut] + [ordered[-1 - cut]] * cut
    middle = math.fsum(winsorised) / count
    squares = math.fsum((value - middle) ** 2 for value in winsorised)
    return estimate, math.sqrt(squares / (kept * (kept - 1))), kept - 1


def holm_levels(chances: Sequence[float], alpha: float) -> list[float]:
    """The level at which Holm's step-down tests each of several hypotheses (Scandinavian Journal of Statistics, 1979).

    The chance that any true hypothesis is rejected is at most alpha, whatever the dependence. Those behind the first
    that is kept get its level, at which they are kept too.

    >>> holm_levels([0.3, 0.001, 0.02], 0.06)
    [0.06, 0.02, 0.03]
    """
    levels = [alpha] * len(chances)
    left = len(chances)
    stopped = False
    for index in sorted(range(len(chances)), key=lambda index: chances[index]):
        levels[index] = alpha / left
        stopped = stopped or chances[index] > levels[index]
        left -= not stopped
    return levels


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided McNemar test: p-value of no difference between two classifiers on the same examples.

    Under no difference, examples that only one of them gets right are fair coins (McNemar, Psychometrika, 1947).

    >>> round(mcnemar(1, 8), 6)
    0.039062
    """
    count = only_first + only_second
    ways, total = 1, 0
    for heads in range(min(only_first, only_second) + 1):
        total += ways
        ways = ways * (count - heads) // (heads + 1)
    # Whole numbers, which have no largest.
    return min(1.0, 2 * total / (1 << count))


def clustered_interval(seeds: Sequence[Sequence[float]], confidence: float = 0.95) -> Interval:
    """The mean of differences between paired answers, with an interval for new examples.

    All seeds answer the same examples, so answers to one example go together: an example's mean over the seeds is one
    value (Miller, arXiv:2411.00640, 2.2). With hardly any difference the normal approximation has no width; then the
    bounds are those of the rule of three (Hanley and Lippman-Hand, JAMA, 1983).

    Args:
        seeds: for each seed, one difference an example, between -1 and 1, in the same order.
        confidence: between 0 and 1.
    """
    examples = [sum(differences) / len(seeds) for differences in zip(*seeds, strict=True)]
    count = len(examples)
    estimate = math.fsum(examples) / count
    if count < 2:
        return Interval(estimate, -1.0, 1.0)
    error = math.sqrt(math.fsum((value - estimate) ** 2 for value in examples) / (count * (count - 1)))
    # Beyond a thousand, Student's t is the normal distribution to four digits.
    half = max(student_quantile(min(count - 1, 1000), confidence) * error, -math.log((1 - confidence) / 2) / count)
    return Interval(estimate, estimate - half, estimate + half)
