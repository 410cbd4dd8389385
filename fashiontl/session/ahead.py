"""What a session does before its first case: it predicts how long each takes, and finds out which may come first."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest

from fashiontl.core.case import Case, Settings
from fashiontl.runner.estimate import Estimate, Work, cheapest_first, costs

# Options of pytest that put tests in an order, or go on after a failure by the order of collection.
_ORDERS = ("failedfirst", "newfirst", "stepwise")


def order_is_free(
    config: pytest.Config, architectures: Sequence[str], cases: Sequence[Case], matrix: Sequence[Case]
) -> bool:
    """Whether nobody has said in which order the cases of a session run.

    Args:
        config: pytest's.
        architectures: the option `--arch`.
        cases: of the collected tests, in the order in which pytest and its plug-ins have put them.
        matrix: all cases, in the order of the options.
    """
    place = {case.id: number for number, case in enumerate(matrix)}
    places = [place[case.id] for case in cases]
    return (
        list(architectures) in ([], ["all"])
        and places == sorted(places)
        and not any("::" in str(argument) for argument in config.args)
        and not any(config.getoption(name, False) for name in _ORDERS)
    )


def predict(
    cases: Sequence[Case],
    finished: Collection[str],
    settings: Settings,
    cache: Path,
    count: Callable[[Case], Work | None],
    *,
    reorder: bool,
) -> tuple[list[Case], Estimate]:
    """The order in which cases run, and how long those take that are still to be measured.

    Args:
        cases: of the collected tests, in their order.
        finished: ids of those that were measured before.
        settings: how they are run.
        cache: folder of the backbones.
        count: what a case computes; None where that is not known.
        reorder: whether cheap ones may come first.
    """
    ordered = list(cases)
    works = {case.id: work for case in ordered if (work := count(case))}
    if reorder:
        ordered = cheapest_first(ordered, costs(ordered, settings, works, cache))
    wanted = [case for case in ordered if case.id not in finished]
    return ordered, Estimate(wanted, costs(wanted, settings, works, cache))


def put_in_order(
    items: list[pytest.Item], calls: Sequence[pytest.Item], ids: Sequence[str], order: Sequence[str]
) -> None:
    """Let tests change places among themselves.

    Args:
        items: all of the session's, changed in place.
        calls: those that measure.
        ids: the case of each.
        order: ids in their new order.
    """
    rank = {case_id: number for number, case_id in enumerate(dict.fromkeys(order))}
    ordered = [call for _, call in sorted(zip(ids, calls, strict=True), key=lambda pair: rank[pair[0]])]
    ours, moved = set(calls), iter(ordered)
    items[:] = [next(moved) if item in ours else item for item in items]
