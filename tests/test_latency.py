import gc
import statistics
from collections.abc import Callable, Iterator
from unittest import mock

import numpy as np
import pytest
from counted_machine import Machine
from hypothesis import given, settings
from hypothesis import strategies as st

from fashiontl.machine.devices import Device
from fashiontl.timing.loops import DeviceTimer, Samples, SamplingBudget, time_blocks


@pytest.fixture(autouse=True, scope="module")
def no_collection() -> Iterator[None]:
    """With torch imported, a collection before each loop takes longer than all of a test."""
    with mock.patch("gc.collect"):
        yield


def test_calls_are_waited_for() -> None:
    machine = Machine(lambda number: 0.020)
    samples = time_blocks(machine.call, machine.timer, SamplingBudget(2, samples=20))
    assert samples.values == pytest.approx([0.020] * 20)
    # Two halves of five calls are a tenth of two seconds, and one does not look after each call.
    assert samples.warm_up.calls in range(10, 13)
    assert (samples.warm_up.steady, samples.ended) == (True, "precise")
    assert (samples.device, samples.throttled, samples.half_width) == ((), 0, pytest.approx(0))


def test_the_devices_own_time_stands_beside_the_hosts() -> None:
    machine = Machine(lambda number: 0.010)

    def call() -> None:
        machine.call()
        machine.now += 0.003  # the host prepares the call while the device has nothing to do

    samples = time_blocks(call, machine.with_events, SamplingBudget(1, samples=8))
    assert samples.values == pytest.approx([0.013] * len(samples.values))
    assert samples.device == pytest.approx([0.013] * len(samples.values))
    samples = time_blocks(machine.call, machine.with_events, SamplingBudget(1, samples=8))
    assert samples.device == pytest.approx([0.010] * len(samples.values))


def test_warm_up_lasts_while_the_calls_get_faster() -> None:
    falling = Machine(lambda number: max(0.010, 0.1 * 0.9**number))
    samples = time_blocks(falling.call, falling.timer, SamplingBudget(2, samples=6))
    assert samples.warm_up.steady
    # From call 22 on they are level, and the first half of the window must be level too, within 2 %.
    assert samples.warm_up.calls >= 22 + 5
    assert samples.values == pytest.approx([0.010] * len(samples.values))


def noisy(rng: np.random.Generator, drift: Callable[[int], float]) -> Machine:
    """Calls of 10 ms with 6 % noise."""
    noise = rng.normal(0, 0.06, 1000)
    return Machine(lambda number: 0.01 * (1 + noise[number % 1000] + drift(number)))


def test_a_drift_of_a_tenth_is_seen_through_noise_of_six_percent() -> None:
    """While calls get faster by 10 % over 60 of them, again and again, they are not steady."""
    rng = np.random.default_rng(1)
    warm_ups = [
        time_blocks(machine.call, machine.timer, SamplingBudget(0.6, samples=6, half_width=1)).warm_up
        for machine in (noisy(rng, lambda number: -0.1 * number / 60) for _ in range(150))
    ]
    assert statistics.fmean(not warm_up.steady for warm_up in warm_ups) >= 0.9
    assert statistics.median(warm_up.calls for warm_up in warm_ups) == pytest.approx(60, abs=6)


def test_what_does_not_drift_is_steady_once_a_drift_would_be_seen() -> None:
    rng = np.random.default_rng(2)
    warm_ups = [
        time_blocks(machine.call, machine.timer, SamplingBudget(5, samples=6, half_width=1)).warm_up
        for machine in (noisy(rng, lambda number: 0.0) for _ in range(100))
    ]
    assert all(warm_up.steady for warm_up in warm_ups)
    assert all(warm_up.detectable <= 0.1 for warm_up in warm_ups)
    assert 60 <= statistics.median(warm_up.calls for warm_up in warm_ups) <= 120


@pytest.mark.parametrize(
    "cost",
    [lambda number: 0.01 * 1.02 ** min(number, 600), lambda number: 0.01 if number % 2 else 0.02],
    ids=["ever slower", "two speeds in turn"],
)
def test_what_never_settles_says_so(cost: Callable[[int], float]) -> None:
    machine = Machine(cost)
    samples = time_blocks(machine.call, machine.timer, SamplingBudget(2, samples=6))
    assert not samples.warm_up.steady
    assert samples.warm_up.drift > 0.02 or samples.warm_up.noise > 0.2
    assert len(samples.values) >= 6


def test_sampling_ends_when_precise_but_not_before_the_samples_asked() -> None:
    machine = Machine(lambda number: 0.020)
    samples = time_blocks(machine.call, machine.timer, SamplingBudget(60, samples=1000))
    assert samples.ended == "precise"
    assert 1000 <= len(samples.values) <= 1100


def test_samples_of_a_throttled_machine_are_dropped() -> None:
    machine = Machine(lambda number: 0.025, lambda now: 0.8 < now < 1.4)
    samples = time_blocks(machine.call, machine.timer, SamplingBudget(2, samples=1000))
    assert samples.throttled in range(20, 29)
    assert samples.throttled_share == samples.throttled / (samples.throttled + len(samples.values))
    assert len(samples.values) + samples.throttled == pytest.approx(80, abs=2)


def test_a_machine_that_is_always_throttled_ends_without_samples() -> None:
    machine = Machine(lambda number: 0.010, lambda now: True)
    samples = time_blocks(machine.call, machine.timer, SamplingBudget(0.5))
    assert (samples.values, samples.ended, samples.throttled_share, samples.half_width) == ((), "time", 1.0, None)


def test_one_asks_for_throttling_between_groups_only() -> None:
    machine = Machine(lambda number: 0.001)
    time_blocks(machine.call, machine.timer, SamplingBudget(1, samples=30))
    assert machine.asked == 1 + 10, "every three blocks of 20 milliseconds"


def test_blocks_wait_once_and_last_20_ms() -> None:
    machine = Machine(lambda number: 0.001)
    samples = time_blocks(machine.call, machine.timer, SamplingBudget(0.2, half_width=-1))
    assert samples.values == pytest.approx([0.001] * len(samples.values))
    assert len(samples.values) == 10
    warm_up = samples.warm_up.calls
    # Per block one wait before and one after, whatever the number of calls in it.
    assert machine.calls == warm_up + 10 * 20
    assert machine.waits == 2 * (warm_up + 10)


@pytest.mark.parametrize(("seconds", "calls"), [(0.5, 7), (2.3, 7), (2.5, 12)])
def test_slow_calls_that_are_steady_at_once_are_samples_once_their_warm_up_took_all_the_time(
    seconds: float, calls: int
) -> None:
    machine = Machine(lambda number: 0.4)
    samples = time_blocks(machine.call, machine.timer, SamplingBudget(seconds))
    assert (machine.calls, samples.warm_up.calls, samples.ended) == (calls, 6, "precise")
    assert samples.values == pytest.approx([0.4] * 6)


@settings(max_examples=20)
@given(st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=20), st.floats(0.001, 0.5))
def test_every_loop_ends(costs: list[float], seconds: float) -> None:
    machine = Machine(lambda number: costs[number % len(costs)])
    samples: Samples = time_blocks(machine.call, machine.timer, SamplingBudget(seconds))
    assert len(samples.values) >= 6
    assert min(costs) * 0.999 <= min(samples.values) <= max(samples.values) <= max(costs) * 1.001


def test_the_timer_of_a_device_has_events_where_there_is_a_queue() -> None:
    cpu, gpu = DeviceTimer.of(Device.of("cpu")), DeviceTimer.of(Device.of("cuda:1"))
    assert (cpu.event, cpu.elapsed) == (None, None)
    assert None not in (gpu.event, gpu.elapsed)


def test_garbage_collector_rests_while_sampling() -> None:
    seen = []
    machine = Machine(lambda number: 0.01)

    def call() -> None:
        machine.call()
        seen.append(gc.isenabled())

    time_blocks(call, machine.timer, SamplingBudget(1, samples=7))
    assert seen[-14:] == [False] * 14
    assert gc.isenabled()
