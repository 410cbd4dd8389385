"""How much the runs of one machine differ, and so where a later run should lie."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from fashiontl.core.slices import exp_interval
from fashiontl.core.stats import Interval, student_quantile
from fashiontl.reports.leaderboard.columns import ALL, TIMED
from fashiontl.reports.leaderboard.rows import Row

# The least that cells of one run are taken to have in common, as a correlation squared: few runs show it badly, and a
# machine's temperature and neighbours are common to all of a run.
_LEAST_SHARED = 0.1


@dataclass(frozen=True)
class Between:
    """How the runs of a machine differ in one metric.

    Attributes:
        squares: sum of the squared deviations of what one run says of a cell, as a logarithm, from the cell's mean.
        nominal: their degrees of freedom if all deviations were independent.
        freedom: the degrees of freedom that they are worth.
        runs: the most that a cell has.
        cells: how many have several.
    """

    squares: float
    nominal: int
    freedom: float
    runs: int
    cells: int

    @property
    def variance(self) -> float:
        """Of the logarithm of what one run says of a cell."""
        return self.squares / self.nominal

    @property
    def later(self) -> float:
        """Within which factor, less 1, of what one run says of a cell a later one should lie, with 95 %.

        Student's prediction interval: both runs deviate.
        """
        return math.expm1(student_quantile(max(1, int(self.freedom)), 0.95) * math.sqrt(2 * self.variance))

    def mean(self, logs: Sequence[float]) -> Interval:
        """The mean of a cell's runs, in the metric's unit, with an interval that holds for further runs.

        The moderated t statistic (Smyth, Statistical Applications in Genetics and Molecular Biology 3, 2004): the
        cell's own variance and that of the others, each by its degrees of freedom. The cell is one of those counted.
        """
        centre, own = fmean(logs), len(logs) - 1
        squares = sum((log - centre) ** 2 for log in logs)
        others = self.nominal - own
        worth = self.freedom * others / self.nominal
        freedom = own + worth
        spread = (squares + (worth * max(0.0, self.squares - squares) / others if others else 0.0)) / freedom
        half = student_quantile(int(freedom), 0.95) * math.sqrt(spread / len(logs))
        return exp_interval(Interval(centre, centre - half, centre + half))


def between(cells: Iterable[Mapping[str, float]]) -> Between | None:
    """What cells with several runs say together; None without any.

    The variance within cells is pooled. It is known less well than its degrees of freedom say, because a run deviates
    in all its cells alike: of n cells with correlation r between their deviations, as of n / (1 + (n - 1) r²) cells.

    Args:
        cells: of each, by the run's name, the logarithm of what it says.
    """
    several = [cell for cell in cells if len(cell) > 1]
    if not several:
        return None
    by_run: dict[str, list[float]] = defaultdict(list)
    for cell in several:
        centre = fmean(cell.values())
        for run, log in cell.items():
            by_run[run].append(log - centre)
    squares = math.fsum(value * value for values in by_run.values() for value in values)
    freedom = sum(len(cell) - 1 for cell in several)
    # Mean product of two cells' deviations in one run, and of one with itself.
    pairs = sum(len(values) * (len(values) - 1) for values in by_run.values())
    products = sum(sum(values) ** 2 - sum(value * value for value in values) for values in by_run.values())
    alone = squares / sum(map(len, by_run.values()))
    shared = min(1.0, max(0.0, products / pairs / alone)) ** 2 if pairs and alone else 0.0
    return Between(
        squares,
        freedom,
        freedom / (1 + (len(several) - 1) * max(shared, _LEAST_SHARED)),
        max(map(len, several)),
        len(several),
    )


def over_runs(rows: Sequence[Row]) -> tuple[list[Row], dict[str, dict[str, Between]]]:
    """Rows whose numbers of several runs take what the machine's other cells say of the spread between runs.

    Returns:
        The rows, in their order, and by machine and metric how its runs differ, where that is known.
    """
    known: dict[str, dict[str, Between]] = defaultdict(dict)
    machines: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if any(len(how.runs) > 1 for how in row.timed.values()):
            machines[row.record.machine].append(row)
    for (machine, own), metric in itertools.product(machines.items(), TIMED):
        # One measurement that several cells share says it once.
        cells = {how.shared or row.record.id: dict(how.runs) for row in own if (how := row.timed.get(metric))}
        if found := between(cells.values()):
            known[machine][metric] = found
    return [_moderated(row, known.get(row.record.machine, {})) for row in rows], known


def _moderated(row: Row, known: Mapping[str, Between]) -> Row:
    numbers = {
        column.label: known[column.timed].mean([log for _, log in how.runs])
        for column in ALL
        if column.typical and (how := row.how(column)) and how.several and column.label in row.numbers
    }
    return replace(row, numbers=row.numbers | numbers) if numbers else row
