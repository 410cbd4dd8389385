"""One row a record: its numbers with their intervals, what is best of a column, and how a number is written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from msgspec.structs import replace

from fashiontl.core.accuracy import Accuracies
from fashiontl.core.metrics import Metric
from fashiontl.core.stats import Interval
from fashiontl.matrix.extensions import REPORT_SECTIONS
from fashiontl.records import Earlier, Record
from fashiontl.records.facts import Evaluation, Facts
from fashiontl.reports.leaderboard import best
from fashiontl.reports.leaderboard.best import Candidate, Standing
from fashiontl.reports.leaderboard.columns import ACCURACY, ALL, Column, accuracy_of
from fashiontl.reports.leaderboard.markdown import TextColumn
from fashiontl.reports.leaderboard.timed import Timed, timed_of

UNKNOWN = "—"


@dataclass(frozen=True, slots=True)
class Answers:
    """What networks answered on the test images, as means over seeds.

    Attributes:
        classes: fraction right of each class, in the order of the network's outputs; None where a class has no test
            image. Empty when unknown.
        loss: cross-entropy in nats. Its interval is open: the record holds no loss of each image.
        calibration_error: from 0 to 1; as the loss.
    """

    classes: tuple[Interval | None, ...]
    loss: Interval | None
    calibration_error: Interval | None


@dataclass(frozen=True, slots=True)
class Row:
    """A record as the leaderboard needs it.

    Attributes:
        record: without raw values, artifacts and provenance, so that very many fit in memory.
        facts: without the answers.
        numbers: by the column's label.
        timed: how each timed metric was taken, by its name.
        accuracies: of each seed; None when unknown.
        trials: test images of each accuracy; 0 when unknown.
        seeds: how many accuracies there are.
    """

    record: Record
    facts: Facts
    numbers: dict[str, Interval]
    timed: dict[str, Timed]
    accuracies: Accuracies | None
    trials: int
    seeds: int
    answers: Answers | None

    @property
    def sound(self) -> bool:
        """Whether the numbers may be compared."""
        return self.record.status == "ok"

    def interval(self, column: Column) -> Interval | None:
        """The number of a column, if it is known."""
        return self.numbers.get(column.label)

    def how(self, column: Column) -> Timed | None:
        """How what a column comes from was timed; None for what is not timed."""
        return self.timed.get(column.timed)


def row_of(record: Record, earlier: Sequence[Earlier] = ()) -> Row:
    """Reduce a record, and what earlier runs of the same cell measured, to its row."""
    facts = record.facts()
    measured = {each.metric: each for each in record.measurements if each.values}
    if (latency := measured.get("latency")) and not latency.slices:
        # Several percentiles are taken of it, and what is in order is soon sorted.
        measured["latency"] = replace(latency, values=tuple(sorted(latency.values)))
    numbers = {column.label: found for column in ALL if (found := column.statistic(measured)) is not None}
    timed = timed_of(record, measured, earlier)
    accuracy = measured.get("accuracy")
    return Row(
        # Very many records are held at once; whole ones only where a section of the user's own asks for them.
        record if REPORT_SECTIONS else replace(record, measurements=(), provenance={}, artifacts={}),
        replace(facts, evaluation=()),
        numbers,
        timed,
        Accuracies.of(accuracy, [seed.right for seed in facts.evaluation]) if accuracy else None,
        accuracy.trials if accuracy else 0,
        len(accuracy.values) if accuracy else 0,
        _answers(facts.evaluation),
    )


def _answers(seeds: Sequence[Evaluation]) -> Answers | None:
    if not seeds:
        return None
    found = Answers(
        _classes([seed.confusion or () for seed in seeds]),
        _mean([seed.loss for seed in seeds]),
        _mean([seed.calibration_error for seed in seeds]),
    )
    return found if found != Answers((), None, None) else None


def _mean(values: Sequence[float | None]) -> Interval | None:
    known = [value for value in values if value is not None]
    return Interval(fmean(known), -math.inf, math.inf) if len(known) == len(values) else None


def _classes(confusions: Sequence[Sequence[Sequence[int]]]) -> tuple[Interval | None, ...]:
    if len(set(map(len, confusions))) > 1:
        return ()
    found: list[Interval | None] = []
    for label, rows in enumerate(zip(*confusions, strict=True)):
        images = [sum(row) for row in rows]
        fractions = [row[label] / count for row, count in zip(rows, images, strict=True) if count]
        found.append(accuracy_of(tuple(fractions), min(images)) if all(images) else None)
    return tuple(found)


def by_accuracy(rows: Sequence[Row]) -> list[Row]:
    """Sound rows from the most accurate down, then the others by how they failed; ties in the order of their ids."""

    def key(row: Row) -> tuple[bool, str, float, str]:
        accuracy = row.interval(ACCURACY)
        return not row.sound, row.record.status, -accuracy.estimate if accuracy else math.inf, row.record.id

    return sorted(rows, key=key)


def text_column(rows: Sequence[Row], column: Column, shown: Sequence[Row] | None = None) -> TextColumn:
    """A column as it is shown; measured numbers have one number of decimals, exact ones their own.

    What is best is marked as `standings` says. Intervals of a single process stand in parentheses, and what was
    disturbed all the time says so. `shown` are those of the rows to give the cells of; all when None.
    """
    metric, known = column.metric, [row.interval(column) for row in rows]
    common = decimals([interval.estimate * metric.scale for interval in known if interval], metric.digits)
    texts = {}
    for row, interval, standing in zip(rows, known, standings(rows, column), strict=True):
        if interval is None:
            texts[id(row)] = UNKNOWN
        else:
            own = decimals([interval.estimate * metric.scale], metric.digits)
            how = row.how(column)
            single, spoiled = (how.single, how.spoiled) if how else (False, False)
            text = number(interval, metric.scale, own if metric.better == "equal" else common, trusted=not single)
            texts[id(row)] = standing.format(text) + "\xa0disturbed" * spoiled
    return TextColumn(column.label, [texts[id(row)] for row in (rows if shown is None else shown)], "right")


def standings(rows: Sequence[Row], column: Column) -> list[Standing]:
    """How each row stands in a column: of those that went well, in several processes and not wholly disturbed."""
    return best.standings([_candidate(row, column) for row in rows], column.metric.better)


def _candidate(row: Row, column: Column) -> Candidate | None:
    interval, how = row.interval(column), row.how(column)
    if interval is None or not row.sound or (how and not how.comparable):
        return None
    if column is ACCURACY:
        return Candidate(interval, accuracies=row.accuracies)
    if how is None or how.series is None:
        return Candidate(interval)
    # Of one measurement that several cells share, none is better.
    identity = (how.series.group, how.shared, interval.estimate) if how.shared else None
    return Candidate(interval, identity, how.series if column.typical else None)


def best_marks(intervals: Sequence[Interval | None], metric: Metric) -> list[Standing]:
    """How each number stands that has nothing but an interval; None is no candidate."""
    return best.standings([Candidate(each) if each is not None else None for each in intervals], metric.better)


def decimals(values: Sequence[float], digits: int) -> int:
    """Decimals with which the smallest value has some digits; values below a hundredth of the largest have fewer."""
    sizes = [abs(value) for value in values if value]
    if not sizes:
        return 0
    smallest = max(min(sizes), max(sizes) / 100)
    return max(0, digits - 1 - math.floor(math.log10(smallest)))


def estimate_text(interval: Interval, metric: Metric) -> str:
    """An estimate alone, with decimals of its own."""
    shown = interval.estimate * metric.scale
    return f"{shown:.{decimals([shown], metric.digits)}f}"


def number(interval: Interval, scale: float, places: int, *, trusted: bool = True) -> str:
    """An estimate with the larger half of its interval; alone when the interval is open.

    An interval that is not trusted stands in parentheses. The spaces do not break, so that a narrow column does not
    part the two.
    """
    half = half_width(interval)
    text = f"{interval.estimate * scale:.{places}f}"
    if half == math.inf:
        return text
    width = f"±\xa0{half * scale:.{places}f}"
    return f"{text}\xa0{width}" if trusted else f"{text}\xa0({width})"


def half_width(interval: Interval) -> float:
    """The larger half of an interval, which is what follows a `±`; infinite when the interval is open."""
    return max(interval.estimate - interval.low, interval.high - interval.estimate)


def relative_widths(intervals: Sequence[Interval]) -> str:
    """How wide intervals are that a table leaves out, in a sentence; empty when none has a width."""
    widths = (100 * half_width(interval) / interval.estimate for interval in intervals if interval.estimate)
    finite = sorted(filter(math.isfinite, widths))
    ends = dict.fromkeys(f"{width:.0f}" for width in (finite[0], finite[-1])) if finite else ()
    return f"Each number is ± {' to '.join(ends)} % of itself." if ends else ""
