"""One section a task, machine and meaning of the settings: a table and, under it, all that its numbers depend on."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from fashiontl.case import PRESETS, Settings
from fashiontl.data import TASKS
from fashiontl.leaderboard.notes import escape, notes, provenance_entry
from fashiontl.leaderboard.rows import ACCURACY, COLUMNS, DETAILS, UNKNOWN, Column, Row, by_accuracy, column_texts
from fashiontl.record import meaning

# A longer one is cut in the table; the record has it whole.
_LONGEST_REASON = 100
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


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
        return f"{record.case.task}, {settings_name(record.settings)}, on {machine}"


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
    rows = section.rows
    footnotes = list(dict.fromkeys(doubts for row in rows if (doubts := _doubts(row))))
    statuses = [_status(row, footnotes) for row in rows]
    task = TASKS.get(section.newest.record.case.task)
    under = [*(f"- {note}" for note in notes(rows)), ""]
    # Two spaces at the end are a line break.
    under += [f"{_superscript(index)} {escape(text)}  " for index, text in enumerate(footnotes)]
    parts = [
        f"## {escape(section.title)}",
        f"{task.title[0].upper()}{task.title[1:]}." if task else "",
        table(rows, COLUMNS, {"Status": statuses}),
        "\n".join(under).strip(),
        "<details><summary>Sizes, times and weights</summary>",
        table(rows, DETAILS, {"Weights' SHA-256": [_weights(row) for row in rows]}),
        "</details>",
    ]
    return "\n\n".join(part for part in parts if part)


def table(rows: Sequence[Row], columns: Sequence[Column], last: dict[str, list[str]]) -> str:
    """A table in GitHub's form, numbers to the right."""
    import pandas as pd

    cases = [row.record.case for row in rows]
    first = {
        "Architecture": [escape(case.architecture) for case in cases],
        "Policy": [escape(case.policy) for case in cases],
        "Weights": [escape(PurePath(case.weights).name) for case in cases],
    }
    # One device for all rows is in the section's title already, as the machine.
    if len({case.device for case in cases}) > 1:
        first["Device"] = [escape(case.device) for case in cases]
    numbers = {column.label: column_texts(rows, column) for column in columns}
    align = ["left"] * len(first) + ["right"] * len(numbers) + ["left"] * len(last)
    frame = pd.DataFrame({**first, **numbers, **last})
    return str(frame.to_markdown(index=False, colalign=align, disable_numparse=True))


def _status(row: Row, footnotes: list[str]) -> str:
    record = row.record
    reason = " ".join(record.reason.split())
    if len(reason) > _LONGEST_REASON:
        reason = reason[: _LONGEST_REASON - 1] + "…"
    text = "ok" if row.sound else f"**{record.status}**" + (f": {escape(reason)}" if reason else "")
    doubts = _doubts(row)
    return f"{text} {_superscript(footnotes.index(doubts))}" if doubts else text


def _superscript(index: int) -> str:
    return str(index + 1).translate(_SUPERSCRIPTS)


def _doubts(row: Row) -> str:
    """All that a reader must know about a row's numbers; empty when there is nothing."""
    doubts = list(row.record.warnings)
    unmoved = (row.record.proof or {}).get("unmoved", ())
    if isinstance(unmoved, list | tuple) and unmoved:
        names = ", ".join(map(str, unmoved[:3])) + (", …" if len(unmoved) > 3 else "")
        doubts.append(f"{len(unmoved)} tensors that should train did not move ({names})")
    return "; ".join(doubts)


def _weights(row: Row) -> str:
    digest = provenance_entry(row, "weights", "sha256")
    accuracy = provenance_entry(row, "pretraining", "accuracy")
    if not digest:
        return UNKNOWN
    source = f", {accuracy * 100:.1f} % on their own task" if isinstance(accuracy, float) else ""
    return f"`{str(digest)[:12]}`{source}"


def overview(found: Sequence[Section]) -> str:
    """One line a section: how many cells went well, and the most accurate."""
    import pandas as pd

    lines = []
    for section in found:
        best = section.rows[0]
        known = best.sound and ACCURACY.label in best.intervals
        name, accuracy = (escape(best.record.id), column_texts([best], ACCURACY)[0]) if known else (UNKNOWN, UNKNOWN)
        sound = sum(row.sound for row in section.rows)
        lines.append((escape(section.title), f"{sound} of {len(section.rows)}", name, accuracy))
    frame = pd.DataFrame(lines, columns=["Section", "Cells ok", "Most accurate", ACCURACY.label])
    return str(frame.to_markdown(index=False, colalign=["left", "right", "left", "right"], disable_numparse=True))
