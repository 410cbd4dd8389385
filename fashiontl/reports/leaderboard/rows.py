"""One row a record: its numbers with their intervals, what is best of a column, and how a number is written."""

import functools
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from fashiontl.core.metrics import Measurement, Metric
from fashiontl.core.stats import Interval
from fashiontl.records import Record
from fashiontl.reports.leaderboard.answers import Answers, answers_of
from fashiontl.reports.leaderboard.columns import ACCURACY, ALL, Column
from fashiontl.reports.leaderboard.loops import Loops, loops_of
from fashiontl.reports.leaderboard.periods import Period, periods_of
from fashiontl.reports.leaderboard.sweeps import Sweep, sweeps_of

UNKNOWN = "—"

# What is shown of a record's provenance as it is, and what is reduced.
_SHOWN = frozenset({
    "data", "weights", "pretraining", "image_size", "validation", "deterministic", "extensions", "peak", "compile",
})  # fmt: skip
PROVENANCE = _SHOWN | {"evaluation", "sweep", "timing", "periods"}
"""What of a record's provenance `row_of` reads; the rest of it can be long."""

# Where a column's estimate, lower and upper bound are among a row's numbers.
_PLACES = {column.label: 3 * index for index, column in enumerate(ALL)}
_NOTHING = array("d", [math.nan, -math.inf, math.inf] * len(ALL))
_WAYS = [(column.needs, 3 * index, column.statistic, column.is_median) for index, column in enumerate(ALL)]


@dataclass(frozen=True, slots=True)
class Row:
    """A record as the leaderboard needs it.

    Attributes:
        record: without raw values, artifacts and the long parts of its provenance, so that very many fit in memory.
        numbers: estimate, lower and upper bound of each column, one after the other; an unknown estimate is not a
            number.
        sound: whether the numbers may be compared.
        seeds: how many accuracies there are.
        trials: test images of each; 0 when unknown.
        answers: what else is known of the answers on them.
        sweeps: over batch sizes, by what was run: `inference`, `training`.
        loops: how the timing loops went.
        periods: of the training step, under a policy that changes over the epochs; else none.
    """

    record: Record
    numbers: "array[float]"
    sound: bool
    seeds: int
    trials: int
    answers: Answers | None
    sweeps: dict[str, Sweep]
    loops: Loops
    periods: tuple[Period, ...]

    def interval(self, column: Column) -> Interval | None:
        """The number of a column with its interval; None when unknown."""
        place = _PLACES[column.label]
        estimate, low, high = self.numbers[place : place + 3]
        return None if math.isnan(estimate) else Interval(estimate, low, high)

    def knows(self, column: Column) -> bool:
        """Whether the number of a column is known."""
        return not math.isnan(self.numbers[_PLACES[column.label]])

    def provenance(self, part: str, name: str) -> Any:
        """One entry of the record's provenance; None when it is not there."""
        found = self.record.provenance.get(part)
        return found.get(name) if isinstance(found, dict) else None


def row_of(record: Record) -> Row:
    """Reduce a record to its row."""
    measured = {measurement.metric: measurement for measurement in record.measurements if measurement.values}
    if latency := measured.get("latency"):
        # Several percentiles are taken of it, and what is in order is soon sorted.
        measured["latency"] = Measurement(latency.metric, tuple(sorted(latency.values)), latency.trials)
    numbers = _NOTHING[:]
    for needed, place, statistic, is_median in _WAYS:
        if needed not in measured:
            continue
        if is_median and len(values := measured[needed].values) == 1:
            numbers[place] = values[0]
        elif (found := statistic(measured)) is not None:
            numbers[place], numbers[place + 1], numbers[place + 2] = found.estimate, found.low, found.high
    accuracy = measured.get("accuracy")
    provenance = {name: found for name, found in record.provenance.items() if name in _SHOWN}
    return Row(
        Record(
            record.schema, record.id, record.run, record.command, record.started, record.case, record.settings,
            record.environment, record.machine, record.status, record.reason, record.warnings, (), record.proof,
            provenance, {},
        ),
        numbers,
        record.status == "ok",
        len(accuracy.values) if accuracy else 0,
        accuracy.trials if accuracy else 0,
        answers_of(record.provenance),
        sweeps_of(record.provenance),
        loops_of(record.provenance),
        periods_of(record.provenance),
    )  # fmt: skip


def by_accuracy(rows: Sequence[Row]) -> list[Row]:
    """Sound rows from the most accurate down, then the others by how they failed; ties in the order of their ids."""
    place = _PLACES[ACCURACY.label]

    def key(row: Row) -> tuple[bool, str, float, str]:
        accuracy = row.numbers[place]
        return not row.sound, row.record.status, math.inf if math.isnan(accuracy) else -accuracy, row.record.id

    return sorted(rows, key=key)


def column_texts(rows: Sequence[Row], column: Column, shown: Sequence[Row] | None = None) -> list[str]:
    """The cells of a column; measured numbers have one number of decimals, exact ones their own.

    The best is bold. It carries a `~` when it is not proven: when its interval overlaps another's, or there is none.

    Args:
        rows: that are compared.
        column: what is shown of them.
        shown: those of the rows to give the cells of; all when None.
    """
    metric, scale = column.metric, column.metric.scale
    numbers = _numbers(rows, column)
    known = [entry for entry in numbers if not math.isnan(entry[0])]
    candidates = [entry for entry, row in zip(numbers, rows, strict=True) if row.sound and not math.isnan(entry[0])]
    best, mark = _best_and_mark(candidates, metric)
    if shown is not None:
        rows, numbers = shown, _numbers(shown, column)
    if metric.better == "equal":
        places = [decimals_of_one(estimate * scale, metric.digits) for estimate, _, _ in numbers]
    else:
        places = [decimals([estimate * scale for estimate, _, _ in known], metric.digits)] * len(numbers)
    texts = [_number(*entry, scale, own) for entry, own in zip(numbers, places, strict=True)]
    for index, (row, entry) in enumerate(zip(rows, numbers, strict=True)):
        if entry[0] == best and row.sound:
            texts[index] = mark.format(texts[index])
    return texts


def _numbers(rows: Sequence[Row], column: Column) -> list[tuple[float, float, float]]:
    """Estimate, lower and upper bound of each row."""
    first = _PLACES[column.label]
    low, high = first + 1, first + 2
    return [(numbers[first], numbers[low], numbers[high]) for numbers in [row.numbers for row in rows]]


def best_marks(intervals: Sequence[Interval | None], metric: Metric) -> list[str]:
    """A template for each number's text that makes the best bold, as in `column_texts`; None is no candidate."""
    known = [(interval.estimate, interval.low, interval.high) for interval in intervals if interval is not None]
    best, mark = _best_and_mark(known, metric)
    return [mark if interval is not None and interval.estimate == best else "{}" for interval in intervals]


def _best_and_mark(numbers: Sequence[tuple[float, float, float]], metric: Metric) -> tuple[float | None, str]:
    """The best estimate and the template that makes its text bold, of estimates with their bounds; None without any."""
    if metric.better == "equal" or len(numbers) < 2:
        return None, "{}"
    best, low, high = (max if metric.better == "higher" else min)(numbers, key=itemgetter(0))
    proven = sum(low <= its_high and its_low <= high for _, its_low, its_high in numbers) == 1
    return best, "**{}**" if proven else "~**{}**"


def best_of(intervals: Sequence[Interval], metric: Metric) -> Interval:
    """The first with the best estimate, of one or more."""
    return (max if metric.better == "higher" else min)(intervals, key=lambda interval: interval.estimate)


def decimals(values: Sequence[float], digits: int) -> int:
    """Decimals with which the smallest value has the digits asked; values below a hundredth of the largest have fewer.

    >>> decimals([91.2, 87.5, 60.0], 3), decimals([1807.2, 0.5], 3), decimals([], 3)
    (1, 1, 0)
    """
    sizes = [abs(value) for value in values if value]
    if not sizes:
        return 0
    smallest = max(min(sizes), max(sizes) / 100)
    return max(0, digits - 1 - math.floor(math.log10(smallest)))


@functools.lru_cache(maxsize=4096)
def decimals_of_one(value: float, digits: int) -> int:
    """`decimals` of a single value."""
    return 0 if math.isnan(value) else decimals([value], digits)


def number(interval: Interval, scale: float, places: int) -> str:
    r"""An estimate with the larger half of its interval; alone when the interval is open.

    The spaces do not break, so that a narrow column does not part the two.

    >>> number(Interval(0.91, 0.89, 0.925), 100, 1)
    '91.0\xa0±\xa02.0'
    """
    return _number(interval.estimate, interval.low, interval.high, scale, places)


def _number(estimate: float, low: float, high: float, scale: float, places: int) -> str:
    if math.isnan(estimate):
        return UNKNOWN
    half = max(estimate - low, high - estimate)
    alone, both = _templates(places)
    return both % (estimate * scale, half * scale) if half < math.inf else alone % (estimate * scale)


@functools.cache
def _templates(places: int) -> tuple[str, str]:
    return f"%.{places}f", f"%.{places}f\xa0±\xa0%.{places}f"


def half_width(interval: Interval) -> float:
    """The larger half of an interval, which is what follows a `±`; infinite when the interval is open."""
    return max(interval.estimate - interval.low, interval.high - interval.estimate)


def relative_widths(intervals: Sequence[Interval]) -> str:
    """How wide intervals are that a table leaves out, in a sentence; empty when none has a width."""
    widths = [100 * half_width(interval) / interval.estimate for interval in intervals if interval.estimate]
    widths = list(filter(math.isfinite, widths))
    if not widths:
        return ""
    ends = dict.fromkeys(f"{width:.0f}" for width in (min(widths), max(widths)))
    return f"Each number is ± {' to '.join(ends)} % of itself."
