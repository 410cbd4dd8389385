"""What to choose from at a glance: grids of architecture and policy, and the cells that no other beats."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from fashiontl.core.case import Case
from fashiontl.core.escape import LONGEST_NAME, to_markdown
from fashiontl.core.stats import Interval
from fashiontl.freezing import POLICIES
from fashiontl.reports.leaderboard.best import Standing
from fashiontl.reports.leaderboard.columns import ACCURACY, LATENCY, TRAINING, TRAINING_MEMORY, Column
from fashiontl.reports.leaderboard.markdown import TextColumn, folded, table
from fashiontl.reports.leaderboard.names import Names
from fashiontl.reports.leaderboard.notes import Footnotes
from fashiontl.reports.leaderboard.rows import (
    UNKNOWN,
    Row,
    by_accuracy,
    estimate_text,
    half_width,
    relative_widths,
    standings,
    text_column,
)

_MOST_ROWS_WITHOUT = 12
# More columns than these scroll sideways on GitHub; the grid is then cut into several of about as many.
_MOST_POLICIES = 9
_MOST_ON_FRONTIER = 10


class _Line(NamedTuple):
    """One line of a grid: a start of one architecture on one device, run in one way, by policy."""

    case: Case
    cells: dict[str, Row]

    def rank(self) -> tuple[float, str, str, str, tuple[str, ...]]:
        """Lines by their best accuracy."""
        best = max((known.estimate for known in _known(list(self.cells.values()), ACCURACY)), default=-math.inf)
        case = self.case
        return -best, case.architecture, case.weights, case.device, case.variant


def grids_text(rows: Sequence[Row], names: Names, footnotes: Footnotes) -> str:
    """Grids and frontier of a section in Markdown; empty when its table can be read without."""
    cases = [row.record.case for row in rows]
    if (
        len(rows) <= _MOST_ROWS_WITHOUT
        or len({case.architecture for case in cases}) < 2
        or len({case.policy for case in cases}) < 2
    ):
        return ""
    lines = _lines(rows)

    def grid(column: Column) -> list[str]:
        found = dict(zip(map(id, rows), standings(rows, column), strict=True))
        title = f"**{column.label}** by architecture and policy"
        remarks = [_widths(rows, column), _proof(found.values())]
        return [title, *_grid(lines, column, found, names, footnotes), " ".join(filter(None, remarks))]

    costs = [*grid(TRAINING), *grid(TRAINING_MEMORY)]
    if _known(rows, ACCURACY):
        costs = [folded("Training speed and memory by architecture and policy", *filter(None, costs))]
        costs = [*grid(ACCURACY), _frontier_text(rows, names, footnotes), *costs]
    return "\n\n".join(filter(None, costs))


def frontier(rows: Sequence[Row]) -> list[Row]:
    """The Pareto frontier of accuracy and training speed, from the most accurate, the slowest to train."""
    both = [(row, row.interval(ACCURACY), row.interval(TRAINING)) for row in rows if row.sound]
    known = [(row, a.estimate, t.estimate) for row, a, t in both if a is not None and t is not None]
    known.sort(key=lambda entry: (-entry[1], -entry[2]))
    found: list[tuple[Row, float, float]] = []
    for entry in known:
        if not found or entry[2] > found[-1][2] or entry[1:] == found[-1][1:]:
            found.append(entry)
    return [row for row, _, _ in found]


def _lines(rows: Sequence[Row]) -> list[_Line]:
    """Lines in their order. A model from scratch has no weights, so it stands beside each start of its own network."""
    lines: dict[tuple[str, ...], _Line] = {}
    # Those from scratch come last, when the lines are known beside which they stand.
    for row in sorted(by_accuracy(rows), key=lambda row: row.record.case.policy == "scratch"):
        case = row.record.case
        way = (case.architecture, case.device, *case.variant)
        beside = [line for key, line in lines.items() if key[1:] == way] if case.policy == "scratch" else []
        for line in beside or [lines.setdefault((case.weights, *way), _Line(case, {}))]:
            line.cells[case.policy] = row
    return sorted(lines.values(), key=_Line.rank)


def _grid(
    lines: Sequence[_Line], column: Column, found: Mapping[int, Standing], names: Names, footnotes: Footnotes
) -> list[str]:
    places = [*POLICIES]
    policies = sorted(
        {policy for line in lines for policy in line.cells},
        key=lambda policy: (places.index(policy) if policy in places else len(places), policy),
    )
    cases = [line.case for line in lines]
    has_weights = len({(case.architecture, case.device, case.variant) for case in cases}) < len(cases)
    first = names.columns(cases, "Architecture", *["Weights"] * has_weights)
    texts = [_line_texts([line.cells.get(policy) for policy in policies], column, found, footnotes) for line in lines]
    cells = [
        TextColumn(to_markdown(policy, LONGEST_NAME), own, "right")
        for policy, own in zip(policies, zip(*texts, strict=True), strict=True)
    ]
    width = math.ceil(len(cells) / math.ceil(len(cells) / _MOST_POLICIES))
    return [table([*first, *cells[start : start + width]]) for start in range(0, len(cells), width)]


def _line_texts(
    rows: Sequence[Row | None], column: Column, found: Mapping[int, Standing], footnotes: Footnotes
) -> list[str]:
    known = [row for row in rows if row and row.sound and row.interval(column)]
    marks = dict(zip(map(id, known), standings(known, column), strict=True))
    texts = []
    for row in rows:
        interval = row.interval(column) if row and row.sound else None
        if row is None or interval is None:
            texts.append(UNKNOWN if row is None or row.sound else to_markdown(row.record.status))
            continue
        text = f"{100 * interval.estimate:.1f}" if column is ACCURACY else estimate_text(interval, column.metric)
        star = " ★" if found[id(row)].first else ""
        spoiled = " disturbed" if (how := row.how(column)) and how.spoiled else ""
        texts.append(marks[id(row)].format(text) + star + spoiled + footnotes.mark(row))
    return texts


def _known(rows: Sequence[Row], column: Column) -> list[Interval]:
    return [interval for row in rows if row.sound and (interval := row.interval(column)) is not None]


def _widths(rows: Sequence[Row], column: Column) -> str:
    timed = [row for row in rows if (how := row.how(column)) is None or how.comparable]
    known = _known(timed, column)
    if column is not ACCURACY:
        return relative_widths(known)
    widths = list(filter(math.isfinite, (half_width(interval) * 100 for interval in known)))
    return f"Each number is ± {min(widths):.1f} to {max(widths):.1f} points." if widths else ""


def _proof(found: Collection[Standing]) -> str:
    """What is proven of the best of all; empty where nothing may be best."""
    if Standing.BEST in found:
        return "★ is the best of all, proven."
    if Standing.FIRST_OF_TIED not in found:
        return ""
    if not (rivals := sum(standing is Standing.TIED for standing in found)):
        return "★ is the best of all, not proven: of one measurement or one seed, it is not known how far others are."
    return f"★ is the best of all by its estimate; {rivals} other{'s' * (rivals > 1)} cannot be told from it."


def _frontier_text(rows: Sequence[Row], names: Names, footnotes: Footnotes) -> str:
    found = frontier(rows)
    if not found:
        return ""
    shown = found[:_MOST_ON_FRONTIER]
    # As in the table of all cells: what is best, and how many decimals, is of all rows.
    columns = [text_column(rows, column, shown) for column in (ACCURACY, TRAINING, LATENCY, TRAINING_MEMORY)]
    more = f"; the most accurate {len(shown)} of {len(found)}" if len(found) > len(shown) else ""
    return (
        "**Accuracy against training speed**: the cells to choose from. Whatever is more accurate than one of these "
        f"trains more slowly, by the estimates{more}.\n\n"
        + table(
            [
                *names.columns([row.record.case for row in shown]),
                *columns,
                TextColumn("Status", [footnotes.status(row) for row in shown]),
            ]
        )
    )
