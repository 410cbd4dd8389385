import math
import random
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashiontl.core.accuracy import Accuracies, Prior, best_group, difference, packed, prior_of
from fashiontl.core.metrics import Measurement
from fashiontl.core.stats import accuracy_interval, student_quantile

ANSWERS = st.text("01", min_size=1, max_size=60)
IMAGES = 400


def cell(*seeds: str) -> Accuracies:
    """A cell whose answers are written out, `1` for each image that was right."""
    fractions = tuple(seed.count("1") / len(seed) for seed in seeds)
    return Accuracies(fractions, len(seeds[0]), tuple(int(seed, 2) for seed in seeds))


def without_answers(known: Accuracies) -> Accuracies:
    return Accuracies(known.fractions, known.images)


class Drawn:
    """Cells whose answers are drawn: images are hard or easy for all cells, and seeds are good or bad."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.hardness = [self.random.gauss(0, 1) for _ in range(IMAGES)]

    def cell(self, spread: float, seeds: int = 3, mean: float = 1.2) -> Accuracies:
        """Of a true accuracy that does not depend on the spread between its seeds."""
        scaled = mean * math.sqrt(2 + spread * spread)
        shifts = [scaled + self.random.gauss(0, spread) for _ in range(seeds)]
        return cell(*("".join(self._answer(shift + hard) for hard in self.hardness) for shift in shifts))

    def _answer(self, level: float) -> str:
        return "1" if level + self.random.gauss(0, 1) > 0 else "0"


@given(ANSWERS)
def test_packed_answers_are_read_again(right: str) -> None:
    known = Accuracies.of(Measurement("accuracy", (right.count("1") / len(right),), len(right)), [packed(right)])
    assert known == cell(right)
    assert len(packed(right)) == math.ceil(len(right) / 4)


@pytest.mark.parametrize("texts", [[], ["f"], ["e", "e"], ["no number"], [7]])
def test_answers_that_do_not_fit_the_accuracy_are_left_out(texts: list[str]) -> None:
    assert Accuracies.of(Measurement("accuracy", (0.75,), 4), texts).right == ()
    assert Accuracies.of(Measurement("accuracy", (0.75,), 4), ["e"]).right == (0b1110,)


def test_difference_adds_seeds_and_images_in_quadrature() -> None:
    one, other = cell("1111111100", "1111111000"), cell("1111110000", "1111110010")
    found = difference(one, other)
    # Differences of 0.2 and 0.0 by seed; by image 0, 0, 0, 0, 0, 0, 1, 0.5, -0.5, 0.
    seeds = student_quantile(1, 0.95) * 0.1
    spread = (1 + 0.25 + 0.25 - 10 * 0.1**2) / 9 / 10
    images = max(NormalDist().inv_cdf(0.975) * math.sqrt(spread), -math.log(0.025) / 10)
    assert found.estimate == pytest.approx(0.1)
    assert found.high == pytest.approx(min(1, 0.1 + math.hypot(seeds, images)))


def test_a_difference_of_the_variance_of_images_is_that_of_the_answers() -> None:
    drawn = Drawn(1)
    one, other = drawn.cell(0.1, 5), drawn.cell(0.1, 5)
    found, apart = difference(one, other), difference(without_answers(one), without_answers(other))
    texts = [[f"{number:0{IMAGES}b}" for number in each.right] for each in (one, other)]
    means = [
        sum((a[image] == "1") - (b[image] == "1") for a, b in zip(*texts, strict=True)) / 5 for image in range(IMAGES)
    ]
    mean = sum(means) / IMAGES
    error = math.sqrt(sum((each - mean) ** 2 for each in means) / (IMAGES - 1) / IMAGES)
    pairs = [a - b for a, b in zip(one.fractions, other.fractions, strict=True)]
    spread = math.sqrt(sum((each - mean) ** 2 for each in pairs) / 4 / 5)
    half = math.hypot(NormalDist().inv_cdf(0.975) * error, student_quantile(4, 0.95) * spread)
    assert found.high - found.estimate == pytest.approx(half)
    # The same images are hard for both, which is not known without the answers.
    assert apart.estimate == found.estimate
    assert apart.high - apart.estimate > half


def test_a_difference_turned_around_is_the_other_way() -> None:
    drawn = Drawn(2)
    one, other = drawn.cell(0.2), drawn.cell(0.1)
    forth, back = difference(one, other), difference(other, one)
    assert (forth.estimate, forth.low, forth.high) == pytest.approx((-back.estimate, -back.high, -back.low))


def test_one_seed_says_nothing_of_others_unless_other_cells_do() -> None:
    one, other = cell("1" * 90 + "0" * 10), cell("1" * 10 + "0" * 90)
    found = difference(one, other)
    assert (found.low, found.high) == (-1, 1)
    assert difference(one, other, Prior(1e-4, 20)).low > 0.6
    assert best_group([one, other]) == [True, True]


def test_seeds_that_only_one_cell_has_are_not_compared() -> None:
    drawn = Drawn(3)
    long, short = drawn.cell(0.1, 5), drawn.cell(0.1, 3)
    cut = Accuracies(long.fractions[:3], IMAGES, long.right[:3])
    assert difference(long, short) == difference(cut, short)


@pytest.mark.parametrize(("spread", "other"), [(0.0, 0.0), (0.1, 0.1), (0.3, 0.05)])
def test_a_difference_holds_for_new_seeds_and_images(spread: float, other: float) -> None:
    """Two cells of the same true accuracy: 0 lies in at least 95 % of the intervals, within the error of 150."""
    repeats = 150
    drawn = [Drawn(seed) for seed in range(repeats)]
    found = [difference(each.cell(spread), each.cell(other)) for each in drawn]
    assert sum(each.low <= 0 <= each.high for each in found) >= 0.95 * repeats


@pytest.mark.parametrize("spread", [0.02, 0.1, 0.3])
def test_an_accuracy_holds_for_new_seeds_and_images(spread: float) -> None:
    """The spread of 0.1 is about 2.4 points of accuracy between seeds, that of 0.3 about 7."""
    repeats, truth = 150, NormalDist().cdf(1.2)
    cells = [Drawn(seed).cell(spread) for seed in range(repeats)]
    found = [accuracy_interval(each.fractions, each.images) for each in cells]
    assert sum(each.low <= truth <= each.high for each in found) >= 0.95 * repeats


def test_the_most_accurate_is_in_the_group_and_far_ones_are_not() -> None:
    """Of eight cells four are the most accurate; the first of them may be left out in 5 % of cases."""
    repeats, kept, far = 40, 0, 0
    for seed in range(repeats):
        drawn = Drawn(seed)
        best = [drawn.cell(spread) for spread in (0.1, 0.03, 0.03, 0.03)]
        worse = [drawn.cell(0.05, mean=0.3) for _ in range(4)]
        group = best_group([*best, *worse])
        kept += group[0]
        far += sum(group[4:])
    assert kept >= 0.95 * repeats
    assert far <= 0.1 * 4 * repeats


def test_a_single_cell_is_the_most_accurate() -> None:
    assert best_group([cell("110")]) == [True]
    assert best_group([]) == []


def test_a_prior_is_worth_what_the_cells_have_in_common() -> None:
    generator = random.Random(4)

    def cells(spreads: list[float]) -> list[Accuracies]:
        return [Accuracies(tuple(0.8 + generator.gauss(0, each) for _ in range(4)), 10**6) for each in spreads]

    alike, unlike = prior_of(cells([0.01] * 20)), prior_of(cells([0.001, 0.1] * 10))
    assert alike is not None
    assert unlike is not None
    assert alike.variance == pytest.approx(2 * 0.01**2, rel=0.5)
    assert unlike.freedom < 5 < alike.freedom <= 19 * 3
    assert prior_of(cells([0.01] * 2)) is None
