"""Short slices of a call, with a clock that is counted."""

import math
from collections.abc import Callable

import pytest
from counted_machine import Machine

from fashiontl.timing.loops import calls_of
from fashiontl.timing.slices import Slicer, parts_of


def slicer(cost: float, **more: object) -> tuple[Machine, Slicer]:
    """A slicer of calls of a cost, warmed up."""
    machine = Machine(lambda number: cost)
    made = Slicer(calls_of(machine.call, machine.timer), machine.timer, **more)  # type: ignore[arg-type]
    assert made.warm(1.0).steady
    machine.calls = machine.waits = 0
    return machine, made


def test_a_slice_of_short_calls_is_blocks_after_some_that_do_not_count() -> None:
    machine, made = slicer(0.004)
    taken = made.take()
    # 20 ms that do not count, then three blocks of 20 ms, each with two waits.
    assert machine.calls == 5 + 3 * 5
    assert machine.waits == 2 * 4
    assert taken.values == pytest.approx([0.004] * 3)
    assert (taken.device, taken.parts, taken.throttled) == ((), {}, False)


@pytest.mark.parametrize(("samples", "count"), [(1, 3), (20, 20), (1000, 38)])
def test_single_calls_are_as_many_as_are_asked_for_within_a_limit(samples: int, count: int) -> None:
    machine, made = slicer(0.004, single=True, samples=samples)
    assert made.take().values == pytest.approx([0.004] * count)
    assert machine.calls == 5 + count


def test_a_brief_slice_is_one_block() -> None:
    machine, made = slicer(0.004, brief=True)
    assert len(made.take().values) == 1
    assert machine.calls == 5 + 5


@pytest.mark.parametrize("single", [False, True])
def test_a_long_call_is_counted_from_the_first(single: bool) -> None:
    machine, made = slicer(0.5, single=single)
    assert made.take().values == pytest.approx([0.5] * (3 if single else 1))
    assert machine.calls == (3 if single else 1)


def test_calls_that_take_all_the_time_warm_up_with_two() -> None:
    machine = Machine(lambda number: 0.6)
    found = Slicer(calls_of(machine.call, machine.timer), machine.timer).warm(1.0)
    assert (found.calls, found.steady, machine.calls) == (2, True, 2)


def test_the_devices_own_time_stands_beside_the_hosts() -> None:
    machine = Machine(lambda number: 0.010)
    made = Slicer(calls_of(machine.call, machine.with_events), machine.with_events, single=True, samples=4)
    made.warm(1.0)
    taken = made.take()
    assert taken.values == taken.device == pytest.approx([0.010] * 4)


def test_parts_add_up_to_the_call() -> None:
    costs = {"data": 0.001, "forward": 0.004, "backward": 0.008}
    machine = Machine(lambda number: list(costs.values())[number % 3])
    take = parts_of(dict.fromkeys(costs, machine.call), machine.with_events)
    made = Slicer(take, machine.with_events, parts=tuple(costs))
    made.warm(1.0)
    taken = made.take()
    assert taken.device == ()
    assert list(taken.parts) == list(costs)
    for name, cost in costs.items():
        assert taken.parts[name] == pytest.approx([cost] * 2)
    assert taken.values == pytest.approx([sum(costs.values())] * 2)


def test_parts_without_events_are_read_from_the_clock() -> None:
    machine = Machine(lambda number: 0.0)

    def part(seconds: float) -> Callable[[], None]:
        def run() -> None:
            machine.now += seconds

        return run

    seconds, *parts = parts_of({"a": part(0.01), "b": part(0.03)}, machine.timer)(2)
    assert math.isclose(seconds, 0.04)
    assert parts == pytest.approx([0.01, 0.03])
