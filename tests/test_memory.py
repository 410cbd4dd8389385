"""Peaks of CPU memory against allocations of known size, in real forked workers with the C library's own allocator."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fashiontl.machine.devices import Cpu, Memory
from fashiontl.runner.client import Worker
from fashiontl.runner.messages import Phase

SIZE = 64 * 2**20
# What reading a peak takes itself, and what the kernel's counters of each CPU have not yet handed in.
LITTLE = 2**20

linux = pytest.mark.skipif(sys.platform != "linux", reason="the system's mark differs elsewhere")


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(threads=1, phases="worker_phases", trees=[Path(__file__).parent], allocator="default") as worker:
        yield worker


def grown(worker: Worker, what: str, size: int = SIZE) -> dict[str, list[int]]:
    phase: Phase[dict[str, Any], dict[str, list[int]]] = Phase("known_allocations", dict, dict)
    return worker.run(phase, {"what": what, "bytes": size}, 60).found()


@linux
def test_a_large_tensor_is_counted_in_full(worker: Worker) -> None:
    found = grown(worker, "held")
    assert max(found["nothing"]) < LITTLE
    assert found["held"] == pytest.approx([SIZE, SIZE], rel=0.02)


@linux
@pytest.mark.parametrize("size", [8 * 2**20, SIZE])
def test_what_is_taken_and_freed_each_step_is_counted_once(worker: Worker, size: int) -> None:
    """Of the size of a gradient: below the greatest threshold of glibc it may come from its heap, above never."""
    assert grown(worker, "steps", size)["steps"][0] == pytest.approx(size, rel=0.02, abs=LITTLE)


@linux
def test_a_childs_memory_is_counted_while_it_lives_and_not_what_it_shares(worker: Worker) -> None:
    found = grown(worker, "child")
    peak, process = found["child"]
    assert peak == pytest.approx(SIZE, abs=0.1 * SIZE), "of its parent it has the pages that it writes to itself"
    assert process < 2 * LITTLE, "GNU time's figure of a process leaves children out"
    assert found["gone"][0] < 2 * LITTLE


class Growing(Cpu):
    """A device whose peak grows with calls as prepared, in bytes."""

    def __init__(self, *peaks: int) -> None:
        object.__setattr__(self, "peaks", list(peaks))
        object.__setattr__(self, "calls", [])

    def memory(self) -> Memory:
        calls = sum(each == "one" for each in self.calls)  # type: ignore[attr-defined]
        return Memory(self.peaks[min(calls, len(self.peaks)) - 1])  # type: ignore[attr-defined]


MIB = 2**20
