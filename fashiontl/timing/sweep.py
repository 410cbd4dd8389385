"""Pace at one batch size after the other, and the largest that fits. No torch: what is run is a function."""

import gc
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import psutil

from fashiontl.machine.environment import control_groups
from fashiontl.timing.loops import Effort, Instrument, time_slices

CallOf = Callable[[int], Callable[[], object]]
_Result = TypeVar("_Result")

# A batch size that was found by halving is this share of itself, or one image, from the smallest known not to fit.
_GRANULARITY = 8
# Of what the system says is available; the rest is for other processes, and for what it had not counted.
_USABLE = 0.8
_PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Point:
    """One batch size.

    Attributes:
        batch: images a call.
        seconds: a call, one value a slice; empty when all slices were taken while the machine was throttled.
    """

    batch: int
    seconds: tuple[float, ...]

    @property
    def images_per_second(self) -> float | None:
        """At the median of the slices."""
        return self.batch / statistics.median(self.seconds) if self.seconds else None


@dataclass(frozen=True)
class Sweep:
    """What a sweep saw.

    Attributes:
        points: the sizes that were timed, in rising order.
        largest: the largest size that ran; 0 when none did.
        limit: why no larger one did: memory was full, the settings ask for no more, or a call took longer than the
            time budget.
    """

    points: tuple[Point, ...]
    largest: int
    limit: Literal["memory", "setting", "time"]


def sweep(
    call_of: CallOf,
    instrument: Instrument,
    effort: Effort,
    *,
    most: int,
    is_out_of_memory: Callable[[BaseException], bool],
    release: Callable[[], None],
    progress: Callable[[int], None] = lambda batch: None,
    least: int = 1,
) -> Sweep:
    """Time calls at batch sizes that double, and find the largest that fits.

    When a size runs out of memory, sizes between it and the largest that fitted are tried, each with one call, until
    the two are an eighth of the latter or one image apart; then the largest is timed too.

    Args:
        call_of: makes the call for a batch size; may itself run out of memory.
        instrument: of the device.
        effort: for each size.
        most: the last size.
        is_out_of_memory: whether an error says so; any other error is raised.
        release: called after each such error, when nothing holds the failed call's memory any more.
        progress: called with each size before it is tried.
        least: the first size; 2 for training steps of networks whose BatchNorm would see one value a channel.
    """
    trial = _Trial(call_of, instrument.synchronize, is_out_of_memory, release, progress)
    points: list[Point] = []

    def timed(batch: int) -> bool:
        samples = trial.run(batch, lambda call: time_slices(call, instrument, effort))
        if samples is not None:
            points.append(Point(batch, samples.values))
        return samples is not None

    batch = least
    while timed(batch):
        if points[-1].seconds and statistics.median(points[-1].seconds) > effort.seconds:
            return Sweep(tuple(points), batch, "time")
        if batch >= most:
            return Sweep(tuple(points), batch, "setting")
        batch = min(2 * batch, most)
    if not points:
        return Sweep((), 0, "memory")
    fitted = _largest(trial.fits, points[-1].batch, batch)
    if fitted > points[-1].batch:
        timed(fitted)
    return Sweep(tuple(points), points[-1].batch, "memory")


def _largest(fits: Callable[[int], bool], fitted: int, failed: int) -> int:
    """The largest size that fits, by halving between one that does and one that does not."""
    granularity = max(1, fitted // _GRANULARITY)
    while failed - fitted > granularity:
        middle = (fitted + failed) // 2
        if fits(middle):
            fitted = middle
        else:
            failed = middle
    return fitted


@dataclass(frozen=True)
class _Trial:
    """Runs calls that may run out of memory; the fields are `sweep`'s arguments."""

    call_of: CallOf
    synchronize: Callable[[], None]
    is_out_of_memory: Callable[[BaseException], bool]
    release: Callable[[], None]
    progress: Callable[[int], None]

    def run(self, batch: int, use: Callable[[Callable[[], object]], _Result]) -> _Result | None:
        """What `use` makes of the call for a size; None when memory runs out."""
        self.progress(batch)
        try:
            return use(self.call_of(batch))
        except Exception as error:
            if not self.is_out_of_memory(error):
                raise
        # Only here has Python let go of the error, and with it of its traceback, whose frames held the tensors.
        gc.collect()
        self.release()
        return None

    def fits(self, batch: int) -> bool:
        """Whether one call of a size runs to its end."""

        def once(call: Callable[[], object]) -> bool:
            call()
            self.synchronize()
            return True

        return self.run(batch, once) is not None


def limit_memory(more: int | None = None) -> int | None:
    """Let allocations fail in this process before the system runs out of memory and ends it, or another one.

    A limit of the process's private memory (RLIMIT_DATA, setrlimit(2)), for a worker that ends with its phase. It is
    a net to fall into; `within` keeps a sweep from falling, which matters because not every library takes a failed
    allocation well: oneDNN may be unable to make any convolution from then on ("could not create a primitive"), or
    crash. The limit counts memory that is asked for and never touched, such as the hundreds of megabytes that
    oneDNN's compiled kernels reserve. It does not cover what others take meanwhile, shared mappings and files, or
    processes that this one starts: each has a limit of its own, of the same size.

    Args:
        more: bytes that this process may still ask for; None for what the system says is available.

    Returns:
        The bytes that it may still ask for; None where there is no such limit (not on Linux).
    """
    if sys.platform != "linux":
        return None
    import resource

    more = _free_memory() if more is None else more
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_process_bytes("VmData") + more, hard))
    return more


def available_memory() -> int:
    """Bytes that this process may take without harm: 80 % of what the system and its control groups leave."""
    return int(_USABLE * _free_memory())


def _free_memory() -> int:
    free = [psutil.virtual_memory().available]
    for folder in control_groups():
        # Version 2's names, then version 1's.
        for most, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            try:
                free.append(int((folder / most).read_text()) - int((folder / used).read_text()))
            except (OSError, ValueError):  # no such file, or "max"
                continue
    return max(0, min(free))


def within(call_of: CallOf, more: int, peak: Callable[[], int]) -> CallOf:
    """Refuse sizes that would need too much, as smaller ones tell, by raising MemoryError before they run.

    Memory is taken for a fixed amount and one for each image, which the two largest sizes that ran tell.

    Args:
        call_of: makes the call for a batch size.
        more: bytes that may be taken beyond the peak at the first size; on the CPU `available_memory()`.
        peak: the most bytes that the process held since this was last asked; on Linux `process_peak`.
    """
    peaks: dict[int, int] = {}
    tried = 0

    def checked(batch: int) -> Callable[[], object]:
        nonlocal tried
        held = peak()
        if tried:
            peaks[tried] = held
        tried = 0
        if len(peaks) > 1:
            small, large = sorted(peaks)[-2:]
            slope = max(0.0, (peaks[large] - peaks[small]) / (large - small))
            needed = peaks[large] + slope * (batch - large)
            if needed > peaks[min(peaks)] + more:
                raise MemoryError(f"a batch of {batch} would take about {needed:.2e} bytes")
        call = call_of(batch)
        tried = batch
        return call

    return checked


def process_peak() -> int:
    """The most bytes of memory that this process held since this was last asked (Linux; proc(5), clear_refs)."""
    peak = _process_bytes("VmHWM")
    (_PROCESS / "clear_refs").write_text("5")
    return peak


def _process_bytes(name: str) -> int:
    found = re.search(
        rf"^{name}:\s+(\d+) kB$", (_PROCESS / "status").read_text(encoding="utf-8", errors="replace"), re.MULTILINE
    )
    assert found, f"the kernel tells no {name}"
    return 1024 * int(found.group(1))
