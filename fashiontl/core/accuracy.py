"""Which of several cells are more accurate: differences paired by seed and test image, and the group of the best.

Both the seeds and the test images are a sample: what is said shall hold for new ones of either. No torch, no I/O.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from fashiontl.core.metrics import Measurement
from fashiontl.core.stats import Interval, digamma, student_quantile, trigamma, trigamma_inverse

# Beyond it Student's t is the normal distribution to four digits.
_MOST_FREEDOM = 1000.0


@dataclass(frozen=True)
class Prior:
    """What other pairs of cells suggest of the variance of a pair's differences by seed.

    Attributes:
        variance: of one seed's difference.
        freedom: the degrees of freedom that this is worth.
    """

    variance: float
    freedom: float


@dataclass(frozen=True)
class Accuracies:
    """How many test images a cell got right with each seed, from seed 0 up.

    Attributes:
        fractions: of the images, for each seed.
        images: how many were tested, the same ones with each seed.
        right: for each seed a number whose bits say which images were right; none where that is unknown.
    """

    fractions: tuple[float, ...]
    images: int
    right: tuple[int, ...] = ()

    @classmethod
    def of(cls, measurement: Measurement, right: Sequence[str] = ()) -> "Accuracies":
        """What a record has: its measurement `accuracy`, and `right` of each seed's evaluation, a text of `packed`.

        Texts that do not fit the measurement are left out.
        """
        numbers = tuple(int(text, 16) for text in right if _is_hexadecimal(text))
        counts = [round(fraction * measurement.trials) for fraction in measurement.values]
        known = counts == [number.bit_count() for number in numbers]
        return cls(measurement.values, measurement.trials, numbers if known else ())


def packed(right: str) -> str:
    """Answers, `1` for each image that was right and `0` for each other, as a number in hexadecimal.

    A record keeps them so: a quarter of a byte an image.

    >>> packed("10110001")
    'b1'
    """
    return f"{int(right or '0', 2):0{math.ceil(len(right) / 4)}x}"


def difference(one: Accuracies, other: Accuracies, prior: Prior | None = None, confidence: float = 0.95) -> Interval:
    """How much more accurate one cell is than another, as a fraction, with an interval for new seeds and new images.

    Seeds are paired, since a seed draws the same training images for every cell: Student's t of the differences by
    seed. Images are paired too, where it is known which were right: the normal interval of each image's mean difference
    over the seeds (Miller, arXiv:2411.00640, 2.2). Without, their variance is taken as if the cells' errors were
    independent, which is more than it is, since networks err on the same images (Mania et al., NeurIPS 2019).

    The two half-widths are added in quadrature (as Zou and Donner, Statistics in Medicine 27, 2008, do with intervals
    of sums). Chance within one training and image is in both, so that the interval is a little too wide, never too
    narrow: in simulations 97 to 99.7 % of those at 95 % held the true difference.

    Args:
        one: a cell.
        other: another, tested on the same images.
        prior: from `prior_of`, where there are more cells. The confidence is then that over all pairs: it is less for
            cells whose seeds differ much more than others'.
        confidence: between 0 and 1.

    Returns:
        Bounds of -1 and 1 where there is one seed and no prior: then nothing is known of new seeds.
    """
    pairs = [before - after for before, after in zip(one.fractions, other.fractions, strict=False)]
    estimate, own = fmean(pairs), len(pairs) - 1
    known, worth = (prior.variance, prior.freedom) if prior else (0.0, 0.0)
    freedom = min(own + worth, _MOST_FREEDOM)
    if freedom < 1:
        return Interval(estimate, -1.0, 1.0)
    # The moderated t statistic, as for slices.
    spread = (own * (_variance(pairs) if own else 0.0) + known * worth) / (own + worth)
    seeds = student_quantile(int(freedom), confidence) * math.sqrt(spread / len(pairs))
    half = math.hypot(seeds, _of_images(one, other, len(pairs), confidence))
    return Interval(estimate, max(-1.0, estimate - half), min(1.0, estimate + half))


def best_group(cells: Sequence[Accuracies], error: float = 0.05) -> list[bool]:
    """Which cells cannot be told from the most accurate one.

    Multiple comparisons with the best (Hsu, Annals of Statistics 12, 1984): a cell is left out when some other cell is
    significantly more accurate. The most accurate cell in truth can be left out in as many ways as there are others,
    so each test, one-sided, has that share of the error (Bonferroni: cells differ too much in their spread for
    Dunnett's tables), and it is in the group with a probability of at least 1 - error, whatever the dependence. In
    simulations of 2 to 20 cells with three seeds it was left out in 0.7 to 4 % of the cases, and in 6 % where it was
    one of a few whose seeds differ ten times as much as the others'.

    Args:
        cells: tested on the same images. With one seed each, all are in the group.
        error: how often the most accurate cell may be left out.
    """
    if len(cells) < 2:
        return [True] * len(cells)
    prior = prior_of(cells)
    confidence = 1 - 2 * error / (len(cells) - 1)
    within = [True] * len(cells)
    for (first, one), (second, other) in itertools.combinations(enumerate(cells), 2):
        found = difference(one, other, prior, confidence)
        within[second] &= found.low <= 0
        within[first] &= found.high >= 0
    return within


def prior_of(cells: Sequence[Accuracies]) -> Prior | None:
    """What all pairs of cells suggest of the variance of a pair's differences by seed; None where they suggest nothing.

    Three seeds know their variance badly, and cells have different ones. With variances that are a scaled inverse
    chi-square themselves, the spread of their logarithms says how much they have in common (Smyth, Statistical
    Applications in Genetics and Molecular Biology 3, 2004, section 6.2): the prior's degrees of freedom. Pairs share
    cells, so that it is worth no more than all cells' seeds are.
    """
    found: list[tuple[float, float]] = []
    for one, other in itertools.combinations(cells, 2):
        pairs = [before - after for before, after in zip(one.fractions, other.fractions, strict=False)]
        if len(pairs) > 1:
            # Fractions of a few images are often equal; below it is what rounding to whole images hides.
            least = 1 / (12 * one.images * one.images)
            found.append((max(_variance(pairs), least), (len(pairs) - 1) / 2))
    if len(found) < 3:
        return None
    logs = [math.log(spread) - digamma(half) + math.log(half) for spread, half in found]
    most = sum(len(cell.fractions) - 1 for cell in cells[1:])
    excess = _variance(logs) - fmean(trigamma(half) for _, half in found)
    mean = fmean(logs)
    if excess <= trigamma(_MOST_FREEDOM / 2):
        return Prior(math.exp(mean), most)
    half = trigamma_inverse(excess)
    return Prior(math.exp(mean + digamma(half) - math.log(half)), min(2 * half, most))


def _of_images(one: Accuracies, other: Accuracies, seeds: int, confidence: float) -> float:
    """Half of the interval that the choice of the test images alone leaves."""
    quantile = NormalDist().inv_cdf((1 + confidence) / 2)
    if not (one.right and other.right and one.images == other.images):
        spread = sum(_binomial_variance(fmean(cell.fractions[:seeds])) / cell.images for cell in (one, other))
        return quantile * math.sqrt(spread)
    count = one.images
    answers, others = one.right[:seeds], other.right[:seeds]
    # Sums over the images of the difference summed over the seeds, and of its square, by counting common bits.
    total = sum(number.bit_count() for number in answers) - sum(number.bit_count() for number in others)
    squares = _common(answers, answers) - 2 * _common(answers, others) + _common(others, others)
    mean = total / count
    error = math.sqrt(max(0.0, squares / count - mean * mean) / max(1, count - 1)) / seeds
    # With hardly any difference there is no width; then it is that of the rule of three, as in the gate.
    return max(quantile * error, -math.log((1 - confidence) / 2) / count)


def _common(some: Sequence[int], others: Sequence[int]) -> int:
    return sum((number & other).bit_count() for number in some for other in others)


def _binomial_variance(fraction: float) -> float:
    return fraction * (1 - fraction)


def _is_hexadecimal(text: object) -> bool:
    return isinstance(text, str) and bool(text) and set(text) <= set("0123456789abcdef")


def _variance(values: Sequence[float]) -> float:
    """Of a sample; the statistics module's exact fractions take ten times as long, and cells have many pairs."""
    mean = fmean(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)
