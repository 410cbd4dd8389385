"""The machine is a folder of files here, and the GPU a stand-in."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import psutil
import pytest
from fake_nvml import Card, library

from fashiontl.machine import conditions as module
from fashiontl.machine import nvml
from fashiontl.machine.conditions import (
    Conditions,
    Observer,
    Process,
    ThrottleDetector,
    describe,
    list_processes,
    read_conditions,
    used_by_others,
)
from fashiontl.machine.devices import Device
from fashiontl.machine.nvml import GpuConditions

CPU, CUDA = Device.of("cpu"), Device.of("cuda")

QUIET = Conditions(
    load=0.5, usable_cores=2.0, cpu_hertz=3e9, cpu_celsius=50.0, throttled_seconds=1.0, core_throttles=4,
    busy_seconds=100.0, steal_seconds=2.0, available_bytes=2**30,
)  # fmt: skip
COOL = GpuConditions(
    sm_hertz=1.8e9, max_sm_hertz=1.98e9, memory_hertz=2.6e9, celsius=40.0, watts=300.0, throttle_reasons=("idle",),
    thermal_violation_seconds=7.0, foreign_processes=(),
)  # fmt: skip


class Machine:
    """Control groups of version 2 or 1 and two CPUs, below a folder."""

    def __init__(self, folder: Path) -> None:
        self.group, self.parent, self.cpus = folder / "pod" / "box", folder / "pod", folder / "cpus"
        self.group.mkdir(parents=True)

    def quota(self, own: str, above: str = "") -> None:
        for folder, text in ((self.group, own), (self.parent, above)):
            if text:
                (folder / "cpu.stat").write_text(f"usage_usec 77\nnr_throttled 9\n{text}\nnr_bursts 0\n")

    def heat(self, *counts: int) -> None:
        for cpu, count in enumerate(counts):
            folder = self.cpus / f"cpu{cpu}" / "thermal_throttle"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "core_throttle_count").write_text(f"{count}\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setattr(module, "control_groups", lambda: [machine.group, machine.parent])
    monkeypatch.setattr(module, "_CPUS", machine.cpus)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: [0, 1], raising=False)
    return machine


def gpu(monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...] = (), **facts: Any) -> Card:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    card = Card("GPU-a", **facts)
    monkeypatch.setattr(nvml, "_installed", lambda: library(card, missing=missing))
    return card


# Reading


def test_reads_this_machine() -> None:
    found = read_conditions(CPU)
    assert found.gpu is None
    assert 0 < found.usable_cores <= (os.cpu_count() or 1)
    assert 2**20 < (found.available_bytes or 0) <= psutil.virtual_memory().total
    assert (found.busy_seconds or 0) > 0
    assert found.cpu_hertz is None or 1e8 < found.cpu_hertz < 1e10


def test_every_value_in_its_unit(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.quota("throttled_usec 2500000", "throttled_time 500000000")  # of version 2 and 1
    machine.heat(3, 4, 100)  # the third CPU is not ours
    times = {"user": 8.0, "nice": 1.0, "system": 2.0, "idle": 99.0, "iowait": 9.0, "irq": 0.5, "softirq": 0.25}
    monkeypatch.setattr(psutil, "cpu_times", lambda: SimpleNamespace(**times, steal=3.0))
    clocks = [SimpleNamespace(current=2300.0), SimpleNamespace(current=3100.0), SimpleNamespace(current=0.0)]
    monkeypatch.setattr(psutil, "cpu_freq", lambda percpu: clocks, raising=False)
    sensors = {
        "acpitz": [SimpleNamespace(current=99.0)],
        "coretemp": [SimpleNamespace(current=61.0), SimpleNamespace(current=72.5)],
    }
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: sensors, raising=False)
    monkeypatch.setattr(psutil, "getloadavg", lambda: (1.5, 9.0, 9.0))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=12345))
    monkeypatch.setattr(module, "usable_cores", lambda: 1.5)
    assert read_conditions(CPU) == Conditions(
        load=1.5, usable_cores=1.5, cpu_hertz=3.1e9, cpu_celsius=72.5, throttled_seconds=3.0, core_throttles=7,
        busy_seconds=11.75, steal_seconds=3.0, available_bytes=12345,
    )  # fmt: skip


def test_what_psutil_does_not_tell_is_unknown(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError

    for name in ("cpu_times", "cpu_freq", "getloadavg", "virtual_memory"):
        monkeypatch.setattr(psutil, name, refuse)
    monkeypatch.delattr(psutil, "sensors_temperatures", raising=False)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", refuse)
    machine.heat(1, 1)
    cores = read_conditions(CPU).usable_cores
    assert read_conditions(CPU) == Conditions(cores)


def in_namespace(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(psutil, "LINUX", True)
    monkeypatch.setattr(Path, "readlink", lambda self: Path(name))


def test_foreign_processes_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    me = os.getpid()
    tree = {1: Process(0, 0.0, 0.0, 0.0), me: Process(1, 0.0, 0.0, 0.0), me + 1: Process(me, 0.0, 0.0, 0.0)}
    gpu(monkeypatch, processes=[(me, 1), (1, None), (me + 1, 2), (77, 3), (78, 4)])
    in_namespace(monkeypatch, "pid:[4026531836]")
    monkeypatch.setattr(module, "list_processes", lambda: tree)
    monkeypatch.setattr(psutil, "pid_exists", lambda pid: pid != 78)
    monkeypatch.setattr(module, "describe", lambda pid: f"python (pid {pid})")
    found = read_conditions(CUDA).gpu
    assert found is not None
    assert found.foreign_processes == ("python (pid 77)",)


def test_in_a_container_foreign_processes_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver may list this very process under its id on the host."""

    def foreign() -> tuple[str, ...] | None:
        found = read_conditions(CUDA).gpu
        assert found is not None
        return found.foreign_processes

    card = gpu(monkeypatch, processes=[(4711, 1)])
    in_namespace(monkeypatch, "pid:[4026532800]")
    assert foreign() is None
    card.processes.clear()
    assert foreign() == ()
    gpu(monkeypatch, missing=("nvmlDeviceGetComputeRunningProcesses",))
    assert foreign() is None


# Throttling


def test_the_detector_sees_both_counters_rise(machine: Machine) -> None:
    machine.quota("throttled_usec 5", "throttled_usec 7")
    machine.heat(1, 1)
    detector = ThrottleDetector(CPU)
    assert detector.reads == ("cpu quota", "core throttle count")
    machine.heat(2, 1)
    assert detector() is False  # what came before the first call is forgotten
    assert detector() is False
    machine.quota("throttled_usec 5", "throttled_usec 8")
    assert detector() is True
    assert detector() is False
    machine.heat(2, 2)
    assert detector() is True
    assert detector() is False


def test_the_detector_that_can_read_nothing_says_no(machine: Machine) -> None:
    machine.quota("nothing_of_use 5")  # the root group's has no such number
    detector = ThrottleDetector(CPU)
    assert detector.reads == ()
    assert [detector(), detector()] == [False, False]


def test_the_detector_of_a_gpu(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.quota("throttled_usec 5")
    card = gpu(monkeypatch, reasons=0x40)
    detector = ThrottleDetector(CUDA)
    assert detector.reads == ("cpu quota", "gpu thermal violation time", "gpu throttle reasons")
    assert detector() is False
    assert [detector(), detector()] == [True, True]  # it goes on
    card.reasons = 0x7  # idle, application clocks, power cap
    assert detector() is False
    card.violation += 1000
    assert [detector(), detector()] == [True, False]
    machine.quota("throttled_usec 6")
    assert [detector(), detector()] == [True, False]


# Warnings


def observe(
    monkeypatch: pytest.MonkeyPatch,
    before: Conditions = QUIET,
    after: Conditions | None = None,
    *,
    others: dict[int, float] | None = None,
    seconds: float = 10.0,
) -> list[str]:
    states = iter([before, after or before])
    monkeypatch.setattr(module, "read_conditions", lambda device: next(states))
    monkeypatch.setattr(module, "list_processes", dict)
    monkeypatch.setattr(module, "used_by_others", lambda before, after, pid: others or {})
    monkeypatch.setattr(module, "describe", lambda pid: f"pytest (pid {pid})")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    times = iter([100.0, 100.0 + seconds])
    observer = Observer(CUDA, clock=lambda: next(times))
    observer.begin()
    result = observer.end()
    assert (result.before, result.after) == (before, after or before)
    return result.warnings


def cpu(**facts: Any) -> Conditions:
    return msgspec.structs.replace(QUIET, **facts)


def with_gpu(**facts: Any) -> Conditions:
    return cpu(gpu=msgspec.structs.replace(COOL, **facts))


def test_a_quiet_machine_gives_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert observe(monkeypatch) == []
    assert observe(monkeypatch, with_gpu(), with_gpu(sm_hertz=1.7e9, celsius=80.0)) == []
    nothing = Conditions(2.0, gpu=GpuConditions())
    assert observe(monkeypatch, nothing) == []


def test_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert observe(monkeypatch, others={12: 5.0, 13: 2.0, 14: 0.25, 15: 0.75}) == [
        "other processes used 0.8 of 2 cores during the case: pytest (pid 12), pytest (pid 13), pytest (pid 15)"
    ]
    assert observe(monkeypatch, others={12: 0.99}) == []  # 5 % of 2 cores for 10 s is 1 s
    assert observe(monkeypatch, others={12: 0.09}, seconds=0.1) == []  # few ticks


BUSY = {"throttle_reasons": ("application clocks",)}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (QUIET, cpu(steal_seconds=2.5, busy_seconds=109.5), "the hypervisor withheld 5% of the CPU time that"),
        (QUIET, cpu(steal_seconds=2.1875, busy_seconds=109.8125), ""),
        (QUIET, cpu(throttled_seconds=1.5), "the CPU quota of 2 cores stopped this process's control group for 0.5 s"),
        (QUIET, cpu(throttled_seconds=1.375), ""),
        (QUIET, cpu(core_throttles=7), "heat slowed CPU cores down 3 times during the case"),
        (cpu(load=5.1), cpu(load=1.0), "the load average was 5.1 on 4 cores before the case began"),
        (cpu(load=5.0), cpu(load=50.0), ""),
        (QUIET, cpu(cpu_hertz=2.6e9), "the fastest core's clock fell from 3.00 to 2.60 GHz"),
        (QUIET, cpu(cpu_hertz=2.8e9), ""),
        (cpu(cpu_hertz=0.8e9), cpu(cpu_hertz=3e9), ""),  # it was at rest
        (
            with_gpu(foreign_processes=("python (pid 7)", "Xorg (pid 8)")),
            with_gpu(foreign_processes=("python (pid 7)", "ollama (pid 9)")),
            "the GPU was shared with python (pid 7), Xorg (pid 8), ollama (pid 9)",
        ),
        (
            with_gpu(),
            with_gpu(throttle_reasons=("hardware slowdown", "hardware power brake")),
            "the GPU was throttled before or after the case: hardware power brake, hardware slowdown",
        ),
        (
            with_gpu(),
            with_gpu(thermal_violation_seconds=7.25),
            "heat held the GPU's clocks down for 0.25 s during the case",
        ),
        (with_gpu(), with_gpu(throttle_reasons=("software power cap",)), "the GPU was at its power limit"),
        (with_gpu(sm_hertz=1.2e9), with_gpu(sm_hertz=1.8e9), ""),  # it was idle
        (with_gpu(sm_hertz=1.8e9, **BUSY), with_gpu(sm_hertz=1.2e9, **BUSY), "the GPU's clock went from 1.80 to 1.20"),
    ],
)
def test_warnings(before: Conditions, after: Conditions, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = observe(monkeypatch, before, after)
    assert len(found) == bool(expected)
    assert not expected or found[0].startswith(expected)


# Whose CPU time it was: init (1) - shell (10) - pytest (20) - server (30) - worker (40), and another's make (50) with
# two compilers.
TREE = {
    1: Process(0, 0.0, 5.0, 100.0),
    10: Process(1, 10.0, 1.0, 8.0),
    20: Process(10, 20.0, 3.0, 0.0),
    30: Process(20, 30.0, 2.0, 40.0),
    40: Process(30, 40.0, 6.0, 0.0),
    50: Process(1, 50.0, 1.0, 12.0),
    51: Process(50, 51.0, 4.0, 0.0),
    52: Process(50, 52.0, 2.0, 0.0),
}


@pytest.mark.parametrize(
    ("changes", "used"),
    [
        pytest.param(
            {1: Process(0, 0.0, 6.0, 100.0), 10: Process(1, 10.0, 2.0, 8.0), 20: Process(10, 20.0, 9.0, 0.0),
             30: Process(20, 30.0, 3.0, 60.0), 40: None, 41: Process(30, 90.0, 7.0, 1.0)},
            {}, id="our own work",
        ),
        pytest.param(
            {51: Process(50, 51.0, 4.75, 0.0), 52: Process(50, 52.0, 2.5, 0.0)}, {51: 0.75, 52: 0.5}, id="running"
        ),
        pytest.param({60: Process(1, 90.0, 0.5, 0.25)}, {60: 0.75}, id="began meanwhile"),
        pytest.param({50: Process(1, 50.0, 1.0, 18.0), 51: None}, {50: 2.0}, id="ended, found in its parent"),
        pytest.param(
            {1: Process(0, 0.0, 5.0, 119.25), 50: None, 51: None, 52: None}, {1: 0.25}, id="a tree ended, found in init"
        ),
        pytest.param({10: Process(1, 10.0, 1.0, 11.0)}, {10: 3.0}, id="a neighbour below our own shell"),
        pytest.param({50: Process(1, 50.0, 1.5, 12.0), 51: None}, {50: 0.5}, id="a parent that does not wait"),
        pytest.param(
            {51: Process(1, 91.0, 0.25, 0.0), 50: Process(1, 50.0, 1.0, 16.0)}, {51: 0.25}, id="an id given again"
        ),
    ],
)  # fmt: skip
def test_cpu_time_of_others(changes: dict[int, Process | None], used: dict[int, float]) -> None:
    after = {pid: process for pid, process in {**TREE, **changes}.items() if process is not None}
    assert used_by_others(TREE, after, 20) == used


def test_lists_the_processes_of_this_machine() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        found, me = list_processes(), os.getpid()
        assert found[child.pid].parent == me
        assert found[me].seconds > 0
        assert found[child.pid].started >= found[me].started > 0
        assert describe(child.pid) == f"{psutil.Process(child.pid).name()} (pid {child.pid})"
    finally:
        child.communicate(b"\n")
    assert describe(child.pid) == f"pid {child.pid}"


def test_kernel_threads_and_unreadable_processes_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def running(pid: int, parent: int | None, *, readable: bool = True) -> SimpleNamespace:
        times = SimpleNamespace(user=1.0, system=2.0, children_user=4.0, children_system=8.0)
        info = {"ppid": parent, "create_time": 5.0, "cpu_times": times if readable else None}
        return SimpleNamespace(pid=pid, info=info)

    listed = [running(1, None), running(2, 0), running(3, 2), running(4, 1), running(5, 1, readable=False)]
    monkeypatch.setattr(psutil, "process_iter", lambda attrs: listed)
    monkeypatch.setattr(psutil, "LINUX", True)
    monkeypatch.setattr(module, "_name", {2: "kthreadd"}.get)
    assert list_processes() == {1: Process(0, 5.0, 3.0, 12.0), 4: Process(1, 5.0, 3.0, 12.0)}
    monkeypatch.setattr(module, "_name", {2: "bash"}.get)
    assert set(list_processes()) == {1, 2, 3, 4}


def test_an_observer_that_has_not_begun() -> None:
    with pytest.raises(RuntimeError, match="before begin"):
        Observer(CPU).end()
