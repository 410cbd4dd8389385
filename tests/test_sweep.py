import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fashiontl.core.case import PRESETS, Case
from fashiontl.machine.devices import Cpu
from fashiontl.runner.messages import CaseJob
from fashiontl.runner.phases import batch_sweep
from fashiontl.runner.workload import Workload
from fashiontl.timing.loops import DeviceTimer, SamplingBudget
from fashiontl.timing.sweep import Sweep, sweep

BUDGET = SamplingBudget(seconds=1.0)
COLLECT = gc.collect


@pytest.fixture(autouse=True, scope="module")
def no_collection() -> Iterator[None]:
    """With torch imported, a collection before each loop takes longer than all of a test."""
    with mock.patch("gc.collect"):
        yield


class FullError(MemoryError):
    """What the fake device raises when its memory is full."""


class Device(Cpu):
    """A fake whose clock moves as calls run, and whose memory holds some images at once.

    Args:
        capacity: images that fit.
        seconds: that an image takes.
        late: whether memory runs out as the call runs, and not as it is made.
    """

    def __init__(self, capacity: int, seconds: float = 0.001, *, late: bool = True) -> None:
        vars(self).update(capacity=capacity, seconds=seconds, late=late, index=0)
        vars(self).update(now=0.0, failed=[], events=[])

    def release_memory(self) -> None:
        super().release_memory()
        self.events.append("release")

    def call_of(self, batch: int) -> Callable[[], object]:
        def call() -> None:
            if self.late:
                self.check(batch)
            vars(self)["now"] += batch * self.seconds

        if not self.late:
            self.check(batch)
        return call

    def check(self, batch: int) -> None:
        if batch > self.capacity:
            self.failed.append(batch)
            self.events.append(f"full at {batch}")
            raise FullError

    def sweep(self, most: int = 4096, least: int = 1, budget: SamplingBudget = BUDGET) -> Sweep:
        return sweep(
            self.call_of,
            self,
            DeviceTimer(lambda: None, clock=lambda: self.now),
            budget,
            most=most,
            least=least,
            progress=lambda batch: self.events.append(str(batch)),
        )


def batches(found: Sweep) -> list[int]:
    return [point.batch for point in found.points]


def test_sizes_double_up_to_the_setting() -> None:
    found = Device(10**9, seconds=1e-4).sweep(most=100)
    assert batches(found) == [1, 2, 4, 8, 16, 32, 64, 100]
    assert (found.largest, found.limit) == (100, "setting")
    for point in found.points:
        assert point.seconds == pytest.approx([point.batch * 1e-4] * len(point.seconds))


def test_halving_finds_the_largest_that_fits_and_times_it() -> None:
    device = Device(100)
    found = device.sweep()
    assert batches(found) == [1, 2, 4, 8, 16, 32, 64, 96]
    assert (found.largest, found.limit) == (96, "memory")
    assert device.events == [
        "1", "2", "4", "8", "16", "32", "64", "128", "full at 128", "release", "96", "112", "full at 112", "release",
        "104", "full at 104", "release", "96",
    ]  # fmt: skip


@settings(max_examples=30)
@example(1, 10, True, 2)
@given(st.integers(1, 3000), st.integers(1, 5000), st.booleans(), st.integers(1, 2))
def test_the_largest_is_within_its_granularity_and_never_above_what_fits(
    capacity: int, most: int, late: bool, least: int
) -> None:
    device = Device(capacity, seconds=0.02, late=late)
    found = device.sweep(most, least, SamplingBudget(seconds=200))
    if capacity < least:
        assert (found.largest, found.points) == (0, ())
    elif capacity >= max(most, least):
        assert (found.largest, found.limit, device.failed) == (max(most, least), "setting", [])
    else:
        doubled = least << ((capacity // least).bit_length() - 1)
        assert capacity - max(1, doubled // 8) < found.largest <= capacity
        assert found.limit == "memory"
    assert len(device.failed) <= 4
    assert batches(found) == sorted(set(batches(found)))
    assert found.largest == max(batches(found), default=0)


def test_a_call_longer_than_the_budget_is_the_last() -> None:
    device = Device(10**9, seconds=0.3)
    found = device.sweep()
    assert batches(found) == [1, 2, 4]
    assert (found.largest, found.limit) == (4, "time")
    assert found.points[-1].seconds[0] == pytest.approx(1.2)


def test_any_other_error_is_raised_and_not_shrunk_from() -> None:
    class Broken(Device):
        def check(self, batch: int) -> None:
            if batch == 8:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")

    device = Broken(10**9)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        device.sweep()
    assert device.events == ["1", "2", "4", "8"]


def test_memory_is_released_when_nothing_holds_the_failed_calls_tensors_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gc, "collect", COLLECT)
    gc.freeze()  # what is there already would make each collection long

    class Tensor:
        """Something that a traceback's frames would keep."""

    held: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def call_of(batch: int) -> Callable[[], object]:
        def call() -> None:
            tensor = Tensor()
            tensor.itself = tensor  # type: ignore[attr-defined] # a cycle, as graphs have
            held.append(weakref.ref(tensor))
            if batch > 2:
                raise FullError

        return call

    class Counting(Cpu):
        def release_memory(self) -> None:
            super().release_memory()
            alive.append(sum(reference() is not None for reference in held))

    sweep(call_of, Counting(), DeviceTimer(lambda: None), SamplingBudget(0.01), most=8)
    gc.unfreeze()
    assert alive == [0, 0]
    assert gc.isenabled()


@pytest.mark.parametrize(("kind", "most"), [("cpu", 512), ("cuda", 4096)])
def test_on_a_cpu_the_sweep_stops_before_memory_does(kind: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(batch_sweep, "over_batches", lambda *_, most, **__: asked.append(most))
    settings = replace(PRESETS["smoke"], sweep=4096)
    work = Workload.of(CaseJob(Case("resnet18", "full", kind), settings))
    batch_sweep._over_batches(work, lambda batch: lambda: None, DeviceTimer(lambda: None), lambda batch: None)
    assert asked == [most]
