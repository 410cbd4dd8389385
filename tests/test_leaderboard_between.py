"""How runs of one machine differ, and how often a later run keeps what is said of it."""

import math
import random
from collections.abc import Mapping

import pytest

from fashiontl.reports.leaderboard.between import Between, between


def cells(draw: random.Random, count: int, runs: int, common: float, own: float) -> list[dict[str, float]]:
    """Logarithms of what each run says of each cell: a deviation of the run and one of the cell in it."""
    shifts = [draw.gauss(0, common) for _ in range(runs)]
    return [{f"run{run}": 3 + shifts[run] + draw.gauss(0, own) for run in range(runs)} for _ in range(count)]


def known(found: Between | None) -> Between:
    assert found is not None
    return found


def test_the_variance_is_pooled_within_cells() -> None:
    found = known(between([{"a": 0.0, "b": 0.2}, {"a": 5.0, "b": 5.1}, {"a": 1.0}]))
    assert found.variance == pytest.approx((0.02 + 0.005) / 2)
    assert (found.runs, found.cells) == (2, 2)
    assert between([{"a": 0.0}, {}]) is between([]) is None


def test_runs_that_move_all_cells_alike_are_known_less_well() -> None:
    alike = known(between([{"a": 0.0, "b": 0.1} for _ in range(20)]))
    assert alike.freedom == pytest.approx(1.0)
    unlike = known(between([{"a": 0.0, "b": 0.1 * (-1) ** n} for n in range(20)]))
    assert unlike.freedom == pytest.approx(20 / 2.9)


def test_a_mean_of_runs_is_between_its_own_spread_and_that_of_all() -> None:
    logs = [0.0, 0.1, 0.2]
    alone = known(between([dict(zip("abc", logs, strict=True))])).mean(logs)
    assert alone.estimate == pytest.approx(math.exp(0.1))
    assert math.log(alone.high / alone.estimate) == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)
    # Of 12 degrees of freedom, 10 are those of others: they are worth 5 of 6, and their variance is a quarter.
    with_others = Between(0.02 + 10 * 0.0025, 12, 6.0, 3, 6).mean(logs)
    spread = (2 * 0.01 + 5 * 0.0025) / 7
    assert math.log(with_others.high / with_others.estimate) == pytest.approx(2.3646 * math.sqrt(spread / 3), rel=1e-4)


@pytest.mark.parametrize(("common", "own"), [(0.0, 0.05), (0.05, 0.0), (0.04, 0.03)])
@pytest.mark.parametrize("runs", [2, 3, 5])
def test_a_later_run_lies_where_it_should(common: float, own: float, runs: int) -> None:
    draw = random.Random(f"{common} {own} {runs}")
    kept = total = 0
    for _ in range(300):
        *before, later = _by_run(cells(draw, 20, runs + 1, common, own))
        found = known(between(_by_cell(before)))
        newest = before[-1]
        kept += sum(abs(later[cell] - newest[cell]) <= math.log1p(found.later) for cell in range(20))
        total += 20
    assert kept / total >= 0.9


def _by_run(found: list[dict[str, float]]) -> list[list[float]]:
    return [[cell[run] for cell in found] for run in found[0]]


def _by_cell(runs: list[list[float]]) -> list[Mapping[str, float]]:
    return [{f"run{number}": run[cell] for number, run in enumerate(runs)} for cell in range(len(runs[0]))]
