"""How the timed numbers of a row were taken: in slices or in one stretch, disturbed, shared, over several runs."""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fashiontl.core.metrics import Measurement, Slices
from fashiontl.core.slices import Series, interval_of, is_sound, used_series
from fashiontl.records import Earlier, Record
from fashiontl.reports.leaderboard.columns import TIMED

# From so many runs on, their spread is known well enough to stand for all that differs between them.
_FEWEST_RUNS = 3


@dataclass(frozen=True, slots=True)
class Timed:
    """How one metric of a row was taken.

    Attributes:
        series: its slices, undisturbed ones where there are any; of several runs one entry for each run. None where it
            was one stretch in a single process.
        slices: how many there are.
        disturbed: how many of them are marked.
        spoiled: whether the number rests on those too, since there are too few others.
        reasons: why, in the order of the record.
        shared: ids of the cells whose measurement it is, if it is that of several.
        runs: each run's name and the logarithm of what it estimates, the newest first; only those that count.
    """

    series: Series | None
    slices: int = 0
    disturbed: int = 0
    spoiled: bool = False
    reasons: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    runs: tuple[tuple[str, float], ...] = ()

    @property
    def single(self) -> bool:
        """Whether it is one stretch in a single process, whose samples say too little of how precise it is."""
        return self.series is None

    @property
    def comparable(self) -> bool:
        """Whether it may be best."""
        return not self.single and not self.spoiled

    @property
    def several(self) -> bool:
        """Whether the number is that of several runs."""
        return len(self.runs) >= _FEWEST_RUNS


def timed_of(record: Record, measured: Mapping[str, Measurement], earlier: Sequence[Earlier]) -> dict[str, Timed]:
    """How each timed metric of a record was taken, with what earlier runs of the same cell measured."""
    return {name: _timed(record, measured[name], earlier) for name in TIMED if name in measured}


def _timed(record: Record, measurement: Measurement, earlier: Sequence[Earlier]) -> Timed:
    slices = measurement.slices
    if slices is None:
        return Timed(None)
    series = used_series(measurement)
    # Names of groups need not differ between runs, and when slices began matters no more.
    series = replace(series, group=f"{record.run} {slices.group}", starts=())
    runs = {record.run: _log(measurement)} if _undisturbed(slices) and record.status == "ok" else {}
    for before in earlier if runs else ():
        other = before.measurement(measurement.metric)
        # A copy of a file is no run of its own.
        if other and other.slices and _undisturbed(other.slices):
            runs.setdefault(before.run, _log(other))
    made = Timed(
        series,
        sum(map(bool, slices.counts)),
        _marked(slices),
        not _undisturbed(slices),
        tuple(slices.disturbed),
        slices.shared,
        tuple(runs.items()),
    )
    return replace(made, series=_over_runs(made.runs)) if made.several else made


def _over_runs(runs: Sequence[tuple[str, float]]) -> Series:
    """Each run as a process of its own, in rounds that cells of the same runs share."""
    logs = tuple(log for _, log in runs)
    order = tuple(range(len(runs)))
    return Series(logs, order, tuple(zlib.crc32(name.encode(errors="replace")) for name, _ in runs), "runs")


def _log(measurement: Measurement) -> float:
    return math.log(interval_of(measurement).estimate)


def _undisturbed(slices: Slices) -> bool:
    marked = {index for indices in slices.disturbed.values() for index in indices}
    taken = [index for index, count in enumerate(slices.counts) if count]
    sound = [slices.processes[index] for index in taken if index not in marked]
    return is_sound(sound, [slices.processes[index] for index in taken])


def _marked(slices: Slices) -> int:
    """How many slices with values are marked."""
    marked = {index for indices in slices.disturbed.values() for index in indices}
    return sum(bool(slices.counts[index]) for index in marked)
