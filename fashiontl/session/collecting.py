"""Which tests a session makes of the functions that ask for a cell, and whether their order may change."""

from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from fashiontl.core.case import Case
from fashiontl.core.escape import LONGEST_NAME, to_line, to_terminal_line
from fashiontl.machine.devices import DEVICES, seen_devices
from fashiontl.session.replay import ReplayTimer

# Tests ask for the fixtures with short names, of which a project may have its own; only where they get those of
# `fashiontl.plugin` do they depend on these, and are parametrised.
CELL, GATED_CELL, UNSEEN_DEVICE = "fashiontl_cell", "fashiontl_gated_cell", "fashiontl_unseen_device"

# Options of pytest that put tests in an order, or go on after a failure by the order of collection.
_ORDERS = ("failedfirst", "newfirst", "stepwise")


@dataclass(frozen=True)
class Parameter:
    """What makes a test of a case, with the clock that its benchmark reads."""

    case: Case
    timer: ReplayTimer


def parametrize(metafunc: pytest.Metafunc, option: Namespace, cases: Sequence[Case]) -> None:
    """Make a test of each case, or with `--gate` a gated one; a function that has none of ours is left alone."""
    wanted = set(metafunc.fixturenames)
    if option.gate:
        if GATED_CELL in wanted:
            metafunc.parametrize(GATED_CELL, cases, ids=[to_terminal_line(case.id) for case in cases], indirect=True)
        return
    # None when the user says which ones are wanted.
    unseen = [] if option.device else [name for name in DEVICES if name not in seen_devices()]
    if UNSEEN_DEVICE in wanted and unseen:
        metafunc.parametrize(UNSEEN_DEVICE, unseen, indirect=True)
    if CELL in wanted:
        metafunc.parametrize(CELL, [_parameter(case) for case in cases], indirect=True)


def _parameter(case: Case) -> Any:
    timer = ReplayTimer()
    mark = pytest.mark.benchmark(group=to_line(f"latency {case.task} {case.device}", LONGEST_NAME), timer=timer)
    return pytest.param(Parameter(case, timer), id=to_terminal_line(case.id), marks=mark)


def useful(made: Iterable[Any]) -> list[Any]:
    """What pytest made of a function, without tests that ask for one of our fixtures and were not parametrised."""
    return [item for item in made if not isinstance(item, pytest.Function) or _is_useful(item)]


def _is_useful(item: pytest.Function) -> bool:
    ours = {CELL, GATED_CELL, UNSEEN_DEVICE} & set(item.fixturenames)
    return ours <= set(item.callspec.params if hasattr(item, "callspec") else ())


def order_is_free(config: pytest.Config, cases: Sequence[Case], matrix: Sequence[Case]) -> bool:
    """Whether nobody has said in which order the cases of the collected tests run: their order is the matrix's."""
    place = {case.id: number for number, case in enumerate(matrix)}
    places = [place[case.id] for case in cases]
    return (
        places == sorted(places)
        and not any("::" in str(argument) for argument in config.args)
        and not any(config.getoption(name, False) for name in _ORDERS)
    )
