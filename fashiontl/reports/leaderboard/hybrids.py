"""Whether combining networks helps: each hybrid beside the best of its members."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fashiontl.core.case import Case
from fashiontl.core.stats import Interval
from fashiontl.models.registry import members
from fashiontl.reports.leaderboard.columns import ACCURACY, INFERENCE_MEMORY, LATENCY, TRAINING, Column
from fashiontl.reports.leaderboard.markdown import TextColumn, folded, table
from fashiontl.reports.leaderboard.names import Names
from fashiontl.reports.leaderboard.rows import UNKNOWN, Row, column_texts, decimals, half_width

_FACTORS = {"Latency (times)": LATENCY, "Inference peak (times)": INFERENCE_MEMORY, "Training speed (times)": TRAINING}

# More comparisons than these are folded away.
_MOST_OPEN = 12


def difference(one: Interval, other: Interval) -> Interval:
    """One number less another, with an interval of at least their confidence whatever their correlation.

    Both were tested on the same images, and how their answers go together is not recorded: so the bounds are those of
    the worst case. The interval leaves out zero exactly when the two do not overlap.
    """
    return Interval(one.estimate - other.estimate, one.low - other.high, one.high - other.low)


def hybrids_text(rows: Sequence[Row], names: Names) -> str:
    """The table in Markdown; empty without hybrids that went well and whose accuracy is known.

    Args:
        rows: of one section.
        names: of the section.
    """
    hybrids = [row for row in rows if row.sound and row.knows(ACCURACY) and members(row.record.case.architecture)]
    if not hybrids:
        return ""
    known = _by_all_but_architecture(rows)
    found = [_measured_members(row, known) for row in hybrids]
    best = [max(those, key=_accuracy, default=None) for those in found]
    pairs = list(zip(hybrids, best, strict=True))
    gains = [_gain(row, member) for row, member in pairs]
    text = table(
        [
            *names.columns(hybrids),
            TextColumn(ACCURACY.label, column_texts(rows, ACCURACY, hybrids), "right"),
            TextColumn(
                "Best member", [_member_text(row, those, names) for row, those in zip(hybrids, found, strict=True)]
            ),
            TextColumn("Difference (points)", [_gain_text(gain) for gain in gains], "right"),
            TextColumn("It helps", [_verdict(gain) for gain in gains]),
            *(
                TextColumn(title, [_factor(row, member, column) for row, member in pairs], "right")
                for title, column in _FACTORS.items()
            ),
        ]
    )
    shown = folded("All comparisons", text) if len(hybrids) > _MOST_OPEN else text
    return f"**Does combining help?** {_answer([gain for gain in gains if gain is not None])}\n\n{shown}"


def _answer(gains: Sequence[Interval]) -> str:
    if not gains:
        return "No member went well under the same policy."
    return (
        f"Proven in {sum(gain.low > 0 for gain in gains)} of {len(gains)} comparisons with the most accurate member "
        "under the same policy. The difference's ± adds both intervals, since all answer the same images; latency, "
        "memory and speed are multiples of that member's."
    )


def _by_all_but_architecture(rows: Sequence[Row]) -> dict[Case, list[Row]]:
    """Sound rows of known accuracy by their case without its architecture."""
    found: dict[Case, list[Row]] = {}
    for row in rows:
        if row.sound and row.knows(ACCURACY):
            found.setdefault(replace(row.record.case, architecture=""), []).append(row)
    return found


def _measured_members(hybrid: Row, known: Mapping[Case, Sequence[Row]]) -> list[Row]:
    case = hybrid.record.case
    beside = known.get(replace(case, architecture=""), ())
    return [row for row in beside if row.record.case.architecture in members(case.architecture)]


def _accuracy(row: Row) -> float:
    accuracy = row.interval(ACCURACY)
    return accuracy.estimate if accuracy else -math.inf


def _member_text(hybrid: Row, measured: Sequence[Row], names: Names) -> str:
    if not measured:
        return UNKNOWN
    all_of_them = len(set(members(hybrid.record.case.architecture)))
    missing = f" (of {len(measured)} measured)" if len(measured) < all_of_them else ""
    return names.architecture(max(measured, key=_accuracy).record.case.architecture) + missing


def _gain(hybrid: Row, member: Row | None) -> Interval | None:
    mine = hybrid.interval(ACCURACY)
    its = member.interval(ACCURACY) if member else None
    return difference(mine, its) if mine is not None and its is not None else None


def _gain_text(gain: Interval | None) -> str:
    if gain is None:
        return UNKNOWN
    # Adding 0 makes a difference that is rounded to minus zero a plain one.
    return f"{round(gain.estimate * 100, 1) + 0.0:+.1f}\xa0±\xa0{half_width(gain) * 100:.1f}"


def _verdict(gain: Interval | None) -> str:
    if gain is None:
        return UNKNOWN
    return "yes" if gain.low > 0 else "no, it harms" if gain.high < 0 else "not proven"


def _factor(hybrid: Row, member: Row | None, column: Column) -> str:
    mine = hybrid.interval(column)
    its = member.interval(column) if member else None
    if mine is None or its is None or not its.estimate:
        return UNKNOWN
    ratio = mine.estimate / its.estimate
    return f"{ratio:.{decimals([ratio], 2)}f}"
