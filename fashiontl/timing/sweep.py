"""Throughput by batch size, and the largest batch that fits. No torch: what is run is a function."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fashiontl.machine.devices import Device
from fashiontl.timing.loops import DeviceTimer, SamplingBudget, time_blocks

CallOf = Callable[[int], Callable[[], object]]

# A batch size that was found by halving is this share of itself, or one image, from the smallest known not to fit.
_GRANULARITY = 8
# The largest batch on a CPU, where the system may end the process before an allocation fails.
CPU_LARGEST = 512


@dataclass(frozen=True)
class Point:
    """One batch size, and seconds a call, one value a block; none when the machine was throttled all the while."""

    batch: int
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Sweep:
    """The sizes that were timed, in rising order, and the largest that ran: 0 when none did.

    `limit` is why no larger one did: memory was full, the settings ask for no more, or a call took longer than the time
    budget.
    """

    points: tuple[Point, ...]
    largest: int
    limit: Literal["memory", "setting", "time"]


def sweep(
    call_of: CallOf,
    device: Device,
    timer: DeviceTimer,
    budget: SamplingBudget,
    *,
    most: int,
    progress: Callable[[int], None] = lambda batch: None,
    least: int = 1,
) -> Sweep:
    """Time calls at batch sizes that double, and find the largest that fits.

    When a size runs out of memory, sizes between it and the largest that fitted are tried, each with one call, until
    the two are an eighth of the latter or one image apart; then the largest is timed too.

    `call_of` makes the call for a batch size and may itself run out of memory. Sizes go from `least` to `most`, each
    within the budget, and `progress` is called with each before it is tried.
    """
    points: list[Point] = []

    def timed(batch: int) -> bool:
        progress(batch)
        return _runs(lambda: points.append(Point(batch, time_blocks(call_of(batch), timer, budget).values)), device)

    def fits(batch: int) -> bool:
        progress(batch)

        def once() -> None:
            call_of(batch)()
            timer.synchronize()

        return _runs(once, device)

    batch = least
    while timed(batch):
        if points[-1].seconds and statistics.median(points[-1].seconds) > budget.seconds:
            return Sweep(tuple(points), batch, "time")
        if batch >= most:
            return Sweep(tuple(points), batch, "setting")
        batch = min(2 * batch, most)
    if not points:
        return Sweep((), 0, "memory")
    fitted = _largest(fits, points[-1].batch, batch)
    if fitted > points[-1].batch:
        timed(fitted)
    return Sweep(tuple(points), points[-1].batch, "memory")


def _largest(fits: Callable[[int], bool], fitted: int, failed: int) -> int:
    granularity = max(1, fitted // _GRANULARITY)
    while failed - fitted > granularity:
        middle = (fitted + failed) // 2
        if fits(middle):
            fitted = middle
        else:
            failed = middle
    return fitted


def _runs(function: Callable[[], None], device: Device) -> bool:
    """Call a function; False when memory runs out."""
    try:
        function()
    except Exception as error:
        if not device.is_out_of_memory(error):
            raise
    else:
        return True
    # Only here has Python let go of the error, and with it of its traceback, whose frames held the tensors.
    device.release_memory()
    return False
