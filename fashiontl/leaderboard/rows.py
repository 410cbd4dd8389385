"""One row a record: its numbers with their intervals, what is best of a column, and how a number is written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fashiontl.leaderboard.answers import Answers, answers_of
from fashiontl.leaderboard.columns import ACCURACY, ALL, Column
from fashiontl.leaderboard.loops import Loops, loops_of
from fashiontl.leaderboard.sweeps import Sweep, sweeps_of
from fashiontl.metrics import Metric
from fashiontl.record import Record
from fashiontl.stats import Interval

UNKNOWN = "—"

# What is read of a record's provenance as it is; the rest of it can be long.
_PROVENANCE = (
    "data", "weights", "pretraining", "image_size", "validation", "deterministic", "extensions", "peak", "compile",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A record as the leaderboard needs it.

    Attributes:
        record: without raw values and the long parts of its provenance, so that very many fit in memory.
        intervals: by label of the column; unknown ones are left out.
        seeds: how many accuracies there are.
        trials: test images of each; 0 when unknown.
        answers: what else is known of the answers on them.
        sweeps: over batch sizes, by what was run: `inference`, `training`.
        loops: how the timing loops went.
    """

    record: Record
    intervals: dict[str, Interval]
    seeds: int
    trials: int
    answers: Answers | None
    sweeps: dict[str, Sweep]
    loops: Loops

    @property
    def sound(self) -> bool:
        """Whether the numbers may be compared."""
        return self.record.status == "ok"

    def interval(self, column: Column) -> Interval | None:
        """The number of a column with its interval; None when unknown."""
        return self.intervals.get(column.label)

    def provenance(self, part: str, name: str) -> Any:
        """One entry of the record's provenance; None when it is not there."""
        found = self.record.provenance.get(part)
        return found.get(name) if isinstance(found, dict) else None


def row_of(record: Record) -> Row:
    """Reduce a record to its row."""
    measured = {measurement.metric: measurement for measurement in record.measurements if measurement.values}
    intervals = {column.label: found for column in ALL if (found := column.statistic(measured)) is not None}
    accuracy = measured.get("accuracy")
    provenance = {name: record.provenance[name] for name in _PROVENANCE if name in record.provenance}
    return Row(
        replace(record, measurements=(), provenance=provenance),
        intervals,
        len(accuracy.values) if accuracy else 0,
        accuracy.trials if accuracy else 0,
        answers_of(record.provenance),
        sweeps_of(record.provenance),
        loops_of(record.provenance),
    )


def by_accuracy(rows: Sequence[Row]) -> list[Row]:
    """Sound rows from the most accurate down, then the others by how they failed; ties in the order of their ids."""

    def key(row: Row) -> tuple[bool, str, float, str]:
        accuracy = row.intervals.get(ACCURACY.label)
        return not row.sound, row.record.status, -accuracy.estimate if accuracy else math.inf, row.record.id

    return sorted(rows, key=key)


def column_texts(rows: Sequence[Row], column: Column, shown: Sequence[Row] | None = None) -> list[str]:
    """The cells of a column; measured numbers have one number of decimals, exact ones their own.

    The best is bold. It carries a `~` when it is not proven: when its interval overlaps another's, or there is none.

    Args:
        rows: that are compared.
        column: what is shown of them.
        shown: those of the rows to give the cells of; all when None.
    """
    metric = column.metric
    intervals = [row.interval(column) for row in rows]
    marks = best_marks([row.interval(column) if row.sound else None for row in rows], metric)
    places = decimals([i.estimate * metric.scale for i in intervals if i is not None], metric.digits)
    texts = []
    for interval, mark in zip(intervals, marks, strict=True):
        if interval is None:
            texts.append(UNKNOWN)
            continue
        if metric.better == "equal":
            places = decimals([interval.estimate * metric.scale], metric.digits)
        texts.append(mark.format(number(interval, metric.scale, places)))
    if shown is None:
        return texts
    by_case = {row.record.case: text for row, text in zip(rows, texts, strict=True)}
    return [by_case[row.record.case] for row in shown]


def best_marks(intervals: Sequence[Interval | None], metric: Metric) -> list[str]:
    """A template for each number's text that makes the best bold, as in `column_texts`; None is no candidate."""
    plain = ["{}"] * len(intervals)
    known = [interval for interval in intervals if interval is not None]
    if metric.better == "equal" or len(known) < 2:
        return plain
    best = best_of(known, metric)
    proven = sum(best.overlaps(interval) for interval in known) == 1
    mark = "**{}**" if proven else "~**{}**"
    return [mark if i is not None and i.estimate == best.estimate else "{}" for i in intervals]


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


def number(interval: Interval, scale: float, places: int) -> str:
    r"""An estimate with the larger half of its interval; alone when the interval is open.

    The spaces do not break, so that a narrow column does not part the two.

    >>> number(Interval(0.91, 0.89, 0.925), 100, 1)
    '91.0\xa0±\xa02.0'
    """
    text = f"{interval.estimate * scale:.{places}f}"
    half = half_width(interval)
    return f"{text}\xa0±\xa0{half * scale:.{places}f}" if math.isfinite(half) else text


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
