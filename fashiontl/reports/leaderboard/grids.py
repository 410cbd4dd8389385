"""What to choose from at a glance: grids of architecture and policy, and the cells that no other beats."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fashiontl.core.escape import LONGEST_NAME, to_markdown
from fashiontl.core.stats import Interval
from fashiontl.freezing import POLICIES
from fashiontl.reports.leaderboard.columns import ACCURACY, LATENCY, TRAINING, TRAINING_MEMORY, Column
from fashiontl.reports.leaderboard.footnotes import Footnotes
from fashiontl.reports.leaderboard.markdown import TextColumn, folded, table
from fashiontl.reports.leaderboard.names import Names, variant_name, weights_name
from fashiontl.reports.leaderboard.rows import (
    UNKNOWN,
    Row,
    best_marks,
    best_of,
    by_accuracy,
    column_texts,
    decimals_of_one,
    half_width,
    relative_widths,
)

_MOST_ROWS_WITHOUT = 12
# More columns than these scroll sideways on GitHub; the grid is then cut into several of about as many.
_MOST_POLICIES = 9
_MOST_ON_FRONTIER = 10


@dataclass(frozen=True)
class _Line:
    """One line of a grid: a start of one architecture on one device, run in one way, by policy."""

    architecture: str
    device: str
    variant: tuple[str, ...]
    weights: str
    cells: dict[str, Row]


def grids_text(rows: Sequence[Row], names: Names, footnotes: Footnotes) -> str:
    """Grids and frontier of a section in Markdown; empty when its table can be read without.

    Args:
        rows: of the section.
        names: of the section.
        footnotes: of the section.
    """
    cases = [row.record.case for row in rows]
    if (
        len(rows) <= _MOST_ROWS_WITHOUT
        or len({case.architecture for case in cases}) < 2
        or len({case.policy for case in cases}) < 2
    ):
        return ""
    lines = _lines(rows)

    def grid(column: Column) -> list[str]:
        title = f"**{column.label}** by architecture and policy"
        return [title, *_grid(lines, column, names, footnotes), _remarks(rows, column)]

    costs = [*grid(TRAINING), *grid(TRAINING_MEMORY)]
    if not _known(rows, ACCURACY):
        return "\n\n".join(filter(None, costs))
    parts = [
        *grid(ACCURACY),
        _frontier_text(rows, names, footnotes),
        folded("Training speed and memory by architecture and policy", *costs),
    ]
    return "\n\n".join(part for part in parts if part)


def frontier(rows: Sequence[Row]) -> list[Row]:
    """Sound rows that no other beats: that is as good in accuracy and training speed, and better in one of them.

    Returns:
        From the most accurate, which is the slowest to train, to the fastest.
    """
    both = [(row, row.interval(ACCURACY), row.interval(TRAINING)) for row in rows if row.sound]
    known = [(row, a.estimate, t.estimate) for row, a, t in both if a is not None and t is not None]
    known.sort(key=lambda entry: (-entry[1], -entry[2]))
    found: list[tuple[Row, float, float]] = []
    for entry in known:
        if not found or entry[2] > found[-1][2] or entry[1:] == found[-1][1:]:
            found.append(entry)
    return [row for row, _, _ in found]


def _lines(rows: Sequence[Row]) -> list[_Line]:
    """Lines by their best accuracy. A model from scratch has no weights, so it stands beside each start of its own."""
    lines: dict[tuple[str, str, tuple[str, ...], str], _Line] = {}
    scratch: list[Row] = []
    for row in by_accuracy(rows):
        case = row.record.case
        if case.policy == "scratch":
            scratch.append(row)
            continue
        key = (case.architecture, case.device, case.variant, case.weights)
        lines.setdefault(key, _Line(*key, {})).cells[case.policy] = row
    beside: dict[tuple[str, str, tuple[str, ...]], list[_Line]] = {}
    for key, line in lines.items():
        beside.setdefault(key[:-1], []).append(line)
    for row in scratch:
        case = row.record.case
        key = (case.architecture, case.device, case.variant, case.weights)
        for line in beside.get(key[:-1]) or [lines.setdefault(key, _Line(*key, {}))]:
            line.cells["scratch"] = row

    def order(line: _Line) -> tuple[float, str, str, str, tuple[str, ...]]:
        known = [i for row in line.cells.values() if row.sound and (i := row.interval(ACCURACY)) is not None]
        best = max((interval.estimate for interval in known), default=-math.inf)
        return -best, line.architecture, line.weights, line.device, line.variant

    return sorted(lines.values(), key=order)


def _grid(lines: Sequence[_Line], column: Column, names: Names, footnotes: Footnotes) -> list[str]:
    places = list(POLICIES)
    policies = sorted(
        {policy for line in lines for policy in line.cells},
        key=lambda policy: (places.index(policy) if policy in places else len(places), policy),
    )
    first = [TextColumn("Architecture", [names.architecture(line.architecture) for line in lines])]
    if len({(line.architecture, line.device, line.variant) for line in lines}) < len(lines):
        first.append(TextColumn("Weights", [weights_name(line.weights) for line in lines]))
    if names.variants:
        first.append(TextColumn("Variant", [variant_name(line.variant) for line in lines]))
    if names.devices:
        first.append(TextColumn("Device", [to_markdown(line.device, LONGEST_NAME) for line in lines]))
    best = _best([row for line in lines for row in line.cells.values()], column)
    texts = [_line_texts(line, policies, column, best, footnotes) for line in lines]
    cells = [
        TextColumn(to_markdown(policy, LONGEST_NAME), [text[index] for text in texts], "right")
        for index, policy in enumerate(policies)
    ]
    width = math.ceil(len(cells) / math.ceil(len(cells) / _MOST_POLICIES))
    return [table([*first, *cells[start : start + width]]) for start in range(0, len(cells), width)]


def _line_texts(
    line: _Line, policies: Sequence[str], column: Column, best: Interval | None, footnotes: Footnotes
) -> list[str]:
    rows = [line.cells.get(policy) for policy in policies]
    intervals = [row.interval(column) if row and row.sound else None for row in rows]
    texts = []
    for row, interval, mark in zip(rows, intervals, best_marks(intervals, column.metric), strict=True):
        if row is None or interval is None:
            texts.append(UNKNOWN if row is None or row.sound else to_markdown(row.record.status))
            continue
        shown = interval.estimate * column.metric.scale
        places = 1 if column is ACCURACY else decimals_of_one(shown, column.metric.digits)
        star = " ★" if best and interval.estimate == best.estimate else ""
        texts.append(mark.format(f"{shown:.{places}f}") + star + footnotes.mark(row))
    return texts


def _known(rows: Sequence[Row], column: Column) -> list[Interval]:
    return [interval for row in rows if row.sound and (interval := row.interval(column)) is not None]


def _best(rows: Sequence[Row], column: Column) -> Interval | None:
    known = _known(rows, column)
    return best_of(known, column.metric) if len(known) > 1 else None


def _remarks(rows: Sequence[Row], column: Column) -> str:
    """How wide the intervals are that the grid leaves out, and whether its best is proven."""
    known = _known(rows, column)
    if column is ACCURACY:
        widths = list(filter(math.isfinite, (half_width(interval) * 100 for interval in known)))
        width = f"Each number is ± {min(widths):.1f} to {max(widths):.1f} points." if widths else ""
    else:
        width = relative_widths(known)
    remarks = [width] if width else []
    best = _best(rows, column)
    if best is not None:
        remarks.append(f"★ is the best of all, {_proof(best, known)}.")
    return " ".join(remarks)


def _proof(best: Interval, known: Sequence[Interval]) -> str:
    if not math.isfinite(half_width(best)):
        return "not proven: a single measurement has no interval"
    rivals = sum(best.overlaps(interval) for interval in known) - 1
    return f"not proven: its interval overlaps {rivals} other{'s' if rivals > 1 else ''}" if rivals else "proven"


def _frontier_text(rows: Sequence[Row], names: Names, footnotes: Footnotes) -> str:
    found = frontier(rows)
    if not found:
        return ""
    shown = found[:_MOST_ON_FRONTIER]
    # As in the table of all cells: what is best, and how many decimals, is of all rows.
    columns = [
        TextColumn(column.label, column_texts(rows, column, shown), "right")
        for column in (ACCURACY, TRAINING, LATENCY, TRAINING_MEMORY)
    ]
    more = f"; the most accurate {len(shown)} of {len(found)}" if len(found) > len(shown) else ""
    return (
        "**Accuracy against training speed**: the cells to choose from. Whatever is more accurate than one of these "
        f"trains more slowly, by the estimates{more}.\n\n"
        + table([*names.columns(shown), *columns, TextColumn("Status", [footnotes.status(row) for row in shown])])
    )
