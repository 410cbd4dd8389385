"""The timing loops: how long a step takes, once it has settled. No torch: what is timed is a function."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]

_WINDOW = 3
# The fewest samples from which a 95 % interval of the median exists (order statistics: 2 * 0.5^6 < 0.05).
_LEAST = 6
_SETTLED = 0.05
_SLICE_SECONDS = 0.02


@dataclass(frozen=True)
class Samples:
    """What a timing loop saw.

    Attributes:
        values: seconds a call, in the order in which they were taken.
        warm_up: calls made before the first sample.
        settled: whether the warm-up ended because the samples had settled, not because its time was up.
    """

    values: tuple[float, ...]
    warm_up: int
    settled: bool


def time_calls(
    call: Callable[[], object],
    synchronize: Callable[[], None],
    *,
    seconds: float,
    most: int,
    clock: Clock = time.perf_counter,
) -> Samples:
    """Time single calls, each from its start until the device has finished it: what one request waits.

    Args:
        call: the workload.
        synchronize: waits for the device; called before the clock is read.
        seconds: time budget of the sampling; the warm-up may take as much again.
        most: stop after this many samples.
        clock: seconds, monotonic.
    """
    warm_up, settled = _warm_up(call, synchronize, seconds, clock)
    values: list[float] = []
    with _no_garbage_collection():
        deadline = clock() + seconds
        while len(values) < most and (len(values) < _LEAST or clock() < deadline):
            values.append(_timed(call, synchronize, 1, clock))
    return Samples(tuple(values), warm_up, settled)


def time_slices(
    call: Callable[[], object],
    synchronize: Callable[[], None],
    *,
    seconds: float,
    clock: Clock = time.perf_counter,
) -> Samples:
    """Time runs of calls with one wait at the end of each: the pace at which a queue is worked off.

    Waiting after every call would keep a device idle between small steps. A slice is at least 20 ms long, so that
    the clock and the wait do not count.

    Returns:
        Samples whose values are seconds a call, one a slice.
    """
    warm_up, settled = _warm_up(call, synchronize, seconds, clock)
    values: list[float] = []
    with _no_garbage_collection():
        calls = max(1, round(_SLICE_SECONDS / max(_timed(call, synchronize, 1, clock), 1e-9)))
        deadline = clock() + seconds
        while len(values) < _LEAST or clock() < deadline:
            values.append(_timed(call, synchronize, calls, clock) / calls)
    return Samples(tuple(values), warm_up, settled)


def _warm_up(
    call: Callable[[], object], synchronize: Callable[[], None], seconds: float, clock: Clock
) -> tuple[int, bool]:
    """Call until the medians of two windows in a row agree within 5 %, or until the time is up."""
    values: list[float] = []
    deadline = clock() + seconds
    while len(values) < 2 * _WINDOW or clock() < deadline:
        values.append(_timed(call, synchronize, 1, clock))
        if len(values) >= 2 * _WINDOW:
            before = statistics.median(values[-2 * _WINDOW : -_WINDOW])
            if abs(statistics.median(values[-_WINDOW:]) - before) <= _SETTLED * before:
                return len(values), True
    return len(values), False


def _timed(call: Callable[[], object], synchronize: Callable[[], None], calls: int, clock: Clock) -> float:
    synchronize()
    started = clock()
    for _ in range(calls):
        call()
    synchronize()
    return clock() - started


class _no_garbage_collection:  # noqa: N801 - used like a function
    """Keep Python's cycle collector out of the samples, as timeit does."""

    def __enter__(self) -> None:
        self._enabled = gc.isenabled()
        gc.collect()
        gc.disable()

    def __exit__(self, *unused: object) -> None:
        if self._enabled:
            gc.enable()
