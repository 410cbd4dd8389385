"""The leaderboard: records in, one page of Markdown out. No torch.

A page has one section for each task, machine and meaning of the settings: tables, and under them all that the numbers
depend on.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name

from fashiontl.core.case import PRESETS, Settings
from fashiontl.core.errors import FashiontlError
from fashiontl.core.escape import LONGEST_NAME, to_line, to_markdown, to_terminal
from fashiontl.core.files import write_atomically
from fashiontl.matrix.extensions import REPORT_SECTIONS, ReportSection
from fashiontl.records import Record, latest, meaning, read_newest, with_earlier
from fashiontl.reports.leaderboard.between import Between, over_runs
from fashiontl.reports.leaderboard.columns import ACCURACY, COLUMNS, P99, SIZES, SUMMARY, Column
from fashiontl.reports.leaderboard.details import classes_text, details_text
from fashiontl.reports.leaderboard.grids import grids_text
from fashiontl.reports.leaderboard.hybrids import hybrids_text
from fashiontl.reports.leaderboard.markdown import TextColumn, folded, short_digest, table
from fashiontl.reports.leaderboard.names import Names, known_task
from fashiontl.reports.leaderboard.notes import Footnotes, notes
from fashiontl.reports.leaderboard.rows import UNKNOWN, Row, by_accuracy, row_of, text_column
from fashiontl.timing.loops import no_garbage_collection

_INTRODUCTION = """# Leaderboard

Written by `fashiontl leaderboard` from the records under `runs/`. The newest record of each cell counts; of speed,
three or more runs of a cell on one machine are combined. Tables are sorted by accuracy on the test images, and each
holds only what may be compared: one task, one machine, one set of settings. More than 12 cells begin with a grid of
architecture and policy; more than 24 are folded away under it, by architecture.

- `±` is the larger half of a 95 % interval: of accuracy for new test images and seeds; of speed for other moments and
  processes of that run, or, of combined runs, for further runs. In parentheses it is of a single process, which is too
  small: such a number is compared with nothing.
- **Bold** is the best of a column; in a grid, of a line, and ★ of all. `~` marks it and all that cannot be told from
  it: what is truly best is among them with 95 %. A bold `~` alone: nothing is proven, since each is one measurement, or
  of one seed.
- `disturbed` is a speed of which every moment was disturbed by something else on the machine.
- `—` is unknown. Cells that failed or were skipped stand last, with the reason and what was measured before; a
  grid has their status alone.
- Speeds and latency include no loading of data, except those called end to end. A training step runs every stage,
  forward and back, as the policy asks; latency is that of one image.
- Numbers that few people look for are folded away under each table, each with a line on what it is."""

# Of a cell's name in a terminal, so that all columns fit into about 110.
_LINE_OF_NAME = 28

# Of what could not be read, with all its errors.
_LONGEST_ERROR = 2000

# A longer table is folded away under its grids, and grouped by architecture.
_MOST_ROWS_OPEN = 24


def render(records: Iterable[Record], errors: Sequence[str] = ()) -> str:
    """The page in Markdown of the newest record of each cell, and of errors of lines that could not be read."""
    return "".join(page([row_of(newest, earlier) for newest, earlier in with_earlier(records)], errors))


# Rows and texts form no cycles, and going through very many of them in search of some takes a long time.
@no_garbage_collection()
def write(results: Path, warn: Callable[[str], None] = lambda error: None) -> Path:
    """Read all runs and write `leaderboard.md` beside them; `warn` is called with each error of a line.

    Raises:
        FashiontlError: there are no runs.
    """
    rows, errors = read_rows(results)
    if not rows and not errors:
        raise FashiontlError(
            f"expected runs under {results / 'runs'}, got none; run pytest bench/ --results {results} first, or name "
            "another folder with --results"
        )
    path = results / "leaderboard.md"
    write_atomically(path, (part.encode(errors="replace") for part in page(rows, errors)))
    for error in errors:
        warn(error)
    return path


def read_rows(results: Path) -> tuple[list[Row], list[str]]:
    """The newest row of each cell of all runs, and what could not be read."""
    return read_newest(results, row_of)


def summary(records: Iterable[Record]) -> str:
    """A table for the terminal, most accurate first, with the reasons of what failed under it."""
    from tabulate import tabulate

    rows = by_accuracy([row_of(record) for record in latest(records)])
    if not rows:
        return "no records"
    columns = {
        # Each word goes to a line of its own, since a terminal is narrow.
        column.label.replace(" ", "\n"): [
            text.replace("*", "").replace("\xa0", " ") for text in text_column(rows, column).texts
        ]
        for column in SUMMARY
    }
    table = {
        "Cell": [_broken(to_line(row.record.id, LONGEST_NAME)) for row in rows],
        **columns,
        "Status": [to_line(row.record.status) for row in rows],
    }
    align = ["left", *["right"] * len(columns), "left"]
    failures = [to_line(f"{row.record.id}: {row.record.status}: {row.record.reason}") for row in rows if not row.sound]
    text = tabulate(table, headers="keys", tablefmt="simple", colalign=align, disable_numparse=True)
    return to_terminal("\n".join([text, *failures]))


def _broken(name: str) -> str:
    """A cell's name on as many lines as it takes, broken after its hyphens and its members' plus signs."""
    lines = re.findall(rf".{{1,{_LINE_OF_NAME}}}(?:(?<=[-+])|$)|.{{1,{_LINE_OF_NAME}}}", name)
    return "\n  ".join(lines)


def page(rows: Sequence[Row], errors: Sequence[str] = ()) -> Iterator[str]:
    """The page in Markdown, a section at a time, so that a page of very many need not be held at once."""
    yield _INTRODUCTION
    rows, known = over_runs(rows)
    found = sections(rows)
    if len(found) > 1:
        yield "\n\n" + overview(found)
    for section in found:
        yield "\n\n" + section_text(section, known.get(section[0].record.machine, {}))
    if errors:
        yield "\n\n## Lines that could not be read\n\n" + "\n".join(
            f"- {to_markdown(error, _LONGEST_ERROR)}" for error in errors
        )
    yield "\n"


def sections(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows whose numbers may be compared, by accuracy; the section with the newest record comes first."""
    groups: dict[tuple[str, str, Settings], list[Row]] = {}
    for row in rows:
        key = (row.record.case.task, row.record.machine, meaning(row.record.settings))
        groups.setdefault(key, []).append(row)
    found = [by_accuracy(group) for group in groups.values()]
    return sorted(found, key=lambda section: (newest(section).started, section_title(section)), reverse=True)


def newest(rows: Iterable[Row]) -> Record:
    """The record that was measured last."""
    return max((row.record for row in rows), key=lambda record: record.started)


def section_title(rows: Sequence[Row]) -> str:
    """Task, settings and machine."""
    record = newest(rows)
    environment = record.environment
    threads = f"{environment.threads} thread{'s' if environment.threads > 1 else ''}"
    machine = environment.accelerator or f"{environment.cpu} ({environment.usable_cores:g} cores, {threads})"
    task, _, images = record.case.task.partition("@")
    titled = f"{task}, {images} training images a class" if images.isdecimal() else record.case.task
    return f"{titled}, {settings_name(record.settings)}, on {machine}"


def settings_name(settings: Settings) -> str:
    """The preset, and what was changed in it as far as it matters, such as `quick with epochs=3`."""
    preset = PRESETS.get(settings.preset)
    if preset is None:
        return settings.preset
    fields = dataclasses.fields(Settings)
    mine, its = meaning(settings), meaning(preset)
    changes = [f"{f.name}={getattr(mine, f.name)}" for f in fields if getattr(mine, f.name) != getattr(its, f.name)]
    return settings.preset + (f" with {', '.join(changes)}" if changes else "")


def section_text(rows: Sequence[Row], known: Mapping[str, Between]) -> str:
    """A section in Markdown; of each timed metric, where it is known, how the machine's runs differ."""
    names, title = Names.of(rows), section_title(rows)
    task = known_task(newest(rows).case.task)
    many = len(rows) > _MOST_ROWS_OPEN
    if many:
        # By architecture, those first whose best is best.
        architectures = list(dict.fromkeys(row.record.case.architecture for row in rows))
        rows = sorted(rows, key=lambda row: architectures.index(row.record.case.architecture))
    footnotes = Footnotes(rows)
    # From fewer samples than it takes, a 99th percentile would only widen the table.
    columns = [column for column in COLUMNS if column is not P99 or any(row.interval(P99) for row in rows)]
    cells = _table(rows, columns, names, TextColumn("Status", [footnotes.status(row) for row in rows]))
    sizes = _table(rows, SIZES, names, TextColumn("Weights' SHA-256", [_weights(row) for row in rows]))
    classes = classes_text(rows, names)
    parts = [
        f"## {to_markdown(title)}",
        f"{to_markdown(task.title[:1].upper() + task.title[1:])}." if task else "",
        names.legend(),
        grids_text(rows, names, footnotes),
        hybrids_text(rows, names),
        folded(f"All {len(rows)} cells", cells) if many else cells,
        "\n".join(f"- {note}" for note in notes(rows, known)),
        footnotes.text,
        *details_text(rows, names),
        folded("Sizes, times and weights", sizes),
        folded("Accuracy by class, loss and calibration", classes) if classes else "",
        *(_own_section(section, rows) for section in REPORT_SECTIONS.values()),
    ]
    return "\n\n".join(part for part in parts if part)


def _own_section(section: ReportSection, rows: Sequence[Row]) -> str:
    """A section of the user's own; where its function fails, the error stands in its place."""
    try:
        text = str(resolve_name(section.function)([row.record for row in by_accuracy(rows)]))
    except Exception as error:  # the page must not be lost by it
        text = to_markdown(f"{section.function} failed: {type(error).__name__}: {error}")
    return folded(section.name, text)


def _table(rows: Sequence[Row], columns: Sequence[Column], names: Names, last: TextColumn) -> str:
    numbers = [text_column(rows, column) for column in columns]
    return table([*names.columns([row.record.case for row in rows]), *numbers, last])


def _weights(row: Row) -> str:
    digest, accuracy = row.facts.weights.sha256, row.facts.pretraining.accuracy
    if not digest:
        return UNKNOWN
    return short_digest(digest) + ("" if accuracy is None else f", {accuracy * 100:.1f} % on their own task")


def overview(found: Sequence[Sequence[Row]]) -> str:
    """One line a section: how many cells went well, and the most accurate."""
    best = [rows[0] if rows[0].sound and rows[0].interval(ACCURACY) else None for rows in found]
    return table(
        [
            TextColumn("Section", [to_markdown(section_title(rows)) for rows in found]),
            TextColumn("Cells ok", [f"{sum(row.sound for row in rows)} of {len(rows)}" for rows in found], "right"),
            TextColumn("Most accurate", [to_markdown(row.record.id, LONGEST_NAME) if row else UNKNOWN for row in best]),
            TextColumn(
                ACCURACY.label, [text_column([row], ACCURACY).texts[0] if row else UNKNOWN for row in best], "right"
            ),
        ]
    )
