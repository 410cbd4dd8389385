"""Whether a slice of a measurement was disturbed: what else happened on the machine while it was taken. No torch.

The process that takes slices reads what it used (`Usage`); the one that commands it, which sleeps meanwhile, reads the
machine (`Watch`); `marks` judges.
"""

import math
import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple, Self

import msgspec
import psutil

from fashiontl.machine.conditions import ThrottleDetector
from fashiontl.machine.devices import Device

_TASKS = Path("/proc/self/task")
_PRESSURE = Path("/proc/pressure")
_CLOCKS = "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"
# Reading one takes tens of microseconds, and cores that work together have clocks that are alike.
_CLOCKS_READ = 2
_BUSY = ("user", "nice", "system", "irq", "softirq")

_THROTTLED = "the machine was throttled"
_OTHERS_USED = "other processes used the cores"
_OTHERS_USED_THROUGHOUT = "other processes used the cores throughout"
_WAITED_LONG = "threads waited for a core"
_STOLEN = "the hypervisor withheld CPU time"
_SHORT = "memory was short"
_DISK_BUSY = "processes waited for a disk"
# What of `SliceConditions` says how much, and how that is put.
_HOW_MUCH = {
    _OTHERS_USED: ("others", "{:.1f} cores"),
    _OTHERS_USED_THROUGHOUT: ("others", "{:.2f} cores"),
    _WAITED_LONG: ("waited", "{:.0%} of the time"),
    _STOLEN: ("steal", "{:.0%}"),
    _DISK_BUSY: ("io_pressure", "{:.0%} of the time"),
}

# What others may take of the cores that may be used here: in one slice, and throughout. Of 944 slices on a machine of
# two cores with 0.06 cores of other work, those with up to 0.3 cores of it were as fast as those without any, and those
# with more by half slower (docs/evidence/busy.md; the next two as well).
_OTHERS, _OTHERS_THROUGHOUT = 0.15, 0.075
# Below so much CPU time in a slice, ticks and their rounding could be all there is.
_LEAST_SECONDS = 0.03
# What waiting for a core may be beyond the usual, in seconds a second. The usual is not nothing: in a training step the
# threads of torch's autograd meet those of the forward pass.
_WAITED, _TIMES_WAITED = 0.2, 2.0
# Slices were slower by a fifth or more when someone waited for a disk for more than a twentieth of them.
_DISK_PRESSURE, _MEMORY_PRESSURE, _FAULTS = 0.05, 0.05, 10
_STEAL = 0.1
# Idle, a virtual machine's neighbours on the same host make a network up to 1.6 times as slow for a second or so.
_REFERENCE = 1.7


class Usage(msgspec.Struct, frozen=True):
    """What a process used; `Usage.now() - before` is what it used since then.

    Attributes:
        seconds: of the wall clock.
        cpu_seconds: of all its threads.
        waited_seconds: how long its threads, summed, were ready to run and had no core; None where that is not told.
        switches: how often a thread was taken off its core before it wanted to wait.
        faults: pages that had to be read from a disk.
    """

    seconds: float
    cpu_seconds: float
    waited_seconds: float | None
    switches: int
    faults: int

    @classmethod
    def now(cls) -> Self:
        """Of this process since it began, in some ten microseconds a thread."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return cls(time.perf_counter(), time.process_time(), _waited_seconds(), used.ru_nivcsw, used.ru_majflt)

    def __sub__(self, before: "Usage") -> "Usage":
        waited = None
        if self.waited_seconds is not None and before.waited_seconds is not None:
            # A thread that has ended is no longer in the sum.
            waited = max(0.0, self.waited_seconds - before.waited_seconds)
        return Usage(
            self.seconds - before.seconds,
            self.cpu_seconds - before.cpu_seconds,
            waited,
            self.switches - before.switches,
            self.faults - before.faults,
        )


class SliceConditions(msgspec.Struct, frozen=True, omit_defaults=True):
    """The machine during one slice; None is unknown.

    `msgspec.to_builtins` makes a mapping of numbers of it, `msgspec.convert` makes it of such a mapping.

    Attributes:
        start: seconds since 1970.
        seconds: how long the slice took, with what of it was not counted.
        cores: CPU seconds of the slice's process in a second.
        waited: seconds in a second that its threads, summed, were ready to run and had no core.
        switches: how often in a second a thread of it was taken off its core.
        faults: pages that it had to read from a disk.
        others: CPU seconds in a second of everything else on the cores that may be used here. Counted in ticks of 10 ms
            a core.
        steal: share of the CPU time wanted that the hypervisor gave to other machines. In ticks too.
        disk_wait: seconds in a second that cores had nothing to do but wait for a disk. In ticks too.
        cpu_pressure: share of the time in which some process of the machine waited for a core.
        memory_pressure: the same, for memory.
        io_pressure: the same, for a disk.
        throttled: 1 where heat, power or a quota slowed the machine down meanwhile, otherwise 0.
        cpu_hertz: clock of the fastest of some cores at the end.
    """

    start: float
    seconds: float
    cores: float
    waited: float | None = None
    switches: float = 0.0
    faults: float = 0.0
    others: float | None = None
    steal: float | None = None
    disk_wait: float | None = None
    cpu_pressure: float | None = None
    memory_pressure: float | None = None
    io_pressure: float | None = None
    throttled: float = 0.0
    cpu_hertz: float | None = None


class Reference(msgspec.Struct, frozen=True):
    """What the reference mix took once.

    Attributes:
        start: seconds since 1970, as in `SliceConditions`.
        seconds: of a call, the median of those timed, by the name of the call.
    """

    start: float
    seconds: dict[str, float]


class Watch:
    """Reads the machine around slices, each time in less than a millisecond.

    Args:
        device: what is measured; a GPU's throttling is watched too.
        clock: seconds, monotonic.
        epoch: seconds since 1970.
    """

    def __init__(
        self, device: Device, clock: Callable[[], float] = time.perf_counter, epoch: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._epoch = epoch
        self._start = 0.0
        self._throttled = ThrottleDetector(device)
        cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        # All cores together are one line of /proc/stat, which hundreds are not.
        self._cpus = cpus if 0 < len(cpus) < (os.cpu_count() or 1) else []
        self._clocks = [Path(_CLOCKS.format(cpu)) for cpu in cpus[:_CLOCKS_READ]]
        self._before: _Reading | None = None

    def begin(self) -> None:
        """Call it right before a slice."""
        self._throttled()
        self._start = self._epoch()
        self._before = self._read()

    def end(self, usage: Usage) -> SliceConditions:
        """Call it right after the slice, with what its process used from its first call to its last.

        Raises:
            RuntimeError: `begin` has not been called.
        """
        if self._before is None:
            raise RuntimeError("Watch.end() was called before begin()")
        after, before = self._read(), self._before
        self._before = None
        seconds = max(after.seconds - before.seconds, 1e-9)

        def rise(counters: str, name: str) -> float | None:
            """The rise of one of them; some fall now and then (proc_stat(5) says so of `iowait`)."""
            old, new = getattr(before, counters).get(name), getattr(after, counters).get(name)
            return None if old is None or new is None else max(0.0, new - old)

        def share(counters: str, name: str) -> float | None:
            rose = rise(counters, name)
            return None if rose is None else rose / seconds

        busy, steal, own = rise("cpu", "busy"), rise("cpu", "steal"), after.own - before.own
        return SliceConditions(
            start=self._start,
            seconds=seconds,
            cores=usage.cpu_seconds / seconds,
            waited=None if usage.waited_seconds is None else usage.waited_seconds / seconds,
            switches=usage.switches / seconds,
            faults=float(usage.faults),
            others=None if busy is None else max(0.0, busy - usage.cpu_seconds - own) / seconds,
            steal=None if steal is None or busy is None else steal / max(busy + steal, 1e-9),
            disk_wait=share("cpu", "iowait"),
            cpu_pressure=share("pressure", "cpu"),
            memory_pressure=share("pressure", "memory"),
            io_pressure=share("pressure", "io"),
            throttled=float(self._throttled()),
            cpu_hertz=self._cpu_hertz(),
        )

    @property
    def cores(self) -> int:
        """How many cores may be used here."""
        return len(self._cpus) or os.cpu_count() or 1

    def _read(self) -> "_Reading":
        return _Reading(self._clock(), time.process_time(), _cpu_seconds(self._cpus), _pressure_seconds())

    def _cpu_hertz(self) -> float | None:
        found = []
        with suppress(OSError, ValueError):
            found = [int(clock.read_text()) * 1e3 for clock in self._clocks]
        return max(found, default=None)


def marks(
    conditions: Sequence[SliceConditions],
    references: Sequence[Reference] = (),
    *,
    cores: int,
    usual: Mapping[str, float] | None = None,
) -> list[str]:
    """Why each slice is disturbed; empty where it is not.

    A slice is judged by what happened while it ran, not by how long it took: slow slices are left in, or every
    distribution would be cut to the shape that one expects.

    Args:
        conditions: of all slices of one cell and metric, in the order of time; what its threads usually wait is its
            own.
        references: of the same session, in the order of time.
        cores: `Watch.cores`.
        usual: seconds of the reference's calls on this machine at rest; unless known, their medians in `references`.
    """
    found = [_alone(each, cores) for each in conditions]
    quiet = [each for each, reason in zip(conditions, found, strict=True) if not reason]
    wait = _usual_wait(quiet)
    throughout = _throughout(quiet, cores)
    slow = _slow_spans(references, usual)
    for index, each in enumerate(conditions):
        if found[index]:
            continue
        if throughout:
            found[index] = throughout
        elif each.waited is not None and each.waited > max(wait + _WAITED, wait * _TIMES_WAITED):
            found[index] = _WAITED_LONG
        else:
            middle = each.start + each.seconds / 2
            found[index] = next((reason for first, last, reason in slow if first <= middle <= last), "")
    return found


def _alone(slice_: SliceConditions, cores: int) -> str:
    """What one slice shows without the others."""
    seconds = slice_.seconds
    if slice_.throttled:
        return _THROTTLED
    if slice_.others is not None and slice_.others > _OTHERS * cores and slice_.others * seconds > _LEAST_SECONDS:
        return _OTHERS_USED
    wanted = slice_.cores + (slice_.others or 0.0)
    if slice_.steal is not None and slice_.steal > _STEAL and slice_.steal * wanted * seconds > _LEAST_SECONDS:
        return _STOLEN
    if (slice_.memory_pressure or 0.0) > _MEMORY_PRESSURE or slice_.faults >= _FAULTS:
        return _SHORT
    if (slice_.io_pressure or 0.0) > _DISK_PRESSURE:
        return _DISK_BUSY
    return ""


def _usual_wait(quiet: Sequence[SliceConditions]) -> float:
    return median([each.waited for each in quiet if each.waited is not None] or [0.0])


def _throughout(quiet: Sequence[SliceConditions], cores: int) -> str:
    """What no single slice shows, since others took too little in each, and all of them together do."""
    known = [(each.others, each.seconds) for each in quiet if each.others is not None]
    total = sum(seconds for _, seconds in known)
    used = sum(others * seconds for others, seconds in known)
    many = used > 10 * _LEAST_SECONDS and used > _OTHERS_THROUGHOUT * cores * total
    return _OTHERS_USED_THROUGHOUT if many else ""


def _slow_spans(references: Sequence[Reference], usual: Mapping[str, float] | None) -> list[tuple[float, float, str]]:
    """From when to when the reference was slow, and which of its calls: both before and after whatever lies between.

    What lies before the first or after the last is judged as what is next to it.
    """
    names = dict.fromkeys(name for each in references for name in each.seconds)
    known = {name: median(each.seconds[name] for each in references if name in each.seconds) for name in names}
    known |= usual or {}
    spans = []
    for index, (before, after) in enumerate(pairwise(references)):
        first = before.start if index else -math.inf
        last = after.start if index < len(references) - 2 else math.inf
        for name in names:
            if name in before.seconds and name in after.seconds:
                times = min(before.seconds[name], after.seconds[name]) / max(known[name], 1e-12)
                if times > _REFERENCE:
                    spans.append((first, last, f"the reference's {name} call was slow"))
    return spans


def by_reason(reasons: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Indices of marked slices, by reason: `Slices.disturbed`."""
    return {
        reason: tuple(index for index, each in enumerate(reasons) if each == reason)
        for reason in dict.fromkeys(reasons)
        if reason
    }


def told(disturbed: Mapping[str, Sequence[int]], conditions: Mapping[str, Sequence[float]], count: int) -> list[str]:
    """Of a measurement's marks, one line a reason: `12 of 40 slices: other processes used the cores (0.8 cores)`.

    Args:
        disturbed: as in `Slices`.
        conditions: as in `Slices`; the number is the median over the slices in question, where it is known.
        count: of all slices.
    """
    lines = []
    for reason, indices in disturbed.items():
        name, form = _HOW_MUCH.get(reason, ("", ""))
        values = conditions.get(name)
        much = f" ({form.format(median(values[index] for index in indices))})" if values and indices else ""
        lines.append(f"{len(indices)} of {count} slices: {reason}{much}")
    return lines


def columns(conditions: Sequence[SliceConditions]) -> dict[str, tuple[float, ...]]:
    """One number a slice by name: `Slices.conditions`. What is unknown of any slice is left out, as is the start."""
    found: dict[str, tuple[float, ...]] = {}
    for name in SliceConditions.__struct_fields__:
        values = [getattr(each, name) for each in conditions]
        if name != "start" and values and None not in values:
            # Four digits are more than any of these is known to.
            found[name] = tuple(float(f"{value:.4g}") for value in values)
    return found


class _Reading(NamedTuple):
    """The machine's counters at one moment; what is not readable is absent.

    Attributes:
        own: CPU seconds of this process.
        cpu: CPU seconds of the cores that may be used, by what they were for: `busy`, `steal`, `iowait`.
        pressure: seconds in which some process waited for `cpu`, `memory` or `io` (the kernel's documentation,
            accounting/psi).
    """

    seconds: float
    own: float
    cpu: Mapping[str, float]
    pressure: Mapping[str, float]


def _cpu_seconds(cpus: Sequence[int]) -> dict[str, float]:
    with suppress(psutil.Error, OSError, RuntimeError, ValueError, IndexError):
        times = psutil.cpu_times(percpu=True) if cpus else [psutil.cpu_times()]
        chosen = [times[cpu] for cpu in cpus] if cpus else times
        busy = sum(getattr(each, name, 0.0) for each in chosen for name in _BUSY)
        others = {
            name: sum(getattr(each, name) for each in chosen)
            for name in ("steal", "iowait")
            if all(hasattr(each, name) for each in chosen)
        }
        # In some sandboxes all of these are always 0.
        return {"busy": busy, **others} if busy else {}
    return {}


def _pressure_seconds() -> dict[str, float]:
    found = {}
    for kind in ("cpu", "memory", "io"):
        with suppress(OSError, ValueError, IndexError):
            # some avg10=0.00 avg60=0.00 avg300=0.00 total=12686038762
            first = (_PRESSURE / kind).read_text().split("\n", 1)[0]
            found[kind] = int(first.rpartition("total=")[2]) * 1e-6
    return found


def _waited_seconds() -> float | None:
    """The second number of each thread's `schedstat` (the kernel's documentation, scheduler/sched-stats)."""
    total, known = 0, False
    with suppress(OSError):
        for task in os.listdir(_TASKS):  # noqa: PTH208, three times as fast as iterdir
            with suppress(OSError, ValueError, IndexError):
                total += int(Path(f"{_TASKS}/{task}/schedstat").read_text().split()[1])
                known = True
    return total * 1e-9 if known else None
