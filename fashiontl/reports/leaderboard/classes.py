"""How well each class is told apart, and how far the probabilities can be trusted."""

from collections.abc import Sequence

from fashiontl.core.escape import to_markdown
from fashiontl.core.metrics import Metric
from fashiontl.core.stats import Interval
from fashiontl.reports.leaderboard.columns import ACCURACY
from fashiontl.reports.leaderboard.markdown import TextColumn, table
from fashiontl.reports.leaderboard.names import Names, known_task
from fashiontl.reports.leaderboard.rows import UNKNOWN, Row, best_marks, column_texts, decimals

# With more classes only the worst are named.
_MOST_CLASSES = 12
_WORST = 3

_CLASS = Metric("class_accuracy", "1", "higher", "Accuracy of a class (%)", 100.0)
_LOSS = Metric("loss", "nat", "lower", "Test loss (nats)")
_CALIBRATION = Metric("calibration_error", "1", "lower", "ECE (%)", 100.0)


def classes_text(rows: Sequence[Row], names: Names) -> str:
    """A table of accuracy by class, test loss and calibration in Markdown; empty when no row knows any of them.

    Args:
        rows: of one section, in the order to be shown.
        names: of the section.
    """
    shown = [row for row in rows if row.answers is not None]
    if not shown:
        return ""
    accuracies = [row.answers.classes if row.answers else () for row in shown]
    # A record whose count of classes is another's cannot be right.
    count = len(max(accuracies, key=len))
    accuracies = [found if len(found) == count else () for found in accuracies]
    titles = class_names(shown[0].record.case.task, count)
    losses = [row.answers.loss if row.answers else None for row in shown]
    errors = [row.answers.calibration_error if row.answers else None for row in shown]
    columns = [
        *names.columns(shown),
        TextColumn(ACCURACY.label, column_texts(shown, ACCURACY), "right"),
        *(_class_columns(shown, accuracies, titles) if count <= _MOST_CLASSES else _worst(accuracies, titles)),
        TextColumn(_LOSS.label, _texts(shown, losses, _LOSS), "right"),
        TextColumn(_CALIBRATION.label, _texts(shown, errors, _CALIBRATION), "right"),
    ]
    return (
        "Of each class, how many percent of its test images were right; means over seeds. ECE is the expected "
        "calibration error: by how much confidence and accuracy differ. `~`: by loss and ECE no best is proven, since "
        f"they have no interval.\n\n{table(columns)}"
    )


def class_names(task: str, count: int) -> Sequence[str]:
    """Names of a task's classes; their numbers when this process does not know the task, or knows it otherwise.

    >>> class_names("fashion4", 4)[1], class_names("of_a_user", 2)
    ('Trouser', ('0', '1'))
    """
    known = known_task(task)
    return known.class_names if known and len(known.class_names) == count else tuple(map(str, range(count)))


def _class_columns(
    rows: Sequence[Row], accuracies: Sequence[tuple[Interval | None, ...]], titles: Sequence[str]
) -> list[TextColumn]:
    return [
        TextColumn(
            to_markdown(title), _texts(rows, [found[index] if found else None for found in accuracies], _CLASS), "right"
        )
        for index, title in enumerate(titles)
    ]


def _worst(accuracies: Sequence[tuple[Interval | None, ...]], titles: Sequence[str]) -> list[TextColumn]:
    texts = []
    for found in accuracies:
        known = [
            (interval.estimate, title) for interval, title in zip(found, titles, strict=False) if interval is not None
        ]
        worst = sorted(known, key=lambda entry: entry[0])[:_WORST]
        texts.append(", ".join(f"{to_markdown(title)}\xa0{estimate * 100:.1f}" for estimate, title in worst) or UNKNOWN)
    return [TextColumn("Worst classes (%)", texts)]


def _texts(rows: Sequence[Row], intervals: Sequence[Interval | None], metric: Metric) -> list[str]:
    """Estimates alone, the best marked as everywhere."""
    marks = best_marks([i if row.sound else None for row, i in zip(rows, intervals, strict=True)], metric)
    known = [interval.estimate * metric.scale for interval in intervals if interval is not None]
    places = 1 if metric.scale == 100 else decimals(known, metric.digits)
    return [
        UNKNOWN if interval is None else mark.format(f"{interval.estimate * metric.scale:.{places}f}")
        for interval, mark in zip(intervals, marks, strict=True)
    ]
