"""What is best of a column, and what cannot be told from it.

Timed numbers are compared by their slices, round by round where both have the same ones, and accuracies by their seeds
and images. Both are multiple comparisons with the best (Hsu, Annals of Statistics 12, 1984): in each column what is
truly best is the one shown as best, or among those that are marked, with 95 %. Numbers that have nothing but an
interval are compared by that.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import Enum

from fashiontl.core import accuracy, slices
from fashiontl.core.accuracy import Accuracies
from fashiontl.core.metrics import Better
from fashiontl.core.slices import Series
from fashiontl.core.stats import Interval

# So many cells are compared by their own samples; those after them by whether their intervals overlap the best's.
_MOST_COMPARED = 20


class Standing(Enum):
    """How a number stands to the others of its column; the value is a template of Markdown for its text."""

    OTHER = "{}"
    # It cannot be told from the best.
    TIED = "~{}"
    FIRST_OF_TIED = "~**{}**"
    BEST = "**{}**"

    def format(self, text: str) -> str:
        """The text with its mark."""
        # Most numbers of a long page have none, and looking up a value takes its time.
        return text if self is Standing.OTHER else self.value.format(text)

    @property
    def first(self) -> bool:
        """Whether no estimate is better."""
        return self in {Standing.BEST, Standing.FIRST_OF_TIED}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A number that may be best.

    Attributes:
        interval: in base units.
        identity: equal for cells that share one measurement; None is one of its own.
        series: its slices, if it is what they estimate.
        accuracies: of each seed, if it is their mean.
    """

    interval: Interval
    identity: Hashable = None
    series: Series | None = None
    accuracies: Accuracies | None = None

    @property
    def has_width(self) -> bool:
        """Whether it is known how far off it may be, at least in principle."""
        if self.accuracies:
            # Of other seeds than its one, nothing is known.
            return len(self.accuracies.fractions) > 1
        return self.series is not None or (self.interval.low > -math.inf and self.interval.high < math.inf)


def standings(candidates: Sequence[Candidate | None], better: Better) -> list[Standing]:
    """How each number stands; None is no candidate. Without two different measurements none is best."""
    names = [each and (each.identity or index) for index, each in enumerate(candidates)]
    different = {name: each for name, each in zip(names, candidates, strict=True) if each is not None}
    if better == "equal" or len(different) < 2:
        return [Standing.OTHER] * len(candidates)
    ordered = sorted(different.items(), key=lambda item: item[1].interval.estimate, reverse=better == "higher")
    within = _within([each for _, each in ordered], better)
    tied = {name for (name, _), inside in zip(ordered, within, strict=True) if inside}
    best = ordered[0][1].interval.estimate

    def standing(name: Hashable, each: Candidate | None) -> Standing:
        if each is None:
            return Standing.OTHER
        if each.interval.estimate == best:
            return Standing.FIRST_OF_TIED if len(tied) > 1 else Standing.BEST
        return Standing.TIED if name in tied and each.has_width else Standing.OTHER

    return [standing(name, each) for name, each in zip(names, candidates, strict=True)]


def _within(ordered: Sequence[Candidate], better: Better) -> list[bool]:
    """Which of them cannot be told from the best; the best estimate stands first."""
    compared = ordered[:_MOST_COMPARED]
    series = [each.series for each in compared if each.series]
    fractions = [each.accuracies for each in compared if each.accuracies]
    if better != "equal" and len(series) == len(compared):
        group = set(slices.best_group(series, better))
        within = [index in group for index in range(len(compared))]
    elif len(fractions) == len(compared) and len({(each.images, len(each.fractions)) for each in fractions}) == 1:
        within = accuracy.best_group(fractions)
    else:
        compared, within = [], []
    return within + [ordered[0].interval.overlaps(each.interval) for each in ordered[len(compared) :]]
