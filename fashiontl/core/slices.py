"""What slices of several processes say of a metric: its mean, an interval, and the difference of two cells.

The seconds of a call differ from moment to moment and, less, from process to process, and both by a factor: the model
is that of logarithms, log seconds = mean + process + slice. A cell's estimate is the mean over processes of the mean
log of its slices' medians. No I/O.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean, median, variance

from fashiontl.core.metrics import Measurement
from fashiontl.core.stats import Interval, student_quantile


@dataclass(frozen=True)
class Series:
    """Slices of one cell and metric, in the order of time.

    Attributes:
        logs: natural logarithm of the median of each slice's values.
        processes: which process took it.
        rounds: the round of the group.
    """

    logs: tuple[float, ...]
    processes: tuple[int, ...]
    rounds: tuple[int, ...]

    def by_process(self) -> dict[int, list[float]]:
        """The logarithms of each process."""
        found: dict[int, list[float]] = defaultdict(list)
        for log, process in zip(self.logs, self.processes, strict=True):
            found[process].append(log)
        return dict(found)


@dataclass(frozen=True)
class Prior:
    """What other cells suggest of the variance of a process's mean log, and the degrees of freedom that it is worth."""

    variance: float
    freedom: float


def series_of(measurement: Measurement, *, disturbed: bool = False) -> Series:
    """The slices of a measurement that has them.

    Args:
        measurement: whose values are positive.
        disturbed: whether slices that are marked count too.
    """
    slices = measurement.slices
    assert slices is not None
    marked = set() if disturbed else {index for indices in slices.disturbed.values() for index in indices}
    ends = list(accumulate(slices.counts))
    kept = [
        (math.log(median(measurement.values[end - count : end])), process, round_)
        for index, (count, end, process, round_) in enumerate(
            zip(slices.counts, ends, slices.processes, slices.rounds, strict=True)
        )
        if count and index not in marked
    ]
    logs, processes, rounds = zip(*kept, strict=True) if kept else ((), (), ())
    return Series(logs, processes, rounds)


def prior_of(cells: Sequence[Series]) -> Prior | None:
    """The variance of a process's mean log, pooled over cells; None where no cell has two processes."""
    spreads = [(variance(means), len(means) - 1) for means in map(_means, cells) if len(means) > 1]
    freedom = sum(count for _, count in spreads)
    return Prior(sum(spread * count for spread, count in spreads) / freedom, freedom) if freedom else None


def log_interval(series: Series, prior: Prior | None = None, confidence: float = 0.95) -> Interval:
    """The mean log seconds with an interval; unbounded for a single process without a prior.

    The spread of the processes' means holds everything that a later process would differ by, whatever varies within
    one. Few processes know it badly, so that it is averaged with the prior, each weighted by its degrees of freedom
    (Smyth, Statistical Applications in Genetics and Molecular Biology 3, 2004: the moderated t statistic).
    """
    means = _means(series)
    if not means:
        return Interval(math.nan, -math.inf, math.inf)
    mean, own = fmean(means), len(means) - 1
    freedom = own + (prior.freedom if prior else 0)
    if freedom < 1:
        return Interval(mean, -math.inf, math.inf)
    spread = (own * (variance(means) if own else 0.0) + (prior.variance * prior.freedom if prior else 0)) / freedom
    half = student_quantile(int(freedom), confidence) * math.sqrt(spread / len(means))
    return Interval(mean, mean - half, mean + half)


def interval_of(measurement: Measurement) -> Interval:
    """The estimate of a measurement that has slices, in its own unit, with a 95 % interval.

    Slices that are marked as disturbed are left out unless there are no others.
    """
    assert measurement.slices is not None
    series = series_of(measurement)
    if not series.logs:
        series = series_of(measurement, disturbed=True)
    prior = Prior(*measurement.slices.prior) if measurement.slices.prior else None
    found = log_interval(series, prior)
    return Interval(*(_exp(bound) for bound in (found.estimate, found.low, found.high)))


def half_width_of(interval: Interval) -> float:
    """Half of an interval of logarithms as a factor less 1, such as 0.05 for ± 5 %; infinite where it is unbounded."""
    return _exp((interval.high - interval.low) / 2) - 1


def differences(one: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    """Differences of what two cells have of the same rounds."""
    return [one[round_] - other[round_] for round_ in one if round_ in other]


def _exp(log: float) -> float:
    return math.exp(log) if log < 700 else math.inf


def _means(series: Series) -> list[float]:
    return [fmean(logs) for logs in series.by_process().values()]
