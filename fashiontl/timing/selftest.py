"""Whether this machine can measure at all: known delays, known arithmetic, and a device that is really waited for.

A benchmark whose clock is wrong looks like any other. So the loops that time networks are first given work whose answer
is known beforehand, made with a clock that is not theirs. torch is imported late.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fashiontl.core.metrics import METRICS
from fashiontl.timing.loops import Clock, Effort, Instrument, time_calls

if TYPE_CHECKING:
    from torch import Tensor

# The fastest networks answer in about half a millisecond, to which the loop may add 1 %; with marks in a device's
# queue, each a call to its driver, 10 %, since part of that is the wait that every answer needs.
_MOST_ADDED = 5e-6
_MOST_ADDED_WITH_MARKS = 50e-6
_DELAYS = (0.001, 0.010)
_DELAY_SHARE = 0.01
# Clocks of GPUs wander by a few per cent from one moment to the next.
_QUEUE_SHARE = 0.05
_QUEUE_TURNS = 5
# Fewer than devices queue before a launch has to wait, which would look like a wait for the result.
_QUEUE_LENGTH = 32
_QUEUE_SECONDS = 0.01
_SIDES = (512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class Check:
    """Something whose answer is known, and what was read.

    Attributes:
        name: what, for people.
        expected: the answer.
        got: what was read; None when nothing was.
        unit: of both; `1` for a ratio.
        tolerance: the largest difference that passes, in that unit.
        passed: whether the difference is within it.
        note: what it means if it is not.
    """

    name: str
    expected: float
    got: float | None
    unit: str
    tolerance: float
    passed: bool
    note: str


@dataclass(frozen=True)
class Queue:
    """Work that keeps a device busy, each piece made of the result of the one before.

    Attributes:
        launch: gives the device so many pieces, without waiting for them.
        fetch: copies a number of the last result to the host, which waits for it without `Instrument.synchronize`.
    """

    launch: Callable[[int], object]
    fetch: Callable[[], object]


def self_test(
    device: str,
    instrument: Instrument,
    seconds: float,
    *,
    reference: Clock | None = None,
    queue: Callable[[str], Queue] | None = None,
) -> list[Check]:
    """Give the timing loops and the counter of arithmetic work whose answer is known.

    Args:
        device: torch's name of it.
        instrument: what cases on it are timed with.
        seconds: about how long the delays may take together, if that is no less than it takes to read each a few times;
            a device that has to be waited for takes about a second more.
        reference: seconds, of a clock that the loops do not use; None takes `independent_clock`.
        queue: makes the work that shows whether a device is waited for; None takes `matrix_products`.
    """
    clock = reference or independent_clock()
    # Of each of three loops, which may warm up for as long again.
    budget = seconds / 6
    delays = [delay(length, instrument, budget, clock) for length in _DELAYS]
    checks = [added(instrument, budget), *delays, shown(delays[0])]
    if device.partition(":")[0] != "cpu":
        checks += waiting(instrument, (queue or matrix_products)(device))
    return [*checks, *arithmetic(device)]


def failures(checks: Iterable[Check]) -> list[str]:
    """A sentence for each check that did not pass."""
    return [
        f"{check.name}: expected {quantity(check.expected, check.unit)} "
        f"within {quantity(check.tolerance, check.unit)}, got {quantity(check.got, check.unit)}; {check.note}"
        for check in checks
        if not check.passed
    ]


def quantity(value: float | None, unit: str) -> str:
    """A number with its unit, for people.

    >>> quantity(0.0010004, "s"), quantity(2.1e-7, "s"), quantity(524288, "FLOP"), quantity(None, "s")
    ('1.000 ms', '0.210 µs', '524,288 FLOP', 'nothing')
    """
    if value is None:
        return "nothing"
    if unit == "FLOP":
        return f"{value:,.0f} FLOP"
    if unit == "s":
        scale, unit = (1e3, "ms") if value >= 1e-4 else (1e6, "µs")
        return f"{value * scale:.3f} {unit}"
    return f"{value:.3g}" if unit == "1" else f"{value:.3g} {unit}"


def independent_clock() -> Clock:
    """Seconds since some moment, by a clock that nothing adjusts: Linux and macOS have one beside the loops' own.

    Elsewhere it is `time.monotonic`, and a delay proves less.
    """
    raw = getattr(time, "CLOCK_MONOTONIC_RAW", None)
    return time.monotonic if raw is None else lambda: time.clock_gettime_ns(raw) / 1e9


def added(instrument: Instrument, seconds: float) -> Check:
    """What the loop adds to a call: the time of one that does nothing."""
    most = _MOST_ADDED if instrument.mark is None else _MOST_ADDED_WITH_MARKS
    note = "the loop adds too much to the fastest networks, which answer in about 0.5 ms"
    return _check("a call that does nothing", 0.0, _median(lambda: None, instrument, seconds), "s", most, note)


def delay(length: float, instrument: Instrument, seconds: float, reference: Clock) -> Check:
    """A delay made with one clock and read with the loop's.

    It spins, because `time.sleep` comes back tens of microseconds late.

    Args:
        length: seconds.
        instrument: of the loop.
        seconds: time budget of the sampling.
        reference: seconds, of the clock that makes the delay.
    """

    def spin() -> None:
        end = reference() + length
        while reference() < end:
            pass

    note = "the loop's clock disagrees with another clock of this machine, or other work interrupts it"
    got = _median(spin, instrument, seconds)
    return _check(f"a delay of {length * 1e3:g} ms", length, got, "s", _DELAY_SHARE * length, note)


def shown(check: Check) -> Check:
    """A delay's reading in the unit and with the digits in which tables show a latency."""
    metric = METRICS["latency"]
    expected = check.expected * 1e3
    got = None if check.got is None else float(f"{check.got * metric.scale:.{metric.digits}g}")
    # Digits that are left out may add half of the last one.
    tolerance = expected * (_DELAY_SHARE + 0.5 * 10.0 ** (1 - metric.digits))
    note = f"the table of metrics makes something else of it, under the header {metric.label}"
    return _check(f"{check.name}, as tables show it", expected, got, "ms", tolerance, note)


def waiting(instrument: Instrument, queue: Queue) -> list[Check]:
    """Whether a device has finished when the loop reads its clock, and whether its own clock agrees.

    A launch returns at once, so a wait that does not wait makes everything fast. A second way of waiting tells: copying
    a number of the result. The queue is empty before each reading, because launches into a full one wait too, and would
    hide it. Where launches wait by themselves (`CUDA_LAUNCH_BLOCKING=1`) times are right, and the checks pass.

    Args:
        instrument: of the device.
        queue: work on it.
    """
    clock, length = instrument.clock, _QUEUE_LENGTH

    def timed(count: int, wait: Callable[[], object]) -> float:
        queue.fetch()
        started = clock()
        queue.launch(count)
        wait()
        return clock() - started

    known, waited, twice, own = [], [], [], []
    # In turn, so that a clock that wanders meets all alike; the first turn is warm-up.
    for _ in range(_QUEUE_TURNS + 1):
        known.append(timed(length, queue.fetch))
        waited.append(timed(length, instrument.synchronize))
        twice.append(timed(2 * length, queue.fetch))
        if instrument.mark and instrument.elapsed:
            before = instrument.mark()
            queue.launch(length)
            after = instrument.mark()
            queue.fetch()
            own.append(instrument.elapsed(before, after))
    once = statistics.median(known[1:])
    most = _QUEUE_SHARE * once
    note = "synchronize() returns before the device has finished, so only launches would be timed"
    checks = [_check("work on the device, waited for", once, statistics.median(waited[1:]), "s", most, note)]
    note = "the device's speed changes from moment to moment, or others use it"
    ratio = statistics.median(twice[1:]) / once
    checks.append(_check("twice the work over once", 2.0, ratio, "1", 2 * _QUEUE_SHARE, note))
    if own:
        note = "the device's own clock disagrees with that of this machine"
        checks.append(_check("work on the device, in its own time", once, statistics.median(own[1:]), "s", most, note))
    return checks


def matrix_products(device: str) -> Queue:
    """Matrix products, so large that a queue of them keeps the device busy for at least 10 ms."""
    import torch

    for side in _SIDES:
        # The identity keeps all numbers what they are, however long the queue.
        queue = _products(torch.eye(side, device=device), torch.ones(side, side, device=device))
        for _ in range(2):  # the first time libraries load
            started = time.perf_counter()
            queue.launch(_QUEUE_LENGTH)
            queue.fetch()
            took = time.perf_counter() - started
        if took >= _QUEUE_SECONDS:
            break
    return queue


def _products(left: "Tensor", start: "Tensor") -> Queue:
    import torch

    results = [start, torch.empty_like(start)]

    def launch(count: int) -> None:
        for _ in range(count):
            torch.mm(left, results[0], out=results[1])
            results.reverse()

    def fetch() -> object:
        return results[0][0, 0].item()

    return Queue(launch, fetch)


def arithmetic(device: str) -> list[Check]:
    """A matrix product and a convolution, whose arithmetic anyone can count."""
    import torch
    from torch.nn import functional

    from fashiontl.timing.flops import step_flops

    side, images, channels, outputs, kernel, result = 64, 2, 3, 8, 3, 8
    square = torch.ones(side, side, device=device)
    pixels = torch.ones(images, channels, 2 * result, 2 * result, device=device)
    weight = torch.ones(outputs, channels, kernel, kernel, device=device)
    works = (
        ("a matrix product", 2 * side**3, lambda: square @ square),
        (
            "a convolution",
            2 * images * outputs * result**2 * channels * kernel**2,
            lambda: functional.conv2d(pixels, weight, stride=2, padding=1),
        ),
    )
    note = "this version of torch counts arithmetic otherwise than those that fashiontl was tested with"
    return [_check(f"arithmetic of {name}", flops, step_flops(work), "FLOP", 0.0, note) for name, flops, work in works]


def _median(call: Callable[[], object], instrument: Instrument, seconds: float) -> float | None:
    values = time_calls(call, instrument, Effort(seconds, samples=20, half_width=0.002)).values
    return statistics.median(values) if values else None


def _check(name: str, expected: float, got: float | None, unit: str, tolerance: float, note: str) -> Check:
    passed = got is not None and abs(got - expected) <= tolerance
    if got is None:
        note = "every sample was taken while the machine was throttled"
    return Check(name, expected, got, unit, tolerance, passed, note)
