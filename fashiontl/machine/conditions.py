"""What else happened on the machine while a case was measured: heat, clocks, quotas, other processes. No torch."""

import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import psutil

from fashiontl.machine import nvml
from fashiontl.machine.devices import Device
from fashiontl.machine.environment import control_groups, text_of, usable_cores

Value = TypeVar("Value")

_CPUS = Path("/sys/devices/system/cpu")
# Drivers of sensors that sit in a CPU: Intel's, AMD's two, and those of most ARM boards.
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
_THROTTLED = re.compile(r"^throttled_(usec|time) (\d+)$", re.MULTILINE)

# As far apart as two windows may be that count as settled: what others take is then within what is tolerated anyway.
_OTHERS_SHARE = 0.05
# CPU time that was wanted and not given moves a median by as much; 2 % is under half of what is tolerated.
_LOST_SHARE = 0.02
# The kernel counts CPU time in ticks of 10 ms, and each of several processes may gain one by rounding.
_LEAST_CPU_SECONDS = 0.1
# The load average remembers the previous case for minutes, and that one rightly kept all cores busy.
_CROWDED = 1.25
# Boost clocks wander by a few per cent with temperature alone.
_CLOCK_CHANGE = 0.1
_NAMED = 3
# PROC_PID_INIT_INO of the kernel's include/linux/proc_ns.h.
_HOST_PID_NAMESPACE = "pid:[4026531836]"
_KERNEL_THREADS = 2  # the parent of the kernel's own threads on Linux, unless a container numbers processes itself


class Conditions(msgspec.Struct, frozen=True):
    """State of the machine at one moment; None is unknown.

    Attributes:
        usable_cores: by this process's CPU affinity and its control group's quota.
        load: load average of the last minute, in runnable processes of the whole machine.
        cpu_hertz: clock of the fastest core.
        cpu_celsius: temperature of the hottest core.
        throttled_seconds: how long its quota stopped this process's control group or one above it, summed over CPUs.
        core_throttles: how often cores that this process may use were slowed down by heat, since boot.
        busy_seconds: CPU time of all processes, since boot.
        steal_seconds: CPU time that the hypervisor gave to others though this machine wanted it, since boot.
    """

    usable_cores: float
    load: float | None = None
    cpu_hertz: float | None = None
    cpu_celsius: float | None = None
    throttled_seconds: float | None = None
    core_throttles: float | None = None
    busy_seconds: float | None = None
    steal_seconds: float | None = None
    available_bytes: int | None = None
    gpu: nvml.GpuConditions | None = None


class Observation(NamedTuple):
    """The machine before and after a case, and warnings about its numbers."""

    before: Conditions
    after: Conditions
    warnings: list[str]


def read_conditions(device: Device) -> Conditions:
    """Read the state of the machine and of the device."""
    times = _known(psutil.cpu_times)
    clocks = _known(lambda: psutil.cpu_freq(percpu=True)) or []
    sensors = _known(lambda: dict(psutil.sensors_temperatures())) or {}  # absent on some platforms
    gpu = device.gpu()
    return Conditions(
        usable_cores=usable_cores(),
        load=_known(lambda: psutil.getloadavg()[0]),
        cpu_hertz=max((core.current * 1e6 for core in clocks if core.current), default=None),
        cpu_celsius=max((each.current for name in _CPU_SENSORS for each in sensors.get(name, [])), default=None),
        throttled_seconds=_throttled_seconds(),
        core_throttles=_core_throttles(),
        busy_seconds=times and sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq")),
        steal_seconds=getattr(times, "steal", None),
        available_bytes=_known(lambda: psutil.virtual_memory().available),
        gpu=msgspec.structs.replace(gpu.conditions(), foreign_processes=_foreign(gpu.processes())) if gpu else None,
    )


class Observer:
    """Compares the machine before and after a case; each side takes some milliseconds."""

    def __init__(self, device: Device, clock: Callable[[], float] = time.monotonic) -> None:
        self._device = device
        self._clock = clock
        self._start: tuple[Conditions, Mapping[int, Process], float] | None = None

    def begin(self) -> None:
        """Call it right before the case."""
        before = read_conditions(self._device)
        self._start = before, list_processes(), self._clock()

    def end(self) -> Observation:
        """Call it right after the case.

        Raises:
            RuntimeError: `begin` has not been called.
        """
        if self._start is None:
            raise RuntimeError("Observer.end() was called before begin()")
        before, processes, start = self._start
        seconds = self._clock() - start
        others = used_by_others(processes, list_processes(), os.getpid())
        after = read_conditions(self._device)
        warnings = [*_cpu_warnings(before, after, seconds, others), *_gpu_warnings(before.gpu, after.gpu)]
        return Observation(before, after, warnings)


class ThrottleDetector:
    """Detects whether the machine was slowed down by heat, power or a quota since the last call.

    A call takes some ten microseconds for each control group and usable core, and for a GPU. The CPU is observed for a
    GPU too, since it feeds it.

    Attributes:
        reads: what can be read here; if that is nothing, the answer is always no.
    """

    def __init__(self, device: Device) -> None:
        gpu = self._gpu = device.gpu()
        counters = {"cpu quota": _throttled_seconds, "core throttle count": _core_throttles}
        if gpu:
            counters["gpu thermal violation time"] = gpu.thermal_violation_seconds
        readable = {name: read for name, read in counters.items() if read() is not None}
        self._counters = tuple(readable.values())
        self._last: list[float | None] | None = None
        self.reads = (*readable, *(["gpu throttle reasons"] if gpu and gpu.throttle_reasons() is not None else []))

    def __call__(self) -> bool:
        """Whether there was throttling since the last call; the first call returns False."""
        now = [read() for read in self._counters]
        last, self._last = self._last, now
        if last is None:
            return False
        rose = any(_rise(old, new) > 0 for old, new in zip(last, now, strict=True))
        return rose or bool(self._gpu and nvml.THROTTLING & set(self._gpu.throttle_reasons() or ()))


def _throttled_seconds() -> float | None:
    """Of `cpu.stat`: microseconds in version 2 of control groups, nanoseconds in version 1."""
    found = [_THROTTLED.search(text_of(folder / "cpu.stat") or "") for folder in control_groups()]
    seconds = [int(each[2]) * (1e-6 if each[1] == "usec" else 1e-9) for each in found if each]
    return sum(seconds) if seconds else None


def _core_throttles() -> float | None:
    cpus = _known(lambda: psutil.Process().cpu_affinity()) or []
    counts = [text_of(_CPUS / f"cpu{cpu}" / "thermal_throttle" / "core_throttle_count") for cpu in cpus]
    known = [int(count) for count in counts if count]
    return sum(known) if known else None


def _known(read: Callable[[], Value]) -> Value | None:
    """The result of a function of psutil; None where this platform, machine or container has none."""
    try:
        return read()
    except (psutil.Error, OSError, AttributeError, NotImplementedError, RuntimeError, ValueError):
        return None


def _rise(before: float | None, after: float | None) -> float:
    return 0.0 if before is None or after is None else after - before


def _foreign(on_gpu: Iterable[int] | None) -> tuple[str, ...] | None:
    if not on_gpu:
        return None if on_gpu is None else ()
    if psutil.LINUX and _known(lambda: str(Path("/proc/self/ns/pid").readlink())) != _HOST_PID_NAMESPACE:
        return None
    processes, own = list_processes(), os.getpid()
    related = _ancestors(processes, own) | _descendants(processes, own)
    # The driver lists a process for a moment after its end.
    return tuple(describe(pid) for pid in on_gpu if pid not in related and psutil.pid_exists(pid))


def _cpu_warnings(before: Conditions, after: Conditions, seconds: float, others: Mapping[int, float]) -> list[str]:
    warnings = []
    total, cores = sum(others.values()), after.usable_cores
    if total >= _LEAST_CPU_SECONDS and total > _OTHERS_SHARE * cores * seconds:
        largest = ", ".join(describe(pid) for pid in sorted(others, key=lambda pid: -others[pid])[:_NAMED])
        warnings.append(f"other processes used {total / seconds:.1f} of {cores:g} cores during the case: {largest}")
    steal = _rise(before.steal_seconds, after.steal_seconds)
    wanted = steal + _rise(before.busy_seconds, after.busy_seconds)
    if steal >= _LEAST_CPU_SECONDS and steal > _LOST_SHARE * wanted:
        warnings.append(f"the hypervisor withheld {steal / wanted:.0%} of the CPU time that this machine wanted")
    stopped = _rise(before.throttled_seconds, after.throttled_seconds)
    if stopped > _LOST_SHARE * cores * seconds:
        warnings.append(f"the CPU quota of {cores:g} cores stopped this process's control group for {stopped:.1f} s")
    if throttles := _rise(before.core_throttles, after.core_throttles):
        warnings.append(f"heat slowed CPU cores down {throttles:.0f} times during the case")
    # The load average is the whole machine's, whatever part of it this process may use.
    machine = os.cpu_count() or 1
    if before.load is not None and before.load > _CROWDED * machine:
        warnings.append(f"the load average was {before.load:.1f} on {machine} cores before the case began")
    # Before the case the cores may be at rest, so only a fall means anything.
    if before.cpu_hertz and after.cpu_hertz and after.cpu_hertz < (1 - _CLOCK_CHANGE) * before.cpu_hertz:
        warnings.append(f"the fastest core's clock fell from {_gigahertz(before.cpu_hertz, after.cpu_hertz)}")
    return warnings


def _gpu_warnings(before: nvml.GpuConditions | None, after: nvml.GpuConditions | None) -> list[str]:
    if before is None or after is None:
        return []
    warnings = []
    if foreign := dict.fromkeys((*(before.foreign_processes or ()), *(after.foreign_processes or ()))):
        warnings.append(f"the GPU was shared with {', '.join(foreign)}")
    first, last = set(before.throttle_reasons or ()), set(after.throttle_reasons or ())
    if slowed := sorted((first | last) & nvml.THROTTLING):
        warnings.append(f"the GPU was throttled before or after the case: {', '.join(slowed)}")
    if held := _rise(before.thermal_violation_seconds, after.thermal_violation_seconds):
        warnings.append(f"heat held the GPU's clocks down for {held:.2g} s during the case")
    if nvml.POWER_CAP in first | last:
        warnings.append("the GPU was at its power limit, which lowers its clocks")
    busy = first and last and nvml.IDLE not in first | last
    if busy and before.sm_hertz and abs(_rise(before.sm_hertz, after.sm_hertz)) > _CLOCK_CHANGE * before.sm_hertz:
        warnings.append(f"the GPU's clock went from {_gigahertz(before.sm_hertz, after.sm_hertz or 0)}")
    return warnings


def _gigahertz(before: float, after: float) -> str:
    return f"{before / 1e9:.2f} to {after / 1e9:.2f} GHz"


class Process(NamedTuple):
    """A process at one moment.

    Attributes:
        parent: its process id.
        started: seconds since 1970.
        seconds: CPU time since it began.
        ended: CPU time of its children that have ended and been waited for, and of theirs.
    """

    parent: int
    started: float
    seconds: float
    ended: float


def list_processes() -> dict[int, Process]:
    """All visible processes, by process id; without the kernel's threads, which work for all and so for us."""
    has_threads = psutil.LINUX and _name(_KERNEL_THREADS) == "kthreadd"
    found = {}
    for process in psutil.process_iter(["ppid", "create_time", "cpu_times"]):
        parent, started, times = (process.info[name] for name in ("ppid", "create_time", "cpu_times"))
        is_kernels = has_threads and _KERNEL_THREADS in (process.pid, parent)
        if times is not None and started is not None and not is_kernels:
            ended = times.children_user + times.children_system
            found[process.pid] = Process(parent or 0, started, times.user + times.system, ended)
    return found


def used_by_others(before: Mapping[int, Process], after: Mapping[int, Process], pid: int) -> dict[int, float]:
    """CPU seconds that processes outside a process's family used between two listings, by process id, without zeros.

    A process that has ended in between is in its parent's count of ended children, and so under its parent's id. That
    holds for the other children of our ancestors too.
    """
    ours, ancestors = _descendants(before, pid) | _descendants(after, pid), _ancestors(after, pid)
    # Ids are given again, but not within a second.
    alive = {each for each in before.keys() & after.keys() if abs(before[each].started - after[each].started) < 1}
    # An ended child adds to its parent all that it ever used; what it had used at the first listing is subtracted.
    old: dict[int, float] = defaultdict(float)
    for ended in before.keys() - alive:
        parent = before[ended].parent
        while parent in before and parent not in alive:
            parent = before[parent].parent
        old[parent] += before[ended].seconds + before[ended].ended
    used = {}
    for other in after.keys() - ours:
        now = after[other]
        then = before[other] if other in alive else Process(now.parent, now.started, 0.0, 0.0)
        own = 0.0 if other in ancestors else max(0.0, now.seconds - then.seconds)
        used[other] = own + max(0.0, now.ended - then.ended - old[other])
    return {other: seconds for other, seconds in used.items() if seconds > 0}


def describe(pid: int) -> str:
    """Name and id of a process, such as `pytest (pid 12)`; its id alone if it has ended or is hidden."""
    name = _name(pid)
    return f"{name} (pid {pid})" if name else f"pid {pid}"


def _name(pid: int) -> str | None:
    return _known(lambda: psutil.Process(pid).name())


def _ancestors(processes: Mapping[int, Process], pid: int) -> set[int]:
    found: set[int] = set()
    while pid in processes and (pid := processes[pid].parent) not in found:
        found.add(pid)
    return found


def _descendants(processes: Mapping[int, Process], pid: int) -> set[int]:
    """The process itself, its children, theirs, and so on."""
    found, children = {pid}, {pid}
    while children := {child for child, process in processes.items() if process.parent in children} - found:
        found |= children
    return found
