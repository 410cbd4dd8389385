import gc
import itertools
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashiontl.timing import sweep as room
from fashiontl.timing.loops import Effort, Instrument
from fashiontl.timing.sweep import Point, Sweep, available_memory, limit_memory, sweep, within

EFFORT = Effort(seconds=1.0)
# A sweep collects garbage a dozen times, and hypothesis makes a hundred of them; a fake device leaves none.
NO_GARBAGE = mock.patch("gc.collect")


class FullError(Exception):
    """What the fake device raises when its memory is full."""


class Device:
    """A fake whose clock moves as calls run, and whose memory holds some images at once.

    Args:
        capacity: images that fit.
        seconds: that an image takes.
        late: whether memory runs out as the call runs, and not as it is made.
    """

    def __init__(self, capacity: int, seconds: float = 0.001, *, late: bool = True) -> None:
        self.capacity, self.seconds, self.late = capacity, seconds, late
        self.now = 0.0
        self.failed: list[int] = []
        self.events: list[str] = []

    def call_of(self, batch: int) -> Callable[[], object]:
        def call() -> None:
            if self.late:
                self.check(batch)
            self.now += batch * self.seconds

        if not self.late:
            self.check(batch)
        return call

    def check(self, batch: int) -> None:
        if batch > self.capacity:
            self.failed.append(batch)
            self.events.append(f"full at {batch}")
            raise FullError

    def sweep(self, most: int = 4096, least: int = 1, effort: Effort = EFFORT) -> Sweep:
        return sweep(
            self.call_of,
            Instrument(lambda: None, clock=lambda: self.now),
            effort,
            most=most,
            least=least,
            is_out_of_memory=lambda error: isinstance(error, FullError),
            release=lambda: self.events.append("release"),
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
        assert point.images_per_second == pytest.approx(1e4)


def test_halving_finds_the_largest_that_fits_and_times_it() -> None:
    device = Device(100)
    found = device.sweep()
    assert batches(found) == [1, 2, 4, 8, 16, 32, 64, 96]
    assert (found.largest, found.limit) == (96, "memory")
    assert device.events == [
        "1", "2", "4", "8", "16", "32", "64", "128", "full at 128", "release", "96", "112", "full at 112", "release",
        "104", "full at 104", "release", "96",
    ]  # fmt: skip


@given(st.integers(1, 3000), st.integers(1, 5000), st.booleans(), st.integers(1, 2))
def test_the_largest_is_within_its_granularity_and_never_above_what_fits(
    capacity: int, most: int, late: bool, least: int
) -> None:
    device = Device(capacity, seconds=0.02, late=late)
    with NO_GARBAGE:
        found = device.sweep(most, least, Effort(seconds=200))
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


def test_nothing_fits() -> None:
    device = Device(0)
    assert device.sweep() == Sweep((), 0, "memory")
    assert device.events == ["1", "full at 1", "release"]


def test_the_first_size_can_be_two_and_one_is_never_tried() -> None:
    assert batches(Device(6).sweep(least=2)) == [2, 4, 6]
    device = Device(1)
    assert device.sweep(least=2) == Sweep((), 0, "memory")
    assert device.failed == [2]


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


def test_a_size_that_runs_once_and_not_again_is_no_result() -> None:
    class Fragmented(Device):
        tries = 0

        def check(self, batch: int) -> None:
            self.tries += batch == 6
            if batch > 6 or self.tries > 1:
                raise FullError

    found = Fragmented(0).sweep()
    assert batches(found) == [1, 2, 4]
    assert (found.largest, found.limit) == (4, "memory")


def test_memory_is_released_when_nothing_holds_the_failed_calls_tensors_any_more() -> None:
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

    device = Device(10**9)
    sweep(
        call_of,
        Instrument(lambda: None),
        Effort(0.01),
        most=8,
        is_out_of_memory=lambda error: isinstance(error, FullError),
        release=lambda: alive.append(sum(reference() is not None for reference in held)),
    )
    assert alive == [0, 0]
    assert device.failed == []
    assert gc.isenabled()


def test_a_point_without_samples_has_no_pace() -> None:
    assert Point(4, ()).images_per_second is None
    assert Point(4, (0.5, 0.1, 0.2)).images_per_second == 20.0


class Process:
    """A fake process: a fixed amount of memory and one for each image that it was ever given at once."""

    def __init__(self, fixed: int, per_image: int) -> None:
        self.fixed, self.per_image = fixed, per_image
        self.held = fixed
        self.made: list[int] = []

    def call_of(self, batch: int) -> Callable[[], object]:
        self.made.append(batch)
        self.held = self.fixed + batch * self.per_image
        return lambda: None

    def peak(self) -> int:
        return self.held


def test_a_size_that_would_need_too_much_is_refused_before_it_runs() -> None:
    process = Process(fixed=1000, per_image=10)
    call_of = within(process.call_of, 500, process.peak)
    for batch in (1, 2, 4, 8, 16, 32):
        call_of(batch)
    with pytest.raises(MemoryError, match=r"a batch of 64 would take about 1.64e\+03 bytes"):
        call_of(64)
    call_of(48)
    with pytest.raises(MemoryError):
        call_of(52)
    assert process.made == [1, 2, 4, 8, 16, 32, 48]


@given(st.integers(0, 10**9), st.integers(1, 10**8), st.integers(0, 10**11))
def test_no_size_takes_more_than_it_may_beyond_the_first(fixed: int, per_image: int, more: int) -> None:
    process = Process(fixed, per_image)
    ticks = itertools.count()
    with NO_GARBAGE:
        found = sweep(
            within(process.call_of, more, process.peak),
            Instrument(lambda: None, clock=lambda: 0.05 * next(ticks)),
            Effort(0.5),
            most=4096,
            is_out_of_memory=lambda error: isinstance(error, MemoryError),
            release=lambda: None,
        )
    # Two sizes must run before anything can be told.
    allowed = max(2, 1 + more // per_image)
    assert max(process.made) <= allowed
    assert found.largest == max(process.made)
    if found.limit == "memory":
        assert found.largest >= allowed - max(1, allowed // 8)


def test_what_is_available_is_the_least_of_what_the_system_and_its_groups_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10_000}))
    second, first = tmp_path / "second", tmp_path / "first"
    for folder, files in (
        (second, {"memory.max": "max", "memory.current": "5000"}),
        (first, {"memory.limit_in_bytes": "7000", "memory.usage_in_bytes": "2000"}),
    ):
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    monkeypatch.setattr(room, "control_groups", lambda: [second])
    assert available_memory() == 8000
    monkeypatch.setattr(room, "control_groups", lambda: [second, first])
    assert available_memory() == 4000
    (first / "memory.usage_in_bytes").write_text("9000")
    assert available_memory() == 0


def test_elsewhere_than_on_linux_nothing_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert limit_memory(1) is None


def in_a_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


LIMITED = """
    import gc, itertools, os, torch
    from fashiontl.machine.devices import is_out_of_memory
    from fashiontl.timing.loops import Effort, Instrument
    from fashiontl.timing.sweep import limit_memory, process_peak, sweep, within
    # Forked as a worker's phases are.
    child = os.fork()
    if child:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    torch.set_num_threads(1)
    ran = []
    def call_of(batch):
        images = torch.ones(batch, 2**24)  # 64 MiB an image: more than malloc keeps when they are freed
        def call():
            (images * 2).sum()  # and 64 MiB more
            ran.append(batch)
        return call
    call_of(1)()
"""
SWEEP = """
    ticks = itertools.count()
    tool = Instrument(lambda: None, clock=lambda: 0.05 * next(ticks))
    found = sweep(call_of, tool, Effort(0.5), most=4096, is_out_of_memory=is_out_of_memory,
                  release=gc.collect)
    print(found.largest, found.limit, max(ran), float(torch.ones(8 * 2**20).sum()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's private memory")
def test_torch_really_runs_out_of_memory_and_goes_on() -> None:
    """832 MiB hold six and a half images of 128 MiB each."""
    output = in_a_process(LIMITED + "    assert limit_memory(832 * 2**20) == 832 * 2**20" + SWEEP)
    assert output.split() == ["6", "memory", "6", str(float(8 * 2**20))]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="process_peak reads Linux's /proc")
def test_a_guarded_sweep_never_takes_more_than_it_may() -> None:
    """The same beyond the first image, and nothing ever runs out."""
    guard = "    call_of = within(call_of, 832 * 2**20, process_peak)"
    assert in_a_process(LIMITED + guard + SWEEP).split() == ["7", "memory", "7", str(float(8 * 2**20))]
