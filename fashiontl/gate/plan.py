"""What a gate can find on a machine, in how many epochs and minutes, before it is run. No torch."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

from fashiontl.core.escape import to_line
from fashiontl.gate.comparison import chance_above, trimmed_interval
from fashiontl.gate.limits import Limit, limit_of
from fashiontl.gate.raw import Raw
from fashiontl.gate.report.shown import UNKNOWN
from fashiontl.gate.sequential import ALPHA, CONFIRMATION, LOOKS, PASS_LEVEL, epoch_faults, evidence_of

# How often a slowdown is found that counts as one that can be found.
POWER = 0.9

# Halvings of a bracket: to a millionth of it.
_HALVINGS = 20
_CELL_WIDTH, _METRIC_WIDTH = 21, 20


@dataclass(frozen=True)
class Spread:
    """How much the epochs of one cell and metric differ, and what one costs.

    Attributes:
        cell: id of the case.
        metric: timed.
        deviation: standard deviation of the epochs' log(head / base); None when it is not known.
        seconds: that an epoch takes.
        epochs: that the deviation is computed from; from n of them it is itself uncertain by about 1 / sqrt(2n - 2).
    """

    cell: str
    metric: str
    deviation: float | None
    seconds: float
    epochs: int = 0


@dataclass(frozen=True)
class Row:
    """What a gate can find in one cell and metric.

    Attributes:
        spread: from which it follows.
        limit: of the metric.
        found: for each of `LOOKS`, the smallest slowdown (relative: 0.05 is 5 %) that is found at it or before, nine
            times in ten; empty when the spread is not known.
        enough: the first look by which the slowdown that must be found is; None where none is, or that is not known.
        passes: the first look by which unchanged code passes nine times in ten; None likewise.
    """

    spread: Spread
    limit: Limit
    found: dict[int, float]
    enough: int | None
    passes: int | None

    @property
    def seconds(self) -> float | None:
        """What finding the slowdown takes: the epochs of the screen and those of the confirmation."""
        return None if self.enough is None else (self.enough + CONFIRMATION) * self.spread.seconds


@dataclass(frozen=True)
class Plan:
    """What a gate can find, and how long it takes.

    Attributes:
        rows: cell by cell, in the order of the spreads.
        unchanged: seconds of its timing where nothing changed and nothing is suspected; what does not pass, or whose
            spread is not known, takes all its looks.
        longest: seconds where everything takes all its looks and is confirmed.
    """

    rows: tuple[Row, ...]
    unchanged: float
    longest: float


def spreads_of(raw: Raw) -> tuple[Spread, ...]:
    """What a gate's epochs tell of the spread between them: best a gate of a commit with itself.

    A change shifts all epochs of a series alike, so a gate of any two commits tells it too. The deviation is that of
    normal values whose trimmed interval is as wide as the epochs', so that one epoch out of line counts for as little
    as it does in the gate. How long single epochs took is not kept: each gets its share of the whole gate's time, so
    that counting and training, if it did these, are included.

    Args:
        raw: whatever it compared.
    """
    taken = sum(len(series.epochs) for series in raw.series)
    found = []
    for series in raw.series:
        limit = limit_of(series.cell, series.metric)
        if series.epochs and limit is not None and limit.kind == "timed":
            deviation = None
            if not epoch_faults(series.epochs):
                evidence = evidence_of(series.epochs)
                deviation = _deviation((*evidence.screen, *evidence.confirm))
            found.append(Spread(series.cell, series.metric, deviation, raw.seconds / taken, len(series.epochs)))
    return tuple(found)


def plan(spreads: Sequence[Spread]) -> Plan:
    """Say what can be found, by the rule and the limits of `fashiontl.gate.sequential` and `fashiontl.gate.limits`.

    A slowdown is found where the screen's lower bound is above what is tolerated at one of its looks, the cell did not
    pass at an earlier one, and the fresh epochs agree. The chance is a lower bound: of the looks it takes the best
    alone, it subtracts every chance to pass before, and the estimate's distribution is taken for Student's t. The
    confirmation is that of a single suspect; several share alpha and are found a little less often. Epochs whose
    control kernel is not calm are not foreseen.

    Args:
        spreads: of timed metrics; what has no limits is left out.
    """
    rows = []
    for spread in spreads:
        limit = limit_of(spread.cell, spread.metric)
        if limit is not None and limit.kind == "timed":
            rows.append(_row(spread, limit))
    most = LOOKS[-1]
    return Plan(
        tuple(rows),
        unchanged=math.fsum((row.passes or most) * row.spread.seconds for row in rows),
        longest=math.fsum((most + CONFIRMATION) * row.spread.seconds for row in rows),
    )


def plan_text(made: Plan) -> str:
    """A plan as tables for a terminal, within 110 columns."""
    from tabulate import tabulate

    header = ["cell", "metric", "spread", *map(str, LOOKS), "must be found"]
    rows = [
        [
            to_line(row.spread.cell),
            to_line(row.spread.metric),
            _spread_text(row.spread),
            *_found_texts(row),
            _enough_text(row),
        ]
        for row in made.rows
    ]
    if not rows:
        return "expected epochs of a timed metric, got none: nothing is known of the spread between epochs"
    table = tabulate(
        rows, header, tablefmt="simple", disable_numparse=True,
        maxcolwidths=[_CELL_WIDTH, _METRIC_WIDTH, *[None] * (len(header) - 2)],
        colalign=("left", "left", *["right"] * (len(LOOKS) + 1), "left"),
    )  # fmt: skip
    parts = [
        f"The smallest slowdown that {100 * POWER:g} of 100 gates find, by the epochs that look for it: each suspicion "
        f"takes\n{CONFIRMATION} more to be confirmed, and {100 * ALPHA:g} of 100 gates at most raise a false alarm. "
        "In brackets: the epochs of which the\nspread was computed.",
        table,
        f"Nothing changed: {_minutes(made.unchanged)}. Everything suspected, at the last look: "
        f"{_minutes(made.longest)}.",
    ]
    for limit in dict.fromkeys(row.limit for row in made.rows if row.found and row.enough is None):
        # Rounded down, so that what it promises holds.
        widest = math.floor(1000 * _widest(limit)) / 1000
        parts.append(
            f"{limit.metric}: {_percent(limit.detect)} is found where the spread is {_percent(widest)} "
            "or less; give the gate a quieter machine."
        )
    return "\n\n".join(parts)


def _row(spread: Spread, limit: Limit) -> Row:
    if spread.deviation is None:
        return Row(spread, limit, {}, None, None)
    deviation, detect = spread.deviation, math.log1p(limit.detect)
    most = detect + 20 * deviation
    found, smallest = {}, math.inf
    for look in LOOKS:
        low, high = 0.0, most
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if _finds(look, deviation, middle, limit) >= POWER else (middle, high)
        # What an earlier look finds is found.
        smallest = min(smallest, high)
        found[look] = math.expm1(smallest)
    enough = next((look for look in LOOKS if _finds(look, deviation, detect, limit) >= POWER), None)
    passes = next((look for look in LOOKS if _inside(look, deviation, PASS_LEVEL, detect) >= POWER), None)
    return Row(spread, limit, found, enough, passes)


def _finds(look: int, deviation: float, slowdown: float, limit: Limit) -> float:
    """At least how likely a slowdown, in logarithms, is suspected at a look and confirmed."""
    beyond, short = slowdown - math.log1p(limit.tolerated), math.log1p(limit.detect) - slowdown
    passed = math.fsum(_inside(before, deviation, PASS_LEVEL, short) for before in LOOKS if before < look)
    suspected = max(0.0, _inside(look, deviation, ALPHA, beyond) - passed)
    return suspected * _inside(CONFIRMATION, deviation, ALPHA, beyond)


def _inside(count: int, deviation: float, level: float, room: float) -> float:
    """How likely the bound of an estimate from so many epochs is less than some room away from the truth."""
    values = [deviation * score for score in _scores(count)]
    return chance_above(values, room - trimmed_interval(values, 1 - 2 * level).high)


def _widest(limit: Limit) -> float:
    """The largest spread at which the slowdown that must be found is found by the last look."""
    detect = math.log1p(limit.detect)
    low, high = 0.0, detect
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        good = any(_finds(look, middle, detect, limit) >= POWER for look in LOOKS)
        low, high = (middle, high) if good else (low, middle)
    return low


@functools.lru_cache(maxsize=256)
def _scores(count: int) -> tuple[float, ...]:
    """A typical sample of normal values (Blom, Statistical Estimates, 1958), with mean 0 and standard deviation 1."""
    scores = [NormalDist().inv_cdf((rank - 0.375) / (count + 0.25)) for rank in range(1, count + 1)]
    mean, deviation = fmean(scores), stdev(scores)
    return tuple((score - mean) / deviation for score in scores)


def _deviation(changes: Sequence[float]) -> float | None:
    if len(changes) < 2:
        return None
    bounds, typical = trimmed_interval(changes), trimmed_interval(_scores(len(changes)))
    return (bounds.high - bounds.low) / (typical.high - typical.low)


def _spread_text(spread: Spread) -> str:
    return f"{UNKNOWN if spread.deviation is None else _percent(spread.deviation)} ({spread.epochs})"


def _found_texts(row: Row) -> list[str]:
    return [_percent(row.found[look]) if look in row.found else UNKNOWN for look in LOOKS]


def _enough_text(row: Row) -> str:
    must = _percent(row.limit.detect)
    if not row.found:
        return f"{must}: {UNKNOWN}"
    if row.enough is None or row.seconds is None:
        return f"{must}: not in {LOOKS[-1]}"
    return f"{must}: in {row.enough}, {_minutes(row.seconds)}"


def _percent(fraction: float) -> str:
    return ">100 %" if fraction > 1 else f"{round(100 * fraction, 1 if fraction < 0.1 else None):g} %"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds / 60:.1f} min"
