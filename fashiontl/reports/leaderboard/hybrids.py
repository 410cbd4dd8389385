"""Whether combining networks helps: each hybrid beside the best of its members."""

from collections.abc import Sequence
from dataclasses import replace

from fashiontl.core.accuracy import Prior, difference, prior_of
from fashiontl.core.stats import Interval
from fashiontl.models.registry import members
from fashiontl.reports.leaderboard.columns import ACCURACY, INFERENCE_MEMORY, LATENCY, TRAINING
from fashiontl.reports.leaderboard.markdown import TextColumn, folded, table
from fashiontl.reports.leaderboard.names import Names
from fashiontl.reports.leaderboard.rows import UNKNOWN, Row, by_accuracy, decimals, half_width, text_column

_FACTORS = {"Latency (times)": LATENCY, "Inference peak (times)": INFERENCE_MEMORY, "Training speed (times)": TRAINING}

# More comparisons than these are folded away.
_MOST_OPEN = 12
# Pairs of so many cells say well enough how differences vary between seeds.
_MOST_IN_PRIOR = 40


def hybrids_text(rows: Sequence[Row], names: Names) -> str:
    """A section's table in Markdown; empty without hybrids that went well and whose accuracy is known."""
    known = [row for row in rows if row.sound and row.interval(ACCURACY)]
    hybrids = [row for row in known if members(row.record.case.architecture)]
    if not hybrids:
        return ""
    known = by_accuracy(known)
    prior = prior_of([row.accuracies for row in known[:_MOST_IN_PRIOR] if row.accuracies])
    gains, texts = zip(*(_compared(row, known, names, prior) for row in hybrids), strict=True)
    member, gain, verdict, *factors = zip(*texts, strict=True)
    text = table(
        [
            *names.columns([row.record.case for row in hybrids]),
            text_column(rows, ACCURACY, hybrids),
            TextColumn("Best member", member),
            TextColumn("Difference (points)", gain, "right"),
            TextColumn("It helps", verdict),
            *(TextColumn(title, column, "right") for title, column in zip(_FACTORS, factors, strict=True)),
        ]
    )
    proven = [gain.low > 0 for gain in gains if gain is not None]
    answer = (
        f"Proven in {sum(proven)} of {len(proven)} comparisons with the most accurate member under the same policy. "
        "The difference's ± is paired by seed, and by test image where the records say which were right; of one seed "
        "it is not known. Latency, memory and speed are multiples of that member's."
        if proven
        else "No member went well under the same policy."
    )
    return (
        f"**Does combining help?** {answer}\n\n{folded('All comparisons', text) if len(hybrids) > _MOST_OPEN else text}"
    )


def _compared(
    hybrid: Row, known: Sequence[Row], names: Names, prior: Prior | None
) -> tuple[Interval | None, list[str]]:
    """How much more accurate it is than its most accurate member in the same case otherwise, and the line's texts."""
    case, architectures = hybrid.record.case, set(members(hybrid.record.case.architecture))
    measured = [
        row for row in known
        if row.record.case.architecture in architectures
        and replace(row.record.case, architecture=case.architecture) == case
    ]  # fmt: skip
    mine, its = hybrid.accuracies, measured[0].accuracies if measured else None
    if mine is None or its is None:
        return None, [UNKNOWN] * (3 + len(_FACTORS))
    gain = difference(mine, its, prior)
    width = f"\xa0±\xa0{half_width(gain) * 100:.1f}" if gain.low > -1 or gain.high < 1 else ""
    missing = f" (of {len(measured)} measured)" if len(measured) < len(architectures) else ""
    return gain, [
        names.architecture(measured[0].record.case.architecture) + missing,
        # Adding 0 makes a difference that is rounded to minus zero a plain one.
        f"{round(gain.estimate * 100, 1) + 0.0:+.1f}{width}",
        "yes" if gain.low > 0 else "no, it harms" if gain.high < 0 else "not proven",
        *(_factor(hybrid.interval(column), measured[0].interval(column)) for column in _FACTORS.values()),
    ]


def _factor(mine: Interval | None, its: Interval | None) -> str:
    if mine is None or its is None or not its.estimate:
        return UNKNOWN
    ratio = mine.estimate / its.estimate
    return f"{ratio:.{decimals([ratio], 2)}f}"
