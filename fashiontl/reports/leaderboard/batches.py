"""Throughput by batch size, and the largest batch that fits."""

from collections.abc import Sequence

from fashiontl.core.metrics import METRICS
from fashiontl.reports.leaderboard.markdown import TextColumn, table
from fashiontl.reports.leaderboard.names import Names
from fashiontl.reports.leaderboard.rows import UNKNOWN, Row, best_marks, decimals, relative_widths
from fashiontl.reports.leaderboard.sweeps import Sweep

_METRICS = {"inference": METRICS["inference_throughput"], "training": METRICS["train_throughput"]}


def batches_text(rows: Sequence[Row], names: Names) -> list[str]:
    """Grids of cells and batch sizes in Markdown; none when no row has a sweep.

    Args:
        rows: of one section, in the order to be shown.
        names: of the section.
    """
    grids = [part for name in _METRICS for part in _grid([row for row in rows if name in row.sweeps], name, names)]
    if not grids:
        return []
    return [
        "Batch sizes double until memory, the setting's largest or the time is reached, which stands after the largest "
        "that ran. **Bold** is a line's best.",
        *grids,
    ]


def _grid(rows: Sequence[Row], name: str, names: Names) -> list[str]:
    if not rows:
        return []
    sweeps = [row.sweeps[name] for row in rows]
    batches = sorted({batch for sweep in sweeps for batch in sweep.paces})
    texts = [_line(row, row.sweeps[name], batches, name) for row in rows]
    columns = [
        *names.columns(rows),
        *(TextColumn(str(batch), [text[index] for text in texts], "right") for index, batch in enumerate(batches)),
        TextColumn("Largest", [_largest(sweep) for sweep in sweeps], "right"),
    ]
    paces = [pace for sweep in sweeps for pace in sweep.paces.values()]
    return [f"**{_METRICS[name].label}** by batch size", table(columns), *filter(None, [relative_widths(paces)])]


def _line(row: Row, sweep: Sweep, batches: Sequence[int], name: str) -> list[str]:
    metric = _METRICS[name]
    paces = [sweep.paces.get(batch) for batch in batches]
    marks = best_marks(paces if row.sound else [None] * len(paces), metric)
    return [
        UNKNOWN
        if pace is None
        else mark.format(f"{pace.estimate * metric.scale:.{decimals([pace.estimate * metric.scale], metric.digits)}f}")
        for pace, mark in zip(paces, marks, strict=True)
    ]


def _largest(sweep: Sweep) -> str:
    if sweep.largest is None:
        return UNKNOWN
    return f"{sweep.largest} ({sweep.limit})" if sweep.limit else str(sweep.largest)
