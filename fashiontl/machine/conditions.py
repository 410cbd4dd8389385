"""What else was going on while a case was measured: heat, clocks, quotas, and other processes. No torch."""

import os
import re
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from fashiontl.machine import nvml
from fashiontl.machine.environment import control_groups, usable_cores
from fashiontl.machine.processes import Process, describe, exists, family, list_processes, used_by_others

Value = TypeVar("Value")

_CPUS = Path("/sys/devices/system/cpu")
# Drivers of sensors that sit in a CPU: Intel's, AMD's two, and those of most ARM boards.
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
_THROTTLED = re.compile(rb"^throttled_(usec|time) (\d+)$", re.MULTILINE)

# As far apart as two windows may be that count as settled: what others take is then within what is tolerated anyway.
_OTHERS_SHARE = 0.05
# CPU time that was wanted and not given moves a median by as much; 2 % is under half of what is tolerated.
_LOST_SHARE = 0.02
# The kernel tells CPU time in ticks of 10 ms, and each of several processes may gain one by rounding.
_LEAST_CPU_SECONDS = 0.1
# The load average remembers the case before for minutes, and that one rightly kept all cores busy.
_CROWDED = 1.25
# Boost clocks wander by a few per cent with temperature alone.
_CLOCK_CHANGE = 0.1
_NAMED = 3
# PROC_PID_INIT_INO of the kernel's include/linux/proc_ns.h.
_HOST_PID_NAMESPACE = "pid:[4026531836]"


@dataclass(frozen=True)
class GpuConditions:
    """State of the GPU; None is unknown.

    Attributes:
        sm_hertz: clock of the streaming multiprocessors.
        max_sm_hertz: highest that it can be.
        memory_hertz: clock of the memory.
        celsius: temperature.
        watts: power of the board.
        throttle_reasons: why the clocks are below their maximum, in `nvml`'s names.
        thermal_violation_seconds: how long heat has held the clocks down, since the driver was loaded.
        foreign_processes: who computes on it besides this process, its ancestors and descendants: `name (pid 12)`.
            Unknown in a container with process ids of its own, since some drivers tell the host's.
    """

    sm_hertz: float | None
    max_sm_hertz: float | None
    memory_hertz: float | None
    celsius: float | None
    watts: float | None
    throttle_reasons: tuple[str, ...] | None
    thermal_violation_seconds: float | None
    foreign_processes: tuple[str, ...] | None


@dataclass(frozen=True)
class Conditions:
    """State of the machine at one moment; None is unknown.

    Attributes:
        load: load average of the last minute, in runnable processes of the whole machine.
        usable_cores: of this process: its CPU affinity and its control group's quota.
        cpu_hertz: clock of the fastest core.
        cpu_celsius: temperature of the hottest core.
        throttled_seconds: how long its quota stopped this process's control group or one above it, summed over CPUs.
        core_throttles: how often cores that this process may use were slowed down by heat, since boot.
        busy_seconds: CPU time of all processes, since boot.
        steal_seconds: CPU time that the hypervisor gave to others though this machine wanted it, since boot.
        available_bytes: memory that can be had without swapping.
        gpu: None for a CPU.
    """

    load: float | None
    usable_cores: float
    cpu_hertz: float | None
    cpu_celsius: float | None
    throttled_seconds: float | None
    core_throttles: float | None
    busy_seconds: float | None
    steal_seconds: float | None
    available_bytes: int | None
    gpu: GpuConditions | None = None


def read_conditions(device: str) -> Conditions:
    """Read the state of the machine, and for a CUDA device that of the GPU.

    Args:
        device: torch's name of it, such as `cpu` or `cuda:1`.
    """
    times = _known(psutil.cpu_times)
    clocks = _known(lambda: psutil.cpu_freq(percpu=True)) or []
    sensors = _known(lambda: dict(psutil.sensors_temperatures())) or {}  # absent on some platforms
    gpu = nvml.of_device(device)
    return Conditions(
        load=_known(lambda: psutil.getloadavg()[0]),
        usable_cores=usable_cores(),
        cpu_hertz=max((core.current * 1e6 for core in clocks if core.current), default=None),
        cpu_celsius=max((each.current for name in _CPU_SENSORS for each in sensors.get(name, [])), default=None),
        throttled_seconds=_quota_counter().read(),
        core_throttles=_heat_counter().read(),
        busy_seconds=times and sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq")),
        steal_seconds=getattr(times, "steal", None),
        available_bytes=_known(lambda: psutil.virtual_memory().available),
        gpu=_read_gpu(gpu) if gpu else None,
    )


class Observer:
    """Compares the machine before and after a case; each side takes some milliseconds."""

    def __init__(self, device: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare for a case on `device`.

        Args:
            device: torch's name of it.
            clock: seconds, monotonic.
        """
        self._device = device
        self._clock = clock
        self._start: tuple[Conditions, Mapping[int, Process], float] | None = None

    def begin(self) -> None:
        """Call it right before the case."""
        before = read_conditions(self._device)
        self._start = before, list_processes(), self._clock()

    def end(self) -> dict[str, Any]:
        """Call it right after the case.

        Returns:
            `before` and `after`, the fields of `Conditions`; and `doubts`, a list of sentences for the record.

        Raises:
            RuntimeError: `begin` has not been called.
        """
        if self._start is None:
            raise RuntimeError("Observer.end() was called before begin()")
        before, processes, start = self._start
        seconds = self._clock() - start
        others = used_by_others(processes, list_processes(), os.getpid())
        after = read_conditions(self._device)
        doubts = [*_cpu_doubts(before, after, seconds, others), *_gpu_doubts(before.gpu, after.gpu)]
        return {"before": asdict(before), "after": asdict(after), "doubts": doubts}


class ThrottleWatch:
    """Tells, between two samples, whether the first was slowed down by heat, power or a quota.

    It takes about a microsecond for each file, of which there is one a control group and one a usable core, and some
    tens of them for a GPU.

    Attributes:
        reads: what can be read here; where that is nothing, the answer is always no.
    """

    def __init__(self, device: str) -> None:
        """Open what is read.

        Args:
            device: torch's name of it. The CPU is watched for a GPU too, since it feeds it.
        """
        gpu = self._gpu = nvml.of_device(device)
        counters = {"cpu quota": _quota_counter().read, "core throttle count": _heat_counter().read}
        if gpu:
            counters["gpu thermal violation time"] = gpu.thermal_violation_seconds
        readable = {name: read for name, read in counters.items() if read() is not None}
        self._counters = tuple(readable.values())
        self._last: list[float | None] | None = None
        self.reads = (*readable, *(["gpu throttle reasons"] if gpu and gpu.throttle_reasons() is not None else []))

    def __call__(self) -> bool:
        """Whether there was throttling since the last call; the first call forgets what came before, and says no."""
        now = [read() for read in self._counters]
        last, self._last = self._last, now
        if last is None:
            return False
        rose = any(_rise(old, new) > 0 for old, new in zip(last, now, strict=True))
        return rose or bool(self._gpu and nvml.THROTTLING & set(self._gpu.throttle_reasons() or ()))


class _Counter:
    """Sum of one number in each of several small files, which stay open so that a read is one system call a file."""

    def __init__(self, paths: Iterable[Path], parse: Callable[[bytes], float | None]) -> None:
        self._parse = parse
        self._files: list[int] = []
        weakref.finalize(self, _close, self._files)
        for path in paths:
            with suppress(OSError):
                self._files.append(os.open(path, os.O_RDONLY))

    def read(self) -> float | None:
        """The sum over the files that have the number; None when none has."""
        try:
            found = [self._parse(os.pread(file, 4096, 0)) for file in self._files]
        except (OSError, ValueError):
            return None
        numbers = [number for number in found if number is not None]
        return sum(numbers) if numbers else None


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


def _quota_counter() -> _Counter:
    return _Counter([folder / "cpu.stat" for folder in control_groups()], _throttled)


def _throttled(text: bytes) -> float | None:
    """Seconds in `cpu.stat`: microseconds in version 2 of control groups, nanoseconds in version 1."""
    found = _THROTTLED.search(text)
    return int(found[2]) * (1e-6 if found[1] == b"usec" else 1e-9) if found else None


def _heat_counter() -> _Counter:
    cpus = _known(lambda: psutil.Process().cpu_affinity()) or []
    return _Counter([_CPUS / f"cpu{cpu}" / "thermal_throttle" / "core_throttle_count" for cpu in cpus], int)


def _known(read: Callable[[], Value]) -> Value | None:
    """What psutil says; None where this platform, machine or container does not tell it."""
    try:
        return read()
    except (psutil.Error, OSError, AttributeError, NotImplementedError, RuntimeError, ValueError):
        return None


def _rise(before: float | None, after: float | None) -> float:
    """How far a counter went up; nothing when it is unknown."""
    return 0.0 if before is None or after is None else after - before


def _read_gpu(gpu: nvml.Gpu) -> GpuConditions:
    return GpuConditions(
        sm_hertz=gpu.sm_hertz(),
        max_sm_hertz=gpu.max_sm_hertz(),
        memory_hertz=gpu.memory_hertz(),
        celsius=gpu.celsius(),
        watts=gpu.watts(),
        throttle_reasons=gpu.throttle_reasons(),
        thermal_violation_seconds=gpu.thermal_violation_seconds(),
        foreign_processes=_foreign(gpu.processes()),
    )


def _foreign(on_gpu: tuple[nvml.GpuProcess, ...] | None) -> tuple[str, ...] | None:
    if not on_gpu:
        return None if on_gpu is None else ()
    if psutil.LINUX and _known(lambda: str(Path("/proc/self/ns/pid").readlink())) != _HOST_PID_NAMESPACE:
        return None
    own = family(list_processes(), os.getpid())
    # The driver lists a process for a moment after its end.
    return tuple(describe(each.pid) for each in on_gpu if each.pid not in own and exists(each.pid))


def _cpu_doubts(before: Conditions, after: Conditions, seconds: float, others: Mapping[int, float]) -> list[str]:
    doubts = []
    total, cores = sum(others.values()), after.usable_cores
    if total >= _LEAST_CPU_SECONDS and total > _OTHERS_SHARE * cores * seconds:
        largest = ", ".join(describe(pid) for pid in sorted(others, key=lambda pid: -others[pid])[:_NAMED])
        doubts.append(f"other processes used {total / seconds:.1f} of {cores:g} cores during the case: {largest}")
    steal = _rise(before.steal_seconds, after.steal_seconds)
    wanted = steal + _rise(before.busy_seconds, after.busy_seconds)
    if steal >= _LEAST_CPU_SECONDS and steal > _LOST_SHARE * wanted:
        doubts.append(f"the hypervisor withheld {steal / wanted:.0%} of the CPU time that this machine wanted")
    stopped = _rise(before.throttled_seconds, after.throttled_seconds)
    if stopped > _LOST_SHARE * cores * seconds:
        doubts.append(f"the CPU quota of {cores:g} cores stopped this process's control group for {stopped:.1f} s")
    if throttles := _rise(before.core_throttles, after.core_throttles):
        doubts.append(f"heat slowed CPU cores down {throttles:.0f} times during the case")
    # The load average is the whole machine's, whatever part of it this process may use.
    machine = os.cpu_count() or 1
    if before.load is not None and before.load > _CROWDED * machine:
        doubts.append(f"the load average was {before.load:.1f} on {machine} cores before the case began")
    # Before the case the cores may be at rest, so only a fall tells anything.
    if before.cpu_hertz and after.cpu_hertz and after.cpu_hertz < (1 - _CLOCK_CHANGE) * before.cpu_hertz:
        doubts.append(f"the fastest core's clock fell from {_gigahertz(before.cpu_hertz, after.cpu_hertz)}")
    return doubts


def _gpu_doubts(before: GpuConditions | None, after: GpuConditions | None) -> list[str]:
    if before is None or after is None:
        return []
    doubts = []
    if foreign := dict.fromkeys((*(before.foreign_processes or ()), *(after.foreign_processes or ()))):
        doubts.append(f"the GPU was shared with {', '.join(foreign)}")
    first, last = set(before.throttle_reasons or ()), set(after.throttle_reasons or ())
    if slowed := sorted((first | last) & nvml.THROTTLING):
        doubts.append(f"the GPU was throttled before or after the case: {', '.join(slowed)}")
    if held := _rise(before.thermal_violation_seconds, after.thermal_violation_seconds):
        doubts.append(f"heat held the GPU's clocks down for {held:.2g} s during the case")
    if nvml.POWER_CAP in first | last:
        doubts.append("the GPU was at its power limit, which lowers its clocks")
    busy = first and last and nvml.IDLE not in first | last
    if busy and before.sm_hertz and abs(_rise(before.sm_hertz, after.sm_hertz)) > _CLOCK_CHANGE * before.sm_hertz:
        doubts.append(f"the GPU's clock went from {_gigahertz(before.sm_hertz, after.sm_hertz or 0)}")
    return doubts


def _gigahertz(before: float, after: float) -> str:
    return f"{before / 1e9:.2f} to {after / 1e9:.2f} GHz"
