"""One section a task, machine and meaning of the settings: a table and, under it, all that its numbers depend on."""

import dataclasses
from collections.abc import Iterable, Sequence

from fashiontl.core.case import PRESETS, Settings
from fashiontl.core.escape import LONGEST_NAME, to_markdown
from fashiontl.records import meaning
from fashiontl.reports.leaderboard.classes import classes_text
from fashiontl.reports.leaderboard.columns import ACCURACY, COLUMNS, P99, SIZES, Column
from fashiontl.reports.leaderboard.details import details_text
from fashiontl.reports.leaderboard.footnotes import Footnotes
from fashiontl.reports.leaderboard.grids import grids_text
from fashiontl.reports.leaderboard.hybrids import hybrids_text
from fashiontl.reports.leaderboard.markdown import TextColumn, folded, short_digest, table
from fashiontl.reports.leaderboard.names import Names, known_task
from fashiontl.reports.leaderboard.notes import notes
from fashiontl.reports.leaderboard.rows import UNKNOWN, Row, by_accuracy, column_texts

# A longer table is folded away under its grids, and grouped by architecture.
_MOST_ROWS_OPEN = 24


@dataclasses.dataclass(frozen=True)
class Section:
    """Rows whose numbers may be compared.

    Attributes:
        rows: sorted by accuracy; at least one.
    """

    rows: tuple[Row, ...]

    @property
    def newest(self) -> Row:
        """The row that was measured last."""
        return max(self.rows, key=lambda row: row.record.started)

    @property
    def title(self) -> str:
        """Task, settings and machine."""
        record = self.newest.record
        environment = record.environment
        threads = f"{environment.threads} thread{'s' if environment.threads > 1 else ''}"
        cores = f"{environment.usable_cores:g} cores, {threads}"
        machine = environment.accelerator or f"{environment.cpu} ({cores})"
        return f"{_task_title(record.case.task)}, {settings_name(record.settings)}, on {machine}"


def sections(rows: Iterable[Row]) -> list[Section]:
    """Group rows; the section with the newest record comes first."""
    groups: dict[tuple[str, str, Settings], list[Row]] = {}
    for row in rows:
        key = (row.record.case.task, row.record.machine, meaning(row.record.settings))
        groups.setdefault(key, []).append(row)
    found = [Section(tuple(by_accuracy(group))) for group in groups.values()]
    return sorted(found, key=lambda section: (section.newest.record.started, section.title), reverse=True)


def settings_name(settings: Settings) -> str:
    """The preset, and what was changed in it as far as it matters.

    >>> settings_name(dataclasses.replace(PRESETS["quick"], epochs=3, timeout=5.0))
    'quick with epochs=3'
    """
    preset = PRESETS.get(settings.preset)
    if preset is None:
        return settings.preset
    fields = dataclasses.fields(Settings)
    mine, its = meaning(settings), meaning(preset)
    changes = [f"{f.name}={getattr(mine, f.name)}" for f in fields if getattr(mine, f.name) != getattr(its, f.name)]
    return settings.preset + (f" with {', '.join(changes)}" if changes else "")


def section_text(section: Section) -> str:
    """The section in Markdown."""
    names = Names.of(section.rows)
    many = len(section.rows) > _MOST_ROWS_OPEN
    rows = _by_architecture(section.rows) if many else section.rows
    footnotes = Footnotes(rows)
    # From fewer samples than it takes, a 99th percentile would only widen the table.
    columns = [column for column in COLUMNS if column is not P99 or any(row.knows(P99) for row in rows)]
    cells = _table(rows, columns, names, TextColumn("Status", [footnotes.status(row) for row in rows]))
    task = known_task(section.newest.record.case.task)
    sizes = _table(rows, SIZES, names, TextColumn("Weights' SHA-256", [_weights(row) for row in rows]))
    classes = classes_text(rows, names)
    parts = [
        f"## {to_markdown(section.title)}",
        f"{to_markdown(task.title[:1].upper() + task.title[1:])}." if task else "",
        names.legend(),
        grids_text(rows, names, footnotes),
        hybrids_text(rows, names),
        folded(f"All {len(rows)} cells", cells) if many else cells,
        "\n".join(f"- {note}" for note in notes(rows)),
        footnotes.text,
        *details_text(rows, names),
        folded("Sizes, times and weights", sizes),
        folded("Accuracy by class, loss and calibration", classes) if classes else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _table(rows: Sequence[Row], columns: Sequence[Column], names: Names, last: TextColumn) -> str:
    numbers = [TextColumn(column.label, column_texts(rows, column), "right") for column in columns]
    return table([*names.columns(rows), *numbers, last])


def _by_architecture(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Each architecture's rows together, in their order; architectures by their first, which is their best."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.record.case.architecture, []).append(row)
    return tuple(row for group in groups.values() for row in group)


def _task_title(name: str) -> str:
    """A task with its training images in words.

    >>> _task_title("fashion10@100"), _task_title("fashion10")
    ('fashion10, 100 training images a class', 'fashion10')
    """
    task, _, images = name.partition("@")
    return f"{task}, {images} training images a class" if images.isdecimal() else name


def _weights(row: Row) -> str:
    digest = row.provenance("weights", "sha256")
    accuracy = row.provenance("pretraining", "accuracy")
    if not digest:
        return UNKNOWN
    source = f", {accuracy * 100:.1f} % on their own task" if isinstance(accuracy, float) else ""
    return f"{short_digest(digest)}{source}"


def overview(found: Sequence[Section]) -> str:
    """One line a section: how many cells went well, and the most accurate."""
    lines = []
    for section in found:
        best = section.rows[0]
        known = best.sound and best.interval(ACCURACY) is not None
        name = to_markdown(best.record.id, LONGEST_NAME) if known else UNKNOWN
        accuracy = column_texts([best], ACCURACY)[0] if known else UNKNOWN
        sound = sum(row.sound for row in section.rows)
        lines.append((to_markdown(section.title), f"{sound} of {len(section.rows)}", name, accuracy))
    titles, sound_ones, names, accuracies = zip(*lines, strict=True)
    return table(
        [
            TextColumn("Section", titles),
            TextColumn("Cells ok", sound_ones, "right"),
            TextColumn("Most accurate", names),
            TextColumn(ACCURACY.label, accuracies, "right"),
        ]
    )
