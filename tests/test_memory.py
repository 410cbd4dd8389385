"""Peaks of CPU memory against allocations of known size, in real forked workers as cells' memory is read."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fashiontl.machine.devices import Cpu, Device
from fashiontl.runner.client import Worker
from fashiontl.runner.messages import Phase
from fashiontl.runner.phases.timed_pass import forget_search
from fashiontl.runner.variables import MEMORY

SIZE = 64 * 2**20
# What reading a peak takes itself, and what the kernel's counters of each CPU have not yet handed in.
LITTLE = 2 * 2**20

linux = pytest.mark.skipif(sys.platform != "linux", reason="the system's mark differs elsewhere")


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(threads=1, phases="worker_phases", trees=[Path(__file__).parent], allocator=MEMORY) as worker:
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
    """Of the size of a gradient."""
    assert grown(worker, "steps", size)["steps"][0] == pytest.approx(size, rel=0.02, abs=LITTLE)


@linux
def test_a_childs_memory_is_counted_while_it_lives_and_not_what_it_shares(worker: Worker) -> None:
    found = grown(worker, "child")
    peak, process = found["child"]
    assert peak == pytest.approx(SIZE, abs=0.1 * SIZE), "of its parent it has the pages that it writes to itself"
    assert process < 2 * LITTLE, "GNU time's figure of a process leaves children out"
    assert found["gone"][0] < 2 * LITTLE


class Queued(Cpu):
    """A device with a queue that writes down what is done with its peak."""

    has_queue = True

    def __init__(self) -> None:
        object.__setattr__(self, "said", [])

    def restart_peak(self) -> bool:
        self.said.append("restart")  # type: ignore[attr-defined]
        return True


def test_what_the_search_for_algorithms_took_is_not_the_networks() -> None:
    queued = Queued()
    forget_search(queued, [lambda: queued.said.append("one"), lambda: queued.said.append("many")])  # type: ignore[attr-defined]
    assert queued.said == ["one", "many", "restart"]  # type: ignore[attr-defined]


def test_on_the_cpu_nothing_is_searched_and_the_peak_is_the_process_own() -> None:
    def never() -> None:
        raise AssertionError

    forget_search(Device.of("cpu"), [never])
