"""The timing loops: how long a step takes, once it is steady. What is timed is a function."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from dataclasses import dataclass
from typing import Any, Literal

from fashiontl.core.stats import drift_test, median_interval
from fashiontl.machine.conditions import ThrottleDetector
from fashiontl.machine.devices import Device

Clock = Callable[[], float]
# Seconds a call by the host's clock; then by the device's own, if it has one, or of each part; means over a block.
Sample = tuple[float, ...]
# Takes one sample of so many calls.
Take = Callable[[int], Sample]

# The fewest samples from which a 95 % interval of the median exists (order statistics: 2 * 0.5^6 < 0.05).
_LEAST = 6
# Enough for the 99th percentile to have an interval of its own; more would only lengthen the record.
_MOST = 10_000
# A block of calls whose queue is waited for once is this long, so that the clock and the wait do not count.
BLOCK_SECONDS = 0.02
# Samples are kept or dropped in groups of about this length: as often as one asks whether the machine was throttled.
_GROUP_SECONDS = 0.05
_GROUP_SAMPLES = 200

# How many times as many samples there are before one looks again whether they are enough: looking takes time too.
_LOOK_AGAIN = 1.25

# Steady is what has no trend, or one by less than this from one half of a window to the other, ...
_DRIFT = 0.02
# ... in a window in which a steady drift of this from first to last would be seen, in nine of ten cases. A tenth is
# meant: noise is but estimated, one looks more than once, and so the window is the lucky one, ...
_SEEN = 0.085
# ... and whose noise, as a standard deviation, is below this share: of anything wilder no trend says where it leads.
_NOISE = 0.2
# A window is at least six calls, and lasts at least this share of the time budget.
_LEAST_WINDOW = 6
_MOST_WINDOW = 500
_WINDOW_SHARE = 0.1


@dataclass(frozen=True)
class DeviceTimer:
    """The clocks of a device and of the host.

    Attributes:
        synchronize: waits until the device has finished.
        event: records an event in the device's queue, without waiting; None where there is no queue.
        elapsed: seconds between two such events, once the device has passed them.
        throttled: whether the machine was slowed down since the last call.
        clock: seconds, monotonic.
    """

    synchronize: Callable[[], None]
    event: Callable[[], Any] | None = None
    elapsed: Callable[[Any, Any], float] | None = None
    throttled: Callable[[], bool] = lambda: False
    clock: Clock = time.perf_counter

    @classmethod
    def of(cls, device: Device) -> "DeviceTimer":
        """The timer of a device."""
        event, elapsed = (device.event, device.elapsed) if device.has_queue else (None, None)
        return cls(device.synchronize, event, elapsed, ThrottleDetector(device))


@dataclass(frozen=True)
class SamplingBudget:
    """When a loop has enough samples.

    Attributes:
        seconds: time limit of the sampling; the warm-up may take as much again.
        samples: the fewest samples after which a precise median ends the sampling.
        half_width: what is precise: half of the median's 95 % interval over the median.
    """

    seconds: float
    samples: int = _LEAST
    half_width: float = 0.02


@dataclass(frozen=True)
class WarmUp:
    """How a warm-up ended.

    Attributes:
        steady: whether it ended because the calls had become steady, not because its time was up.
        drift: from one half of the last window to the other, relative to the median.
        noise: standard deviation within it, relative to the median.
        detectable: the steady drift from its first call to its last that would have been seen in nine of ten cases:
            less than 0.1, unless the time was up.
    """

    calls: int
    steady: bool
    drift: float
    noise: float
    detectable: float = math.inf


@dataclass(frozen=True)
class Samples:
    """The samples of a timing loop.

    Attributes:
        values: seconds a call, in the order in which they were taken.
        device: seconds a call in the device's own time; empty where it has none.
        ended: why sampling ended: the median was precise, the time was up, or there were samples enough.
        throttled: samples that were dropped because the machine was slowed down meanwhile.
    """

    values: tuple[float, ...]
    device: tuple[float, ...]
    warm_up: WarmUp
    ended: Literal["precise", "time", "samples"]
    throttled: int

    @property
    def half_width(self) -> float | None:
        """Half of the median's 95 % interval over the median; None when there is no interval."""
        return _half_width(self.values)

    @property
    def throttled_share(self) -> float:
        """Share of all samples that were dropped."""
        return self.throttled / max(1, self.throttled + len(self.values))


def time_blocks(call: Callable[[], object], timer: DeviceTimer, budget: SamplingBudget) -> Samples:
    """Time blocks of calls with one wait at the end of each: the throughput of a full queue.

    A block is at least 20 ms long, so that the clock and the wait do not count, and gives one value, seconds a call.
    """
    return _run(calls_of(call, timer), timer, budget)


def calls_of(call: Callable[[], object], timer: DeviceTimer) -> Take:
    """Samples of a call: from its start until the device has finished it, or the last of several."""
    event, elapsed, clock = timer.event, timer.elapsed, timer.clock

    def take(calls: int) -> Sample:
        timer.synchronize()
        started = clock()
        before = event() if event else None
        for _ in range(calls):
            call()
        after = event() if event else None
        timer.synchronize()
        seconds = (clock() - started) / calls
        return (seconds, elapsed(before, after) / calls) if elapsed else (seconds,)

    return take


def _run(take: Take, timer: DeviceTimer, budget: SamplingBudget) -> Samples:
    """Warm up, then take samples until they are enough.

    Slow calls whose warm-up took the whole time budget and was steady at once are samples already, but for the first,
    which may have set something up: six more steps of VGG-11 would only be the same again.
    """
    with no_garbage_collection():
        started = timer.clock()
        warm_up, window = steady_calls(take, timer.clock, budget.seconds)
        calls = _calls_of_block(window)
        is_enough = calls == 1 and timer.clock() - started >= budget.seconds
        first = window[1:] if is_enough and warm_up.steady and warm_up.calls == len(window) else []
        kept, ended, throttled = _sample(take, calls, timer, budget, first)
    columns = list(zip(*kept, strict=True)) or [()]
    return Samples(
        values=columns[0],
        device=columns[1] if len(columns) > 1 else (),
        warm_up=warm_up,
        ended=ended,
        throttled=throttled,
    )


def _calls_of_block(window: Sequence[Sample]) -> int:
    return max(1, math.ceil(BLOCK_SECONDS / max(statistics.median(sample[0] for sample in window), 1e-9)))


def steady_calls(take: Take, clock: Clock, seconds: float) -> tuple[WarmUp, list[Sample]]:
    """Call until the calls are steady, or until the time is up; also the last window."""
    values: list[Sample] = []
    started = clock()
    look, wanted = _LEAST_WINDOW, 0
    while True:
        values.append(take(1))
        over = clock() - started >= seconds
        if len(values) < look and not (over and len(values) >= _LEAST_WINDOW):
            continue
        mean = max((clock() - started) / len(values), 1e-9)
        least = 2 * math.ceil(max(_LEAST_WINDOW, min(_MOST_WINDOW, _WINDOW_SHARE * seconds / mean)) / 2)
        window = values[-max(least, wanted) :]
        drift = drift_test([sample[0] for sample in window])
        # As many calls as would show the drift, if the noise stays as it is.
        wanted = math.ceil(min(_MOST_WINDOW, len(window) * (drift.detectable / _SEEN) ** 2))
        enough = drift.detectable <= _SEEN or len(window) >= _MOST_WINDOW or over
        # By means: a few slow calls at the window's start are what one is looking for.
        half = len(window) // 2
        first, second = (statistics.fmean(sample[0] for sample in part) for part in (window[:half], window[half:]))
        level = not drift.seen or abs(second - first) <= _DRIFT * second
        steady = len(window) >= least and level and drift.noise <= _NOISE and enough
        if steady or over:
            return WarmUp(len(values), steady, abs(drift.change), drift.noise, drift.detectable), window
        # Looking after each of many short calls would be slower than the calls.
        look = len(values) + max(1, len(window) // 6)


def _sample(
    take: Take, calls: int, timer: DeviceTimer, budget: SamplingBudget, first: Sequence[Sample]
) -> tuple[list[Sample], Literal["precise", "time", "samples"], int]:
    """Samples that were kept, after the first ones, why there are no more, and how many were dropped."""
    clock = timer.clock
    group: list[Sample] = []
    # What happened before is forgotten, but for the first samples.
    throttled = len(first) if timer.throttled() else 0
    kept = [] if throttled else list(first)
    look: float = budget.samples
    asked = clock()
    deadline = asked + budget.seconds
    while True:
        group.append(take(calls))
        now = clock()
        over = now >= deadline and len(kept) + len(group) + throttled >= _LEAST
        if now - asked < _GROUP_SECONDS and len(group) < _GROUP_SAMPLES and not over:
            continue
        if timer.throttled():
            throttled += len(group)
        else:
            kept += group
        group = []
        asked = now
        if len(kept) >= look:
            width = _half_width([sample[0] for sample in kept])
            if width is not None and width <= budget.half_width:
                return kept, "precise", throttled
            look = len(kept) * _LOOK_AGAIN
        if over:
            return kept, "time", throttled
        if len(kept) + throttled >= _MOST:
            return kept, "samples", throttled


def _half_width(values: Sequence[float]) -> float | None:
    if not values:
        return None
    interval = median_interval(values)
    width = max(interval.high - interval.estimate, interval.estimate - interval.low)
    return width / interval.estimate if interval.estimate and math.isfinite(width) else None


class no_garbage_collection(ContextDecorator):  # noqa: N801 - used like a function
    """Keep Python's cycle collector out of the samples, as timeit does, or out of what makes very many objects."""

    def __enter__(self) -> None:
        self._enabled = gc.isenabled()
        gc.collect()
        gc.disable()

    def __exit__(self, *unused: object) -> None:
        if self._enabled:
            gc.enable()
