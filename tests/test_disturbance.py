"""What marks a slice as disturbed, on made-up machines; and that the counters of this one are read."""

import os
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import psutil
import pytest

from fashiontl.machine import disturbance
from fashiontl.machine.devices import Cpu
from fashiontl.machine.disturbance import (
    Reference,
    SliceConditions,
    Usage,
    Watch,
    by_reason,
    columns,
    marks,
    told,
)


def slices(number: int = 20, **at: Any) -> list[SliceConditions]:
    """Quiet slices of 0.2 s a second apart, of two busy threads; `at` has values of a field, by index or for all."""
    quiet: dict[str, Any] = {"others": 0.02, "waited": 0.01, "steal": 0.0, "io_pressure": 0.0, "memory_pressure": 0.0}
    made = []
    for index in range(number):
        own = {name: value.get(index, quiet.get(name, 0.0)) if isinstance(value, dict) else value
               for name, value in at.items()}  # fmt: skip
        made.append(SliceConditions(**{"start": float(index), "seconds": 0.2, "cores": 1.9, **quiet, **own}))
    return made


def marked(*arguments: Any, **named: Any) -> dict[str, tuple[int, ...]]:
    return by_reason(marks(*arguments, **{"cores": 2, **named}))


def test_a_quiet_machine_marks_nothing() -> None:
    assert marks(slices(), cores=2) == [""] * 20
    assert marks([], cores=2) == []


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("others", 0.35, "other processes used the cores"),
        ("waited", 0.25, "threads waited for a core"),
        ("steal", 0.12, "the hypervisor withheld CPU time"),
        ("io_pressure", 0.07, "processes waited for a disk"),
        ("memory_pressure", 0.06, "memory was short"),
        ("faults", 10.0, "memory was short"),
        ("throttled", 1.0, "the machine was throttled"),
    ],
)
def test_a_disturbed_slice_says_by_what(field: str, value: float, reason: str) -> None:
    assert marked(slices(**{field: {3: value, 17: value}})) == {reason: (3, 17)}


@pytest.mark.parametrize("field", ["others", "waited", "steal", "io_pressure", "memory_pressure"])
def test_what_is_not_readable_marks_nothing(field: str) -> None:
    assert marked(slices(**{field: None})) == {}


def test_a_neighbour_that_stays_marks_every_slice() -> None:
    assert marked(slices(others=0.9, waited=0.8)) == {"other processes used the cores": tuple(range(20))}


def test_one_tick_of_the_kernels_clock_is_no_neighbour() -> None:
    # 20 ms in a slice of 30 ms look like 0.67 cores.
    assert marked(slices(seconds={3: 0.03}, others={3: 0.67})) == {}


def test_others_that_hide_below_the_ticks_of_each_slice_are_seen_in_all_of_them_together() -> None:
    assert marked(slices(others=0.16)) == {"other processes used the cores throughout": tuple(range(20))}
    assert marked(slices(others=0.14)) == {}
    # That neighbour takes less than a core in twenty of a larger machine.
    assert marked(slices(others=0.16), cores=4) == {}


def test_others_are_compared_with_the_cores_there_are() -> None:
    assert marked(slices(others={3: 1.0}), cores=64) == {}


def test_threads_that_always_wait_for_each_other_are_no_disturbance() -> None:
    assert marked(slices(waited=0.3)) == {}
    assert marked(slices(waited={each: 0.3 if each != 5 else 0.7 for each in range(20)})) == {
        "threads waited for a core": (5,)
    }


def test_the_usual_wait_is_that_of_undisturbed_slices() -> None:
    # Two thirds of the time a neighbour takes a core; in slice 2 it has just begun.
    others = {each: 1.0 for each in range(20) if each % 3}
    waited = {**dict.fromkeys(others, 0.9), 3: 0.3}
    assert 3 in marked(slices(others=others, waited=waited))["threads waited for a core"]


def references(memory: dict[int, float]) -> list[Reference]:
    """One every four seconds; `memory` has what the copy took where that is not 8 ms."""
    return [
        Reference(4.0 * each, {"arithmetic": 0.006, "memory": memory.get(each, 0.008)}) for each in range(6)
    ]  # fmt: skip


def test_a_reference_that_is_slow_before_and_after_marks_what_lies_between() -> None:
    found = marked(slices(), references({2: 0.017, 3: 0.018}))
    assert found == {"the reference's memory call was slow": (8, 9, 10, 11)}


def test_a_reference_that_is_slow_once_is_a_moment_of_the_machine() -> None:
    assert marked(slices(), references({2: 0.017})) == {}
    assert marked(slices(), references({2: 0.013, 3: 0.013})) == {}


def test_a_reference_that_is_always_slow_shows_against_what_is_known_of_the_machine() -> None:
    always = references(dict.fromkeys(range(6), 0.02))
    assert marked(slices(), always) == {}
    assert marked(slices(), always, usual={"memory": 0.008}) == {
        "the reference's memory call was slow": tuple(range(20))
    }


def test_what_people_read_has_the_numbers() -> None:
    taken = slices(others={3: 0.8, 4: 1.2}, throttled={7: 1.0})
    assert told(marked(taken), columns(taken), 20) == [
        "2 of 20 slices: other processes used the cores (1.0 cores)",
        "1 of 20 slices: the machine was throttled",
    ]
    assert told({"a reason of another version": (1,)}, {}, 5) == ["1 of 5 slices: a reason of another version"]


def test_columns_hold_what_is_known_of_every_slice() -> None:
    taken = [*slices(1, others=0.123456), *slices(1, steal=None)]
    found = columns(taken)
    assert found["others"] == (0.1235, 0.02)
    assert "steal" not in found
    assert "start" not in found, "the record has it already"
    assert "cpu_hertz" not in found
    assert columns([]) == {}


class Box:
    """A made-up machine: its clock, and what /proc says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.now, self.own, self.folder = 0.0, 0.0, folder
        self.times = {"user": 100.0, "nice": 0.0, "system": 10.0, "idle": 500.0, "iowait": 1.0, "steal": 2.0}
        monkeypatch.setattr(disturbance, "_PRESSURE", folder)
        monkeypatch.setattr(disturbance, "_CLOCKS", f"{folder}/clock{{}}")
        monkeypatch.setattr(time, "process_time", lambda: self.own)
        monkeypatch.setattr(psutil, "cpu_times", lambda percpu=False: [self.cpu()] * 4 if percpu else self.cpu())
        monkeypatch.setattr(os, "cpu_count", lambda: 2)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)

    def cpu(self) -> SimpleNamespace:
        return SimpleNamespace(**self.times)

    def pressure(self, kind: str, total: int) -> None:
        (self.folder / kind).write_text(f"some avg10=0.52 avg60=1.97 avg300=3.03 total={total}\nfull total=1\n")


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Box:
    return Box(monkeypatch, tmp_path)


def used(cpu: float = 0.6, waited: float | None = 0.05) -> Usage:
    return Usage(0.5, cpu, waited, switches=4, faults=2)


def test_a_slice_is_what_the_counters_rose_by(box: Box) -> None:
    box.pressure("cpu", 1_000_000)
    (box.folder / "clock0").write_text("2400000\n")
    (box.folder / "clock1").write_text("2600000\n")
    watch = Watch(Cpu(), clock=lambda: box.now, epoch=lambda: 1e9 + box.now)
    box.now = 13.0
    watch.begin()
    box.now, box.own = 13.5, 0.01
    box.times.update(user=100.8, system=10.06, iowait=1.05, steal=2.14)
    box.pressure("cpu", 1_200_000)
    found = watch.end(used())
    expected = {
        "start": 1e9 + 13,
        "seconds": 0.5,
        "cores": 1.2,
        "waited": 0.1,
        "switches": 8.0,
        "faults": 2.0,
        "others": 0.5,  # 0.86 s in all, less 0.6 of the slice's process and 0.01 of this one
        "steal": 0.14,
        "disk_wait": 0.1,
        "cpu_pressure": 0.4,
        "memory_pressure": None,
        "io_pressure": None,
        "throttled": 0.0,
        "cpu_hertz": 2.6e9,
    }
    assert {name: getattr(found, name) for name in SliceConditions.__struct_fields__} == pytest.approx(expected)
    kept = msgspec.to_builtins(found)
    assert {type(value) for value in kept.values()} == {float}, "a mapping of numbers, as a journal keeps"
    assert msgspec.convert(kept, SliceConditions) == found


def test_counters_that_stand_still_or_fall_are_no_disturbance(box: Box) -> None:
    watch = Watch(Cpu(), clock=lambda: box.now)
    watch.begin()
    box.now = 0.5
    box.times.update(iowait=0.5)  # it may fall, says proc(5)
    found = watch.end(used(waited=None))
    assert (found.others, found.steal, found.disk_wait, found.waited) == (0.0, 0.0, 0.0, None)


def test_only_the_cores_that_may_be_used_count(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    cores = [dict(box.times) for _ in range(4)]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu=False: [SimpleNamespace(**each) for each in cores])
    watch = Watch(Cpu(), clock=lambda: box.now)
    assert watch.cores == 2
    watch.begin()
    box.now = 1.0
    cores[1]["user"] += 0.9
    cores[3]["user"] += 1.0
    assert watch.end(used(0.6)).others == pytest.approx(0.3)


def test_a_machine_that_tells_nothing_is_unknown(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(percpu: bool = False) -> Any:
        raise OSError(percpu)

    monkeypatch.setattr(psutil, "cpu_times", refuse)
    watch = Watch(Cpu(), clock=lambda: box.now)
    watch.begin()
    box.now = 0.5
    found = watch.end(used())
    assert (found.others, found.steal, found.disk_wait) == (None, None, None)


def test_a_sandbox_whose_counters_are_always_nothing_is_unknown_too(box: Box) -> None:
    box.times = dict.fromkeys(box.times, 0.0)
    watch = Watch(Cpu(), clock=lambda: box.now)
    watch.begin()
    box.now = 0.5
    assert watch.end(used()).others is None


def test_end_without_begin_is_an_error() -> None:
    watch = Watch(Cpu(), clock=count().__next__)
    with pytest.raises(RuntimeError, match=r"end\(\) was called before begin\(\)"):
        watch.end(used())
    watch.begin()
    watch.end(used())
    with pytest.raises(RuntimeError, match="before begin"):
        watch.end(used())


def test_usage_is_that_of_this_process_since() -> None:
    before = Usage.now()
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    usage = Usage.now() - before
    assert 0.05 <= usage.cpu_seconds <= 1
    assert usage.seconds >= 0.05 / (os.cpu_count() or 1)
    assert usage.waited_seconds is None or usage.waited_seconds >= 0
    assert min(usage.switches, usage.faults) >= 0


def test_a_thread_that_has_ended_makes_no_negative_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(disturbance, "_TASKS", tmp_path)
    for name, waited in (("12", 1_500_000_000), ("13", 500_000_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "schedstat").write_text(f"77 {waited} 3\n")
    before = Usage.now()
    assert before.waited_seconds == pytest.approx(2.0)
    (tmp_path / "13" / "schedstat").unlink()
    assert (Usage.now() - before).waited_seconds == 0
    (tmp_path / "12" / "schedstat").unlink()
    assert (Usage.now() - before).waited_seconds is None
