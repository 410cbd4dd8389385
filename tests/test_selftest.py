"""The self-test, with clocks that are wrong and devices that are not waited for."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashiontl.core.metrics import METRICS
from fashiontl.timing import flops, selftest
from fashiontl.timing.loops import Instrument
from fashiontl.timing.selftest import (
    Check,
    Queue,
    added,
    arithmetic,
    delay,
    failures,
    independent_clock,
    matrix_products,
    quantity,
    self_test,
    shown,
    waiting,
)


class Machine:
    """A machine whose time is counted: reading a clock takes 1 µs of it, and a device works off its queue."""

    def __init__(self, *, rate: float = 1.0, device_rate: float = 1.0, launch: float = 5e-6) -> None:
        self.now = 0.0
        self.free = 0.0
        self.piece = 0.3e-3
        self.launch_cost = launch
        self._rate = rate
        self._device_rate = device_rate

    def reference(self) -> float:
        self.now += 1e-6
        return self.now

    def clock(self) -> float:
        return self.reference() * self._rate

    def launch(self, count: int) -> None:
        for _ in range(count):
            self.now += self.launch_cost
            self.free = max(self.now, self.free) + self.piece

    def wait(self) -> None:
        self.now = max(self.now + 2e-6, self.free)

    @property
    def queue(self) -> Queue:
        return Queue(self.launch, self.wait)

    def instrument(self, synchronize: Callable[[], None] | None = None) -> Instrument:
        return Instrument(
            synchronize or self.wait,
            mark=lambda: max(self.now, self.free),
            elapsed=lambda before, after: (after - before) * self._device_rate,
            clock=self.clock,
        )

    @property
    def without_marks(self) -> Instrument:
        return Instrument(lambda: None, clock=self.clock)


def verdicts(checks: list[Check]) -> dict[str, bool]:
    return {check.name: check.passed for check in checks}


def test_a_machine_that_measures() -> None:
    machine = Machine()
    checks = self_test("cpu", machine.without_marks, 1.0, reference=machine.reference)
    assert verdicts(checks) == {
        "a call that does nothing": True,
        "a delay of 1 ms": True,
        "a delay of 10 ms": True,
        "a delay of 1 ms, as tables show it": True,
        "arithmetic of a matrix product": True,
        "arithmetic of a convolution": True,
    }
    assert checks[0].got == pytest.approx(1e-6)
    assert [check.got for check in checks[1:3]] == pytest.approx([0.001, 0.010], rel=4e-3)
    assert failures(checks) == []


@pytest.mark.parametrize(("rate", "passed"), [(0.97, False), (0.995, True), (1.005, True), (1.03, False)])
def test_a_clock_that_runs_fast_or_slow(rate: float, passed: bool) -> None:
    machine = Machine(rate=rate)
    for length in (0.001, 0.010):
        check = delay(length, machine.without_marks, 0.2, machine.reference)
        assert (check.passed, check.got) == (passed, pytest.approx(length * rate, rel=4e-3))


def test_a_loop_that_takes_too_long_itself() -> None:
    machine = Machine()

    def slow() -> float:
        machine.now += 6e-6
        return machine.now

    check = added(replace(machine.without_marks, clock=slow), 0.01)
    assert (check.passed, check.got) == (False, pytest.approx(6e-6))
    # A device's marks and waits are calls to its driver.
    with_marks = replace(machine.instrument(), clock=slow)
    assert added(with_marks, 0.01).passed


def test_a_delay_of_which_every_sample_was_throttled() -> None:
    machine = Machine()
    check = delay(0.001, replace(machine.without_marks, throttled=lambda: True), 0.05, machine.reference)
    assert (check.passed, check.got) == (False, None)
    assert failures([check]) == [
        "a delay of 1 ms: expected 1.000 ms within 10.000 µs, got nothing; "
        "every sample was taken while the machine was throttled"
    ]
    assert shown(check).got is None
    assert not shown(check).passed


@pytest.mark.parametrize(
    ("seconds", "got", "passed"), [(0.00100449, 1.0, True), (0.00103, 1.03, False), (1.0, 1e3, False)]
)
def test_the_unit_that_tables_show(seconds: float, got: float, passed: bool) -> None:
    read = Check("a delay of 1 ms", 0.001, seconds, "s", 1e-5, True, "")
    assert (shown(read).got, shown(read).passed) == (got, passed)


def test_a_wrong_factor_in_the_table_of_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "latency", replace(METRICS["latency"], scale=1e6))
    check = shown(Check("a delay of 1 ms", 0.001, 0.001, "s", 1e-5, True, ""))
    assert (check.got, check.passed) == (1000.0, False)
    assert failures([check])[0].startswith(
        "a delay of 1 ms, as tables show it: expected 1 ms within 0.015 ms, got 1e+03 ms"
    )


QUEUE_CHECKS = ("work on the device, waited for", "twice the work over once", "work on the device, in its own time")


def test_a_device_that_is_waited_for() -> None:
    machine = Machine()
    checks = waiting(machine.instrument(), machine.queue)
    assert verdicts(checks) == dict.fromkeys(QUEUE_CHECKS, True)
    assert checks[0].expected == pytest.approx(32 * 0.3e-3, rel=0.01)
    assert checks[1].got == pytest.approx(2, rel=0.01)


def test_a_wait_that_does_not_wait() -> None:
    machine = Machine()
    checks = waiting(machine.instrument(lambda: None), machine.queue)
    assert verdicts(checks) == dict(zip(QUEUE_CHECKS, (False, True, True), strict=True))
    assert checks[0].got == pytest.approx(32 * machine.launch_cost, rel=0.01), "launches alone"
    assert failures(checks)[0].endswith(
        "synchronize() returns before the device has finished, so only launches would be timed"
    )


@given(launch=st.floats(1e-7, 2e-4), piece=st.floats(3e-4, 1e-2))
def test_a_missing_wait_is_seen_whatever_a_launch_and_its_work_take(launch: float, piece: float) -> None:
    for synchronize, passed in ((None, True), (lambda: None, False)):
        machine = Machine(launch=launch)
        machine.piece = piece
        assert waiting(machine.instrument(synchronize), machine.queue)[0].passed == passed


def test_launches_that_wait_by_themselves_need_no_wait() -> None:
    machine = Machine()

    def launch(count: int) -> None:
        machine.launch(count)
        machine.wait()

    checks = waiting(machine.instrument(lambda: None), Queue(launch, machine.wait))
    assert verdicts(checks) == dict.fromkeys(QUEUE_CHECKS, True)


def test_a_wait_for_half_of_the_work() -> None:
    machine = Machine()

    def half() -> None:
        machine.now += (machine.free - machine.now) / 2

    assert not waiting(machine.instrument(half), machine.queue)[0].passed


def test_a_device_whose_clock_or_speed_is_not_steady() -> None:
    machine = Machine(device_rate=1.1)
    assert verdicts(waiting(machine.instrument(), machine.queue)) == dict(
        zip(QUEUE_CHECKS, (True, True, False), strict=True)
    )
    machine = Machine()

    def tired(count: int) -> None:
        machine.piece = 0.3e-3 * (1.2 if count > 32 else 1)
        machine.launch(count)

    assert verdicts(waiting(machine.instrument(), Queue(tired, machine.wait)))[QUEUE_CHECKS[1]] is False


def test_a_device_without_marks_has_no_time_of_its_own() -> None:
    machine = Machine()
    checks = waiting(Instrument(machine.wait, clock=machine.clock), machine.queue)
    assert [check.name for check in checks] == list(QUEUE_CHECKS[:2])


def test_devices_that_queue_are_waited_for_and_the_cpu_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "arithmetic", lambda device: [])
    machine, asked = Machine(), []

    def queue(device: str) -> Queue:
        asked.append(device)
        return machine.queue

    checks = self_test("mps", machine.instrument(), 0.05, reference=machine.reference, queue=queue)
    assert asked == ["mps"]
    assert [check.name for check in checks][-3:] == list(QUEUE_CHECKS)
    self_test("cpu", machine.without_marks, 0.05, reference=machine.reference, queue=queue)
    assert asked == ["mps"]


@pytest.mark.usefixtures("one_thread")
def test_matrix_products_are_as_many_as_asked_and_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "_SIDES", (4, 8))
    queue = matrix_products("cpu")
    assert queue.fetch() == 1.0
    assert flops.step_flops(lambda: queue.launch(3)) == 3 * 2 * 8**3
    assert queue.fetch() == 1.0


def test_arithmetic_is_counted_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    product, convolution = arithmetic("cpu")
    assert product.got == product.expected == 2 * 64**3
    assert convolution.got == convolution.expected == 2 * 2 * 8 * 8 * 8 * 3 * 3 * 3
    monkeypatch.setattr(flops, "step_flops", lambda work: int(work().numel()))
    assert [check.passed for check in arithmetic("cpu")] == [False, False]
    assert failures(arithmetic("cpu"))[0].startswith(
        "arithmetic of a matrix product: expected 524,288 FLOP within 0 FLOP, got 4,096 FLOP; this version of torch"
    )


def test_the_independent_clock_runs_forward_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = independent_clock()
    assert clock() <= clock()
    monkeypatch.setattr(selftest.time, "CLOCK_MONOTONIC_RAW", 4, raising=False)
    monkeypatch.setattr(selftest.time, "clock_gettime_ns", lambda which: which * 10**9, raising=False)
    assert independent_clock()() == 4.0
    monkeypatch.delattr(selftest.time, "CLOCK_MONOTONIC_RAW")
    assert independent_clock() is selftest.time.monotonic


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.00123456, "s", "1.235 ms"),
        (99e-6, "s", "99.000 µs"),
        (0.0, "s", "0.000 µs"),
        (2.0, "1", "2"),
        (0.985, "ms", "0.985 ms"),
        (55296, "FLOP", "55,296 FLOP"),
        (None, "1", "nothing"),
    ],
)
def test_quantities(value: float | None, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


@given(st.floats(1e-9, 1e3))
def test_a_quantity_keeps_its_size(seconds: float) -> None:
    text, unit = quantity(seconds, "s").split()
    read = float(text) * {"ms": 1e-3, "µs": 1e-6}[unit]
    assert math.isclose(read, seconds, rel_tol=0.01, abs_tol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_this_machine_counts() -> None:
    checks = verdicts(self_test("cpu", Instrument(lambda: None), 0.3))
    # Not whether delays pass: a crowded machine may well not be fit to measure.
    assert checks["arithmetic of a matrix product"]
    assert checks["arithmetic of a convolution"]
