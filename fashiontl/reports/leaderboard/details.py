"""Folded tables under a section's own: latency and loading, the training step, memory, arithmetic and energy."""

from collections.abc import Mapping, Sequence
from typing import Any

from fashiontl.core.escape import to_markdown
from fashiontl.reports.leaderboard.batches import batches_text
from fashiontl.reports.leaderboard.columns import (
    ARITHMETIC,
    BASE_MEMORY,
    COLUMNS,
    LATENCIES,
    MEMORY,
    PEAK,
    SIZES,
    STEP,
    Group,
    columns_of,
)
from fashiontl.reports.leaderboard.markdown import TextColumn, folded, table
from fashiontl.reports.leaderboard.names import Names
from fashiontl.reports.leaderboard.periods import Period, mean_of
from fashiontl.reports.leaderboard.rows import UNKNOWN, Row, column_texts, decimals

# They say nothing that is worth a table of its own: the first two stand in others.
_NOT_REASON_ENOUGH = {*COLUMNS, *SIZES, BASE_MEMORY}

_PEAKS = {"matmul": "matrix product", "convolution": "convolution"}


def details_text(rows: Sequence[Row], names: Names) -> list[str]:
    """The tables that say anything, each in Markdown and folded away.

    Args:
        rows: of one section, in the order to be shown.
        names: of the section.
    """
    compiled = _graphs(rows)
    found = {
        "Latency, loading and compiling": _table(rows, names, LATENCIES, compiled),
        "Training step": _table(rows, names, STEP),
        "Training step by epoch": _periods(rows, names),
        "Memory": _table(rows, names, MEMORY),
        "Arithmetic and energy": [*_table(rows, names, ARITHMETIC), *_peaks(rows)],
        "Batch sizes": batches_text(rows, names),
    }
    return [folded(title, *parts) for title, parts in found.items() if parts]


def _table(
    rows: Sequence[Row], names: Names, groups: Sequence[Group], compiled: Mapping[str, Mapping[int, str]] | None = None
) -> list[str]:
    """Legends and a table of the rows and columns of which anything is known."""
    reasons = [column for column in columns_of(groups) if column not in _NOT_REASON_ENOUGH]
    shown = [row for row in rows if any(row.knows(column) for column in reasons)]
    if not shown:
        return []
    known = [
        (group, [column for column in group.columns if any(row.knows(column) for row in shown)]) for group in groups
    ]
    numbers = [
        TextColumn(column.label, column_texts(rows, column, shown), "right")
        for _, columns in known
        for column in columns
    ]
    graphs = [
        TextColumn(title, [texts.get(id(row), UNKNOWN) for row in shown], "right")
        for title, texts in (compiled or {}).items()
    ]
    legends = [group.legend for group, columns in known if columns]
    if graphs:
        legends.append(
            "**Graphs**: how many the compiler made; a break parts one, a recompile makes it anew for other inputs."
        )
    return ["\n".join(f"- {legend}" for legend in legends), table([*names.columns(shown), *numbers, *graphs])]


def _periods(rows: Sequence[Row], names: Names) -> list[str]:
    """A legend and a line for each plan of the policies that change over the epochs, and for their mean."""
    lines = [(row, period) for row in rows if row.periods for period in (*row.periods, mean_of(row.periods))]
    if not lines:
        return []
    shares = [period.epochs / sum(each.epochs for each in row.periods) for row, period in lines]
    columns = [
        *names.columns([row for row, _ in lines]),
        TextColumn("Epochs", [_epochs(period) for _, period in lines]),
        TextColumn("Share (%)", [f"{100 * share:.0f}" for share in shares], "right"),
        _numbers("Step (ms)", [period.step for _, period in lines], 1e3),
        _numbers("End to end (ms)", [period.end_to_end for _, period in lines], 1e3),
        _numbers("Training peak (MiB)", [period.memory for _, period in lines], 1 / 2**20),
    ]
    return [
        "- Medians under each plan of a policy that changes over the epochs. **Mean**: weighted by epochs, as training "
        "is shown everywhere else; the peak of memory shown there is the largest of them.",
        table(columns),
    ]


def _epochs(period: Period) -> str:
    if not period.first:
        return "**mean**"
    last = period.first + period.epochs - 1
    return f"{period.first} to {last}" if period.epochs > 1 else str(period.first)


def _numbers(header: str, values: Sequence[float | None], scale: float) -> TextColumn:
    known = [value * scale for value in values if value is not None]
    places = decimals(known, 3)
    texts = [UNKNOWN if value is None else f"{value * scale:.{places}f}" for value in values]
    return TextColumn(header, texts, "right")


def _graphs(rows: Sequence[Row]) -> dict[str, dict[int, str]]:
    """What the compiler made, by column and by identity of the row; columns of which nothing is known are left out."""
    found = {}
    for name in ("inference", "training"):
        entries = {id(row): row.provenance("compile", name) for row in rows}
        texts = {row: _graph_text(entry) for row, entry in entries.items() if isinstance(entry, dict)}
        if texts:
            found[f"Graphs, {name}"] = texts
    return found


def _graph_text(entry: Mapping[str, Any]) -> str:
    """Counts of one compilation.

    >>> _graph_text({"graphs": 3, "graph_breaks": 2, "recompiles": 0})
    '3, 2 breaks'
    """
    graphs, breaks, recompiles = (
        count if type(count := entry.get(name)) is int else 0 for name in ("graphs", "graph_breaks", "recompiles")
    )
    parts = [str(graphs) if type(entry.get("graphs")) is int else UNKNOWN]
    parts += [f"{breaks} break{'s' if breaks > 1 else ''}"] * (breaks > 0)
    parts += [f"{recompiles} recompile{'s' if recompiles > 1 else ''}"] * (recompiles > 0)
    return ", ".join(parts)


def _peaks(rows: Sequence[Row]) -> list[str]:
    """The peaks with which the arithmetic was compared, by precision, in one sentence."""
    by_precision: dict[str, list[Row]] = {}
    for row in rows:
        if row.knows(PEAK):
            by_precision.setdefault(row.record.case.precision, []).append(row)
    texts = [_peak_text(precision, found) for precision, found in by_precision.items()]
    return [f"Peaks measured on this machine: {'; '.join(texts)}."] if texts else []


def _peak_text(precision: str, rows: Sequence[Row]) -> str:
    numbers = sorted(peak.estimate * PEAK.metric.scale for row in rows if (peak := row.interval(PEAK)) is not None)
    places = decimals(numbers, PEAK.metric.digits)
    values = dict.fromkeys(f"{number:,.{places}f}" for number in (numbers[0], numbers[-1]))
    kinds = dict.fromkeys(kind for row in rows if (kind := _kind(row)))
    works = f" ({' or '.join(kinds)})" if kinds else ""
    return f"{to_markdown(precision)} {' to '.join(values)} GFLOP/s{works}"


def _kind(row: Row) -> str:
    """What reached the peak, which is the larger of those that were measured."""
    rates = {name: row.provenance("peak", name) for name in _PEAKS}
    known = {name: rate for name, rate in rates.items() if isinstance(rate, int | float)}
    return _PEAKS[max(known, key=lambda name: known[name])] if known else ""
