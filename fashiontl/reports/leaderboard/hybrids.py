"""Whether combining networks helps: each hybrid beside the best of its members."""

from collections.abc import Sequence
from dataclasses import replace

from fashiontl.core.stats import Interval
from fashiontl.models.registry import members
from fashiontl.reports.leaderboard.columns import ACCURACY, INFERENCE_MEMORY, LATENCY, TRAINING, Column
from fashiontl.reports.leaderboard.markdown import TextColumn, folded, table
from fashiontl.reports.leaderboard.names import Names
from fashiontl.reports.leaderboard.rows import UNKNOWN, Row, by_accuracy, column_texts, decimals, half_width

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
    """A section's table in Markdown; empty without hybrids that went well and whose accuracy is known."""
    known = [row for row in rows if row.sound and row.interval(ACCURACY)]
    hybrids = [row for row in known if members(row.record.case.architecture)]
    known = by_accuracy(known)
    if not hybrids:
        return ""
    found = [_measured_members(row, known) for row in hybrids]
    pairs = [(row, those[0] if those else None) for row, those in zip(hybrids, found, strict=True)]
    gains = [_gain(row, member) for row, member in pairs]
    text = table(
        [
            *names.columns([row.record.case for row in hybrids]),
            TextColumn(ACCURACY.label, column_texts(rows, ACCURACY, hybrids), "right"),
            TextColumn("Best member", [_member_text(*each, names) for each in zip(hybrids, found, strict=True)]),
            TextColumn("Difference (points)", [_gain_text(gain) for gain in gains], "right"),
            TextColumn("It helps", [_verdict(gain) for gain in gains]),
            *(
                TextColumn(title, [_factor(row, member, column) for row, member in pairs], "right")
                for title, column in _FACTORS.items()
            ),
        ]
    )
    proven = [gain.low > 0 for gain in gains if gain is not None]
    answer = (
        f"Proven in {sum(proven)} of {len(proven)} comparisons with the most accurate member under the same policy. "
        "The difference's ± adds both intervals, since all answer the same images; latency, memory and speed are "
        "multiples of that member's."
        if proven
        else "No member went well under the same policy."
    )
    return (
        f"**Does combining help?** {answer}\n\n{folded('All comparisons', text) if len(hybrids) > _MOST_OPEN else text}"
    )


def _measured_members(hybrid: Row, known: Sequence[Row]) -> list[Row]:
    """Rows of its members that are the same case otherwise, the most accurate first."""
    case = hybrid.record.case
    names = members(case.architecture)
    beside = [row for row in known if row.record.case.architecture in names]
    return [row for row in beside if replace(row.record.case, architecture=case.architecture) == case]


def _member_text(hybrid: Row, measured: Sequence[Row], names: Names) -> str:
    if not measured:
        return UNKNOWN
    all_of_them = len(set(members(hybrid.record.case.architecture)))
    missing = f" (of {len(measured)} measured)" if len(measured) < all_of_them else ""
    return names.architecture(measured[0].record.case.architecture) + missing


def _gain(hybrid: Row, member: Row | None) -> Interval | None:
    mine, its = hybrid.interval(ACCURACY), member.interval(ACCURACY) if member else None
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
    mine, its = hybrid.interval(column), member.interval(column) if member else None
    if mine is None or its is None or not its.estimate:
        return UNKNOWN
    ratio = mine.estimate / its.estimate
    return f"{ratio:.{decimals([ratio], 2)}f}"
