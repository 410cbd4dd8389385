"""What slices of several processes say of a metric: its mean, an interval, and the difference of two cells.

The seconds of a call differ from moment to moment and from process to process, and both by a factor: the model is that
of logarithms, log seconds = mean + round + process + slice, where rounds are common to the cells of a group and slices
that are near in time are alike. A cell's estimate is the mean over processes of the mean log of its slices' medians.
How its interval was chosen, and how often it holds, is in docs/evidence/slices.md. No I/O.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean, median, variance
from typing import Literal

from fashiontl.core.metrics import Measurement
from fashiontl.core.stats import (
    Drift,
    Interval,
    digamma,
    drift_test,
    student_quantile,
    trigamma,
    trigamma_inverse,
)

# Medians of whole slices are not known better than this, relatively: what a clock may well resolve of them.
_RESOLUTION = 1e-6
# Sampling ends when an interval happens to be narrow, and slices are skewed; both cost a little coverage. The Student
# quantile is that of this share of the error (docs/evidence/slices.md shows what is then left).
_SHARE_OF_ERROR = 0.8
# Slices of a round below which its effect is a cell's own noise as much as what is common; and passes of least squares,
# which are one where all cells are in all rounds.
_FEWEST_IN_ROUND, _PASSES = 8, 10
# Beyond it, Student's quantile is within 0.6 % of the normal one's.
_MOST_FREEDOM = 200
_RESAMPLES = 300
# A quantile that fewer slices reach, or that has fewer slices beyond it, is that of a few moments; no resampling says
# how others would be.
_FEWEST_REACHING = 5
_FEWEST_BEYOND = 2


@dataclass(frozen=True)
class Series:
    """Slices of one cell and metric, in the order of time.

    Attributes:
        logs: natural logarithm of the median of each slice's values.
        processes: which process took it.
        rounds: the round of the group.
        group: whose rounds they are; only those of one group can be compared.
        starts: seconds since the group began; empty where they are not known.
    """

    logs: tuple[float, ...]
    processes: tuple[int, ...]
    rounds: tuple[int, ...]
    group: str = ""
    starts: tuple[float, ...] = ()

    def by_process(self) -> dict[int, list[float]]:
        """The logarithms of each process."""
        found: dict[int, list[float]] = defaultdict(list)
        for log, process in zip(self.logs, self.processes, strict=True):
            found[process].append(log)
        return dict(found)


@dataclass(frozen=True)
class Prior:
    """What other cells suggest of a cell's variance between processes.

    Attributes:
        ratio: variance of the means of processes, over the variance that their slices would give these if nothing else
            varied. 1 where only slices vary and are independent; more where they are alike or processes differ.
        freedom: the degrees of freedom that this is worth.
    """

    ratio: float
    freedom: float


@dataclass(frozen=True)
class Components:
    """Variances of log seconds.

    Attributes:
        slices: between slices of one process.
        processes: between processes, whose slices are averaged out.
        slice_freedom: degrees of freedom of the former.
        process_freedom: degrees of freedom of the latter.
    """

    slices: float
    processes: float
    slice_freedom: int
    process_freedom: int


@dataclass(frozen=True)
class _Estimate:
    """A mean of logarithms, its standard error, and the degrees of freedom of that."""

    mean: float
    error: float
    freedom: float

    def interval(self, error: float) -> Interval:
        half = _quantile(self.freedom, error) * self.error if self.freedom >= 1 else math.inf
        return Interval(self.mean, self.mean - half, self.mean + half)


@dataclass(frozen=True)
class _Nested:
    """Of one cell: its mean, the variance of its processes' means, the part that slices claim of it, and theirs."""

    mean: float
    processes: int
    between: float
    within: float
    slices: float
    freedom: int
    within_freedom: int

    @property
    def ratio(self) -> float:
        return (self.between + _RESOLUTION**2) / (self.within + _RESOLUTION**2)


def series_of(measurement: Measurement, *, disturbed: bool = False) -> Series:
    """The slices of a measurement that has them.

    Args:
        measurement: whose values are not negative; nothing at all counts as a picosecond.
        disturbed: whether slices that are marked count too.
    """
    slices = measurement.slices
    assert slices is not None
    marked = set() if disturbed else {index for indices in slices.disturbed.values() for index in indices}
    ends = list(accumulate(slices.counts))
    starts = slices.starts or (math.nan,) * len(ends)
    common = slices.common or (0.0,) * len(ends)
    kept = [
        (math.log(max(median(measurement.values[end - count : end]), 1e-12)) - shift, process, round_, start)
        for index, (count, end, process, round_, start, shift) in enumerate(
            zip(slices.counts, ends, slices.processes, slices.rounds, starts, common, strict=True)
        )
        if count and index not in marked
    ]
    logs, processes, rounds, times = zip(*kept, strict=True) if kept else ((), (), (), ())
    return Series(logs, processes, rounds, slices.group, times if slices.starts else ())


def common_effects(cells: Sequence[Series]) -> dict[int, float]:
    """What each round did to all cells of a group alike, as the logarithm of a factor, by least squares.

    The model is log seconds = cell + round + rest. A machine has slow minutes, which hit every cell: taking them off
    leaves what tells cells apart, and cells that were there in some rounds only are put on the level of all rounds.
    Rounds with too few slices to tell a cell's noise from what is common have none, and the mean of the others is 0.
    """
    taken: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for number, cell in enumerate(cells):
        for log, round_ in zip(cell.logs, cell.rounds, strict=True):
            taken[round_].append((number, log))
    taken = {round_: slices for round_, slices in taken.items() if len(slices) >= _FEWEST_IN_ROUND}
    effects = dict.fromkeys(taken, 0.0)
    for _ in range(_PASSES):
        rest: dict[int, list[float]] = defaultdict(list)
        for round_, slices in taken.items():
            for number, log in slices:
                rest[number].append(log - effects[round_])
        levels = {number: fmean(logs) for number, logs in rest.items()}
        effects = {round_: fmean(log - levels[number] for number, log in slices) for round_, slices in taken.items()}
        mean = fmean(effects.values()) if effects else 0.0
        effects = {round_: effect - mean for round_, effect in effects.items()}
    return effects


def prior_of(cells: Sequence[Series]) -> Prior | None:
    """What cells say together of another one; None where none has two processes, one of them with two slices.

    Smyth's moments (Statistical Applications in Genetics and Molecular Biology 3, 2004, section 6.2) of the logarithms
    of the cells' ratios: the more these differ beyond chance, the fewer degrees of freedom the prior is worth. Ratios
    instead of variances, because slices of different networks differ in noise, which each cell knows well of itself.
    No more freedom is claimed than the cells have: their number is too small to show that they are alike.
    """
    return _prior([_nested(cell) for cell in cells])


def log_interval(series: Series, prior: Prior | None = None, confidence: float = 0.95) -> Interval:
    """The mean log seconds with an interval; unbounded for a single process without a prior.

    The spread of the processes' means holds everything that a later process would differ by, whatever varies within
    one. Few processes know it badly, so that it is averaged with what the prior makes of the cell's own slices, each
    weighted by its degrees of freedom (Smyth, 2004: the moderated t statistic). Where the cell's own processes differ
    by more than the prior says, the prior loses weight by the same factor: it may not make an unlike cell look quiet.
    """
    return _estimate(_nested(series), prior).interval(1 - confidence)


def used_series(measurement: Measurement) -> Series:
    """The slices of a measurement on which its number rests: those that are not marked as disturbed.

    All of them where those are of a single process and there are several, as one process says nothing of others.
    """
    sound, every = (series_of(measurement, disturbed=each) for each in (False, True))
    return sound if is_sound(sound.processes, every.processes) else every


def is_sound(sound: Sequence[int], every: Sequence[int]) -> bool:
    """Whether the slices that are not marked are enough to rest a number on.

    Args:
        sound: the process of each of them.
        every: that of each slice.
    """
    return len(set(sound)) >= min(2, len(set(every)))


def interval_of(measurement: Measurement) -> Interval:
    """The estimate of a measurement that has slices, in its own unit, with a 95 % interval, of `used_series`."""
    assert measurement.slices is not None
    prior = Prior(*measurement.slices.prior) if measurement.slices.prior else None
    return exp_interval(log_interval(used_series(measurement), prior))


def exp_interval(interval: Interval) -> Interval:
    """An interval of logarithms in the unit of what they are of."""
    return Interval(*(_exp(bound) for bound in (interval.estimate, interval.low, interval.high)))


def half_width_of(interval: Interval) -> float:
    """Half of an interval of logarithms as a factor less 1, such as 0.05 for ± 5 %; infinite where it is unbounded."""
    return _exp((interval.high - interval.low) / 2) - 1


def components(cells: Sequence[Series]) -> Components | None:
    """Variances between slices and between processes, pooled over cells by a nested analysis of variance.

    None where no process has two slices or no cell two processes. Slices that are alike because they are near in time
    count as a difference of processes, which is what they are for planning: more of them would not average out.
    """
    parts = [part for part in map(_nested, cells) if part.freedom and part.within_freedom]
    if not parts:
        return None
    slice_freedom = sum(part.within_freedom for part in parts)
    process_freedom = sum(part.freedom for part in parts)
    slices = sum(part.slices * part.within_freedom for part in parts) / slice_freedom
    processes = sum((part.between - part.within) * part.freedom for part in parts) / process_freedom
    return Components(slices, max(0.0, processes), slice_freedom, process_freedom)


def allocation(parts: Components, process_seconds: float, slice_seconds: float, least: int = 2, most: int = 12) -> int:
    """The number of slices a process that makes an interval narrowest for the time.

    sqrt(c_p s² / (c_s p²)) with the costs of a process and a slice and their variances p² and s² (Cochran, Sampling
    Techniques, 10.6), within bounds.

    Args:
        parts: of the cell, or of cells like it.
        process_seconds: to start and warm a process, over 0.
        slice_seconds: of one slice, with what comes before it counts, over 0.
        least: slices a process; two show how slices vary.
        most: slices a process.
    """
    if parts.processes <= 0:
        return most
    best = math.sqrt(process_seconds * parts.slices / (slice_seconds * parts.processes))
    return max(least, min(most, round(best)))


def processes_needed(series: Series, prior: Prior | None, half_width: float, most: int = 10_000) -> int | None:
    """How many more processes like those that it has a cell needs, until its interval is ± `half_width`.

    Times the seconds of a process and its slices this is the time that would do. None where the variance is not known
    yet, or more than `most` were needed.

    Args:
        series: of the cell.
        prior: of the other cells.
        half_width: as in `half_width_of`, such as 0.05.
        most: the most that are tried.
    """
    part = _nested(series)
    if not part.processes:
        return None
    spread, freedom = _spread(part, prior)
    if freedom < 1:
        return None
    for more in range(most + 1):
        count = part.processes + more
        if _quantile(freedom + more, 0.05) * math.sqrt(spread / count) <= math.log1p(half_width):
            return more
    return None


def difference(one: Series, other: Series, prior: Prior | None = None, confidence: float = 0.95) -> Interval:
    """The mean log of one cell's seconds over another's, with an interval.

    By the rounds that both have, so that what a round did to both cancels, nested in pairs of processes; without at
    least two such pairs by Welch's t of the cells' own means.

    Args:
        one: a cell.
        other: another cell of the same metric.
        prior: from `prior_of`; of differences of the group's other cells, or, where there are no rounds in common, of
            the other cells.
        confidence: of the interval.
    """
    pair = paired(one, other)
    if pair:
        return log_interval(pair, prior, confidence)
    return _welch(*(_estimate(_nested(side), prior) for side in (one, other))).interval(1 - confidence)


def paired(one: Series, other: Series) -> Series | None:
    """The differences of two cells in the rounds that they have in common; None where two pairs of processes have none.

    Its processes are pairs of theirs.
    """
    if one.group != other.group:
        return None
    ours, theirs = _by_round(one), _by_round(other)
    found = [
        (ours[round_][0] - theirs[round_][0], (ours[round_][1], theirs[round_][1]), round_)
        for round_ in ours
        if round_ in theirs
    ]
    numbers = {pair: number for number, pair in enumerate(dict.fromkeys(pair for _, pair, _ in found))}
    if len(numbers) < 2:
        return None
    logs, pairs, rounds = zip(*found, strict=True)
    return Series(logs, tuple(numbers[pair] for pair in pairs), rounds, one.group)


def best_group(cells: Sequence[Series], better: Literal["lower", "higher"], error: float = 0.05) -> list[int]:
    """Which cells may be the best: each cell that is not among them is worse than another, all at once.

    Hsu's multiple comparisons with the best (Annals of Statistics 12, 1984) with Bonferroni's inequality in place of
    Dunnett's quantile, since differences are unlike in precision: a cell is left out if its paired difference from a
    reference is beyond the one-sided quantile at the error over the number of comparisons. The truly best is left out
    with at most the error, whatever the reference is; it is the cell whose worse bound is the best.

    Args:
        cells: of one metric and device, each of another subject.
        better: which way is better.
        error: the chance that the best is left out.

    Returns:
        Indices of the cells, in their order; none for cells without slices.
    """
    sign = 1 if better == "lower" else -1
    there = [index for index, cell in enumerate(cells) if cell.logs]
    parts = {index: _nested(cells[index]) for index in there}
    priors = {index: _prior([parts[other] for other in there if other != index]) for index in there}

    def worse_bound(index: int) -> float:
        found = _estimate(parts[index], priors[index]).interval(error)
        return found.high if sign > 0 else -found.low

    if not there:
        return []
    reference = min(there, key=worse_bound)
    others = [index for index in there if index != reference]
    pairs = {index: paired(cells[index], cells[reference]) for index in others}
    known = {index: _nested(pair) for index, pair in pairs.items() if pair}
    group = []
    for index in there:
        if index != reference:
            prior = _prior([part for other, part in known.items() if other != index])
            if index in known:
                found = _estimate(known[index], prior)
            else:
                found = _welch(*(_estimate(parts[side], priors[side]) for side in (index, reference)))
            if (
                found.freedom >= 1
                and sign * found.mean > _quantile(found.freedom, 2 * error / len(others)) * found.error
            ):
                continue
        group.append(index)
    return group


def session_drift(cells: Sequence[Series]) -> Drift | None:
    """How much cells of one group move together from round to round: what a machine that warms up does.

    Each cell's slices are taken relative to its own mean, and each round's are averaged over cells. A cell alone gives
    its own drift. None with fewer than six rounds.
    """
    by_round: dict[int, list[float]] = defaultdict(list)
    for cell in cells:
        mean = fmean(cell.logs) if cell.logs else 0.0
        for round_, (log, _) in _by_round(cell).items():
            by_round[round_].append(log - mean)
    if len(by_round) < 6:
        return None
    return drift_test([math.exp(fmean(by_round[round_])) for round_ in sorted(by_round)])


def quantile_interval(measurement: Measurement, q: float, confidence: float = 0.95) -> Interval:
    """The q-th percentile of all samples of a measurement that has slices, with an interval.

    Its error within processes is that of a bootstrap of whole slices, since samples of one slice are alike (Davison and
    Hinkley, Bootstrap Methods and their Application, 1997, section 8.2.3). Three processes are too few to be drawn
    with replacement, so that what processes add is taken from the slices' medians: the error is enlarged by as much as
    the mean's is, with its degrees of freedom. Unbounded where only a few slices reach the percentile, since those
    moments say little of others. The same measurement gives the same interval.

    Args:
        measurement: with positive values.
        q: from 0 to 100.
        confidence: of the interval.
    """
    # core starts without it.
    import numpy as np

    slices = measurement.slices
    assert slices is not None
    marked = {index for indices in slices.disturbed.values() for index in indices}
    series = series_of(measurement)
    if not series.logs:
        series, marked = series_of(measurement, disturbed=True), set()
    owners = np.repeat(np.arange(len(slices.counts)), slices.counts)
    values = np.asarray(measurement.values)[: len(owners)]
    kept = ~np.isin(owners, list(marked))
    order = np.argsort(values[kept], kind="stable")
    ordered, slice_of = values[kept][order], owners[kept][order]
    if not len(ordered):
        return Interval(math.nan, 0.0, math.inf)
    generator = np.random.default_rng(len(ordered))
    numbers = np.unique(slice_of)
    process_of = np.asarray(slices.processes)[numbers]
    times = np.zeros((_RESAMPLES, len(slices.counts)))
    for process in np.unique(process_of):
        own = numbers[process_of == process]
        # One slice fewer than there are gives the variance without bias (Rao and Wu, JASA 83, 1988).
        drawn = generator.multinomial(max(1, len(own) - 1), np.full(len(own), 1 / len(own)), _RESAMPLES)
        times[:, own] = drawn
    weights = np.cumsum(times[:, slice_of], axis=1)
    indices = np.argmax(weights >= weights[:, -1:] * (q / 100), axis=1)
    estimate = float(np.percentile(ordered, q))
    error = float(np.std(np.log(np.maximum(ordered[indices], 1e-12)), ddof=1))
    part = _nested(series)
    prior = Prior(*slices.prior) if slices.prior else None
    spread, freedom = _spread(part, prior)
    beyond = min(len(np.unique(slice_of[side])) for side in (ordered >= estimate, ordered <= estimate))
    reached = max(beyond / _FEWEST_REACHING, min(q, 100 - q) / 100 * len(numbers) / _FEWEST_BEYOND)
    if freedom < 1 or not part.within_freedom or reached < 1:
        return Interval(estimate, 0.0, math.inf)
    enlarged = math.sqrt(max(1.0, (spread + _RESOLUTION**2) / (part.within + _RESOLUTION**2)))
    half = _quantile(freedom, 1 - confidence) * error * enlarged
    return Interval(estimate, estimate * _exp(-half), estimate * _exp(half))


def _by_round(series: Series) -> dict[int, tuple[float, int]]:
    """Of each round the mean log of its slices, and the process of the last."""
    logs: dict[int, list[float]] = defaultdict(list)
    processes = {}
    for log, process, round_ in zip(series.logs, series.processes, series.rounds, strict=True):
        logs[round_].append(log)
        processes[round_] = process
    return {round_: (fmean(found), processes[round_]) for round_, found in logs.items()}


def _welch(one: _Estimate, other: _Estimate) -> _Estimate:
    """The difference of two independent estimates (Welch, Biometrika 34, 1947)."""
    ours, theirs = one.error**2, other.error**2
    freedom = min(one.freedom, other.freedom)
    if freedom >= 1 and ours + theirs > 0:
        freedom = (ours + theirs) ** 2 / (ours**2 / one.freedom + theirs**2 / other.freedom)
    return _Estimate(one.mean - other.mean, math.sqrt(ours + theirs), freedom)


def _prior(cells: Sequence[_Nested]) -> Prior | None:
    parts = [part for part in cells if part.freedom and part.within_freedom]
    if not parts:
        return None
    logs = [math.log(part.ratio) - _bias(part.freedom) + _bias(part.within_freedom) for part in parts]
    chance = fmean(trigamma(part.freedom / 2) + trigamma(part.within_freedom / 2) for part in parts)
    excess = variance(logs) - chance if len(logs) > 1 else 0.0
    most = float(sum(part.freedom for part in parts))
    own = 2 * trigamma_inverse(excess) if excess > 0 else math.inf
    return Prior(math.exp(fmean(logs) + (_bias(own) if own < math.inf else 0.0)), min(own, most))


def _estimate(part: _Nested, prior: Prior | None) -> _Estimate:
    if not part.processes:
        return _Estimate(math.nan, math.inf, 0)
    spread, freedom = _spread(part, prior)
    return _Estimate(part.mean, math.sqrt(spread / part.processes), freedom)


def _spread(part: _Nested, prior: Prior | None) -> tuple[float, float]:
    """The variance of a process's mean, and its degrees of freedom."""
    if not prior or not part.within_freedom:
        return part.between, part.freedom
    suggested = prior.ratio * part.within
    # The product of two estimates is known no better than each.
    weight = 1 / (1 / prior.freedom + 1 / part.within_freedom) / max(1.0, part.ratio / prior.ratio)
    freedom = part.freedom + weight
    return (part.freedom * part.between + weight * suggested) / freedom, freedom


def _quantile(freedom: float, error: float) -> float:
    return student_quantile(min(int(freedom), _MOST_FREEDOM), 1 - _SHARE_OF_ERROR * error)


def _nested(series: Series) -> _Nested:
    groups = list(series.by_process().values())
    means = [fmean(logs) for logs in groups]
    freedom = sum(map(len, groups)) - len(groups)
    # The statistics module's exact fractions take ten times as long.
    squares = sum((log - mean) ** 2 for logs, mean in zip(groups, means, strict=True) for log in logs)
    mean = fmean(means) if means else math.nan
    slices = squares / freedom if freedom else 0.0
    return _Nested(
        mean=mean,
        processes=len(means),
        between=sum((other - mean) ** 2 for other in means) / max(1, len(means) - 1),
        within=slices * (fmean(1 / len(logs) for logs in groups) if groups else 0.0),
        slices=slices,
        freedom=max(0, len(means) - 1),
        within_freedom=freedom,
    )


def _bias(freedom: float) -> float:
    """Mean logarithm of an estimated variance over the true one."""
    return digamma(freedom / 2) - math.log(freedom / 2)


def _exp(log: float) -> float:
    return math.exp(log) if log < 700 else math.inf
