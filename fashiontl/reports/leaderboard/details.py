"""Folded tables under a section's own: latency, the training step, memory, arithmetic, batch sizes, classes."""

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import median

from fashiontl.core.escape import to_markdown
from fashiontl.core.metrics import METRICS, Metric
from fashiontl.core.stats import Interval
from fashiontl.records.facts import Sweep
from fashiontl.reports.leaderboard.columns import (
    ACCURACY,
    ARITHMETIC,
    BASE_MEMORY,
    COLUMNS,
    LATENCIES,
    MEMORY,
    PEAK,
    SIZES,
    STEP,
    Group,
)
from fashiontl.reports.leaderboard.markdown import TextColumn, folded, table
from fashiontl.reports.leaderboard.names import Names, class_names
from fashiontl.reports.leaderboard.rows import (
    UNKNOWN,
    Row,
    best_marks,
    decimals,
    estimate_text,
    text_column,
)

# They say nothing that is worth a table of its own: most stand in others.
_NOT_REASON_ENOUGH = {*COLUMNS, *SIZES, BASE_MEMORY, PEAK}

_SWEPT = {"inference": METRICS["inference_throughput"], "training": METRICS["train_throughput"]}

# With more classes only the worst are named.
_MOST_CLASSES = 12
_WORST = 3
_CLASS = Metric("class_accuracy", "1", "higher", "Accuracy of a class (%)", 100.0)
_LOSS = Metric("loss", "nat", "lower", "Test loss (nats)")
_CALIBRATION = Metric("calibration_error", "1", "lower", "ECE (%)", 100.0)


def details_text(rows: Sequence[Row], names: Names) -> list[str]:
    """The tables of a section that show anything, each in Markdown and folded away."""
    found = {
        "Latency, loading and compiling": _table(rows, names, LATENCIES, _graphs(rows)),
        "Training step": _table(rows, names, STEP),
        "Memory": _table(rows, names, MEMORY),
        "Arithmetic and energy": _table(rows, names, ARITHMETIC),
        "Batch sizes": _sweeps(rows, names),
    }
    return [folded(title, *parts) for title, parts in found.items() if parts]


def _table(
    rows: Sequence[Row], names: Names, groups: Sequence[Group], compiled: Mapping[str, Mapping[int, str]] | None = None
) -> list[str]:
    reasons = [column for group in groups for column in group.columns if column not in _NOT_REASON_ENOUGH]
    shown = [row for row in rows if any(map(row.interval, reasons))]
    if not shown:
        return []
    known = {
        group: [column for column in group.columns if any(row.interval(column) for row in shown)] for group in groups
    }
    columns = [text_column(rows, column, shown) for column in itertools.chain.from_iterable(known.values())]
    columns += [
        TextColumn(title, [texts.get(id(row), UNKNOWN) for row in shown], "right")
        for title, texts in (compiled or {}).items()
    ]
    legends = [group.legend for group, found in known.items() if found]
    if compiled:
        legends.append(
            "**Graphs**: how many the compiler made; a break parts one, a recompile makes it anew for other inputs."
        )
    return [
        "\n".join(f"- {legend}" for legend in legends),
        table([*names.columns([row.record.case for row in shown]), *columns]),
    ]


def _graphs(rows: Sequence[Row]) -> dict[str, dict[int, str]]:
    """What the compiler made, by column and by identity of the row; columns of which nothing is known are left out."""
    found: dict[str, dict[int, str]] = {}
    for row, name in itertools.product(rows, _SWEPT):
        if made := row.facts.compile.get(name):
            counts = {"break": made.graph_breaks, "recompile": made.recompiles}
            parts = [f"{count} {what}{'s' * (count > 1)}" for what, count in counts.items() if count]
            text = ", ".join([UNKNOWN if made.graphs is None else str(made.graphs), *parts])
            found.setdefault(f"Graphs, {name}", {})[id(row)] = text
    return found


def _sweeps(rows: Sequence[Row], names: Names) -> list[str]:
    """Grids of cells and batch sizes in Markdown; none when no row has a sweep."""
    grids: list[str] = []
    for name, metric in _SWEPT.items():
        found = [(row, sweep) for row in rows if (sweep := row.facts.sweep.get(name)) and sweep.points]
        if not found:
            continue
        speeds = [
            {
                # How its moment and process differ from others is not known.
                point.batch: Interval(median(point.batch / each for each in point.seconds), -math.inf, math.inf)
                for point in sweep.points
            }
            for _, sweep in found
        ]
        batches = sorted(set(itertools.chain.from_iterable(speeds)))
        lines = [
            _best_of_line([speed.get(batch) for batch in batches], metric, row.sound)
            for (row, _), speed in zip(found, speeds, strict=True)
        ]
        columns = [
            *names.columns([row.record.case for row, _ in found]),
            *(TextColumn(str(b), texts, "right") for b, texts in zip(batches, zip(*lines, strict=True), strict=True)),
            TextColumn("Largest", [_largest(sweep) for _, sweep in found], "right"),
        ]
        grids += [f"**{metric.label}** by batch size", table(columns)]
    legend = (
        "Batch sizes double until memory, the setting's largest or the time is reached, which stands after the largest "
        "that ran. **Bold** is a line's best, not proven: each is of a single stretch in one process."
    )
    return [legend, *grids] if grids else []


def _best_of_line(intervals: Sequence[Interval | None], metric: Metric, sound: bool) -> list[str]:
    marks = best_marks(intervals if sound else [None] * len(intervals), metric)
    return [
        UNKNOWN if interval is None else mark.format(estimate_text(interval, metric))
        for interval, mark in zip(intervals, marks, strict=True)
    ]


def _largest(sweep: Sweep) -> str:
    if not sweep.largest:
        return UNKNOWN
    return f"{sweep.largest} ({to_markdown(sweep.limit)})" if sweep.limit else str(sweep.largest)


def classes_text(rows: Sequence[Row], names: Names) -> str:
    """A table of accuracy by class, test loss and calibration in Markdown; empty when no row knows any of them."""
    answered = [(row, row.answers) for row in rows if row.answers is not None]
    if not answered:
        return ""
    shown = [row for row, _ in answered]
    # A record whose count of classes is another's cannot be right.
    count = max(len(answers.classes) for _, answers in answered)
    classes = [answers.classes if len(answers.classes) == count else (None,) * count for _, answers in answered]
    titles = [to_markdown(title) for title in class_names(shown[0].record.case.task, count)]
    if count <= _MOST_CLASSES:
        by_class = [
            TextColumn(title, _estimates(shown, [found[index] for found in classes], _CLASS), "right")
            for index, title in enumerate(titles)
        ]
    else:
        by_class = [TextColumn("Worst classes (%)", [_worst(found, titles) for found in classes])]
    columns = [
        *names.columns([row.record.case for row in shown]),
        text_column(shown, ACCURACY),
        *by_class,
        TextColumn(_LOSS.label, _estimates(shown, [answers.loss for _, answers in answered], _LOSS), "right"),
        TextColumn(
            _CALIBRATION.label,
            _estimates(shown, [answers.calibration_error for _, answers in answered], _CALIBRATION),
            "right",
        ),
    ]
    return (
        "Of each class, how many percent of its test images were right; means over seeds. ECE is the expected "
        "calibration error: by how much confidence and accuracy differ. `~`: by loss and ECE no best is proven, since "
        f"they have no interval.\n\n{table(columns)}"
    )


def _worst(intervals: Sequence[Interval | None], titles: Sequence[str]) -> str:
    known = [(found.estimate, title) for found, title in zip(intervals, titles, strict=True) if found is not None]
    worst = sorted(known, key=lambda entry: entry[0])[:_WORST]
    return ", ".join(f"{title}\xa0{estimate * 100:.1f}" for estimate, title in worst) or UNKNOWN


def _estimates(rows: Sequence[Row], intervals: Sequence[Interval | None], metric: Metric) -> list[str]:
    """Estimates alone, the best marked as everywhere."""
    marks = best_marks([i if row.sound else None for row, i in zip(rows, intervals, strict=True)], metric)
    known = [interval.estimate * metric.scale for interval in intervals if interval is not None]
    places = 1 if metric.scale == 100 else decimals(known, metric.digits)
    return [
        UNKNOWN if interval is None else mark.format(f"{interval.estimate * metric.scale:.{places}f}")
        for interval, mark in zip(intervals, marks, strict=True)
    ]
