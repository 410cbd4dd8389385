import gc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashiontl.latency import time_calls, time_slices


class Machine:
    """A device whose time is counted, not waited for: calls are queued, and only a wait lets them pass."""

    def __init__(self, cost: Callable[[int], float]) -> None:
        self.now = 0.0
        self.calls = 0
        self.queued = 0.0
        self.waits = 0
        self._cost = cost

    def clock(self) -> float:
        return self.now

    def call(self) -> None:
        self.queued += self._cost(self.calls)
        self.calls += 1

    def synchronize(self) -> None:
        self.now += self.queued
        self.queued = 0.0
        self.waits += 1


def test_calls_are_waited_for() -> None:
    machine = Machine(lambda number: 0.010)
    samples = time_calls(machine.call, machine.synchronize, seconds=1, most=20, clock=machine.clock)
    assert samples.values == pytest.approx([0.010] * 20)
    assert (samples.warm_up, samples.settled) == (6, True)


def test_warm_up_ends_when_medians_agree() -> None:
    # A plateau of slow calls agrees with itself; only a fall or a rise keeps the warm-up going.
    machine = Machine(lambda number: 0.100 if number < 12 else 0.010)
    samples = time_calls(machine.call, machine.synchronize, seconds=5, most=5, clock=machine.clock)
    assert (samples.warm_up, samples.settled) == (6, True)

    falling = Machine(lambda number: 1.0 / (number + 1))
    samples = time_calls(falling.call, falling.synchronize, seconds=100, most=5, clock=falling.clock)
    assert samples.settled
    assert samples.warm_up > 30


def test_what_never_settles_says_so() -> None:
    machine = Machine(lambda number: 0.01 * 1.3 ** min(number, 60))
    samples = time_calls(machine.call, machine.synchronize, seconds=2, most=5, clock=machine.clock)
    assert not samples.settled
    assert len(samples.values) == 5


def test_sampling_ends_with_its_time() -> None:
    machine = Machine(lambda number: 0.1)
    samples = time_calls(machine.call, machine.synchronize, seconds=1, most=1000, clock=machine.clock)
    assert 10 <= len(samples.values) <= 11


def test_slices_wait_once_and_last_20_ms() -> None:
    machine = Machine(lambda number: 0.001)
    samples = time_slices(machine.call, machine.synchronize, seconds=0.2, clock=machine.clock)
    assert samples.values == pytest.approx([0.001] * len(samples.values))
    assert len(samples.values) == 10
    # Per slice one wait before and one after, whatever the number of calls in it.
    assert machine.calls == 6 + 1 + 10 * 20
    assert machine.waits == 2 * (6 + 1 + 10)


def test_a_missing_wait_is_seen_in_the_numbers() -> None:
    machine = Machine(lambda number: 0.010)
    samples = time_calls(machine.call, lambda: None, seconds=0.0, most=5, clock=machine.clock)
    assert set(samples.values) == {0.0}


@given(st.floats(1e-4, 1.0), st.floats(0.001, 2.0))
def test_slices_read_the_true_cost(cost: float, seconds: float) -> None:
    machine = Machine(lambda number: cost)
    samples = time_slices(machine.call, machine.synchronize, seconds=seconds, clock=machine.clock)
    assert samples.values == pytest.approx([cost] * len(samples.values), rel=1e-6)


def test_garbage_collector_rests_while_sampling() -> None:
    seen = []
    machine = Machine(lambda number: 0.01)

    def call() -> None:
        machine.call()
        seen.append(gc.isenabled())

    time_calls(call, machine.synchronize, seconds=1, most=7, clock=machine.clock)
    assert seen[-7:] == [False] * 7
    assert gc.isenabled()
