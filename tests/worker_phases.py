"""Phases for the tests of the worker; each misbehaves in a way of its own."""

# ruff: noqa: ARG001 - all phases have one signature.
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fashiontl.core.errors import DivergedError, FashiontlError, SkippedError
from fashiontl.machine.devices import Device

_LEAKED: list[torch.Tensor] = []
Progress = Callable[[str], None]
Job = dict[str, Any]


def facts(job: Job, progress: Progress) -> Job:
    progress("one")
    progress("two")
    print("a library prints")
    return {
        "job": job,
        "pid": os.getpid(),
        "parent": os.getppid(),
        "torch_threads": torch.get_num_threads(),
        "python_threads": threading.active_count(),
        "threads_of_parent": len(list(Path(f"/proc/{os.getppid()}/task").iterdir())),
        "environment": {name: os.environ.get(name) for name in ("MALLOC_TRIM_THRESHOLD_", "PYTHONHASHSEED")},
    }


def imports_of_training(job: Job, progress: Progress) -> Job:
    """Modules that a first training step imports."""
    before = set(sys.modules)
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter], fused=True)
    parameter.sum().backward()
    optimizer.step()
    return {"imported": sorted(set(sys.modules) - before)}


def hold(job: Job, progress: Progress) -> Job:
    """Take memory that is never given back, as a leak does; and what the process then had at its peak."""
    _LEAKED.append(torch.ones(job["bytes"], dtype=torch.uint8))
    return {"peak": Device.of("cpu").memory().peak}


def touched(size: int) -> torch.Tensor:
    """Bytes that are in memory and not only promised."""
    return torch.ones(size, dtype=torch.uint8)


def known_allocations(job: Job, progress: Progress) -> Job:
    """By how much the peak grows with tensors of a known size: none, one that stays, one that is freed, and a child's.

    A second reading of each: `process` is the process alone.
    """
    size, cpu, found = job["bytes"], Device.of("cpu"), {}
    # The code of what is called takes some megabytes when it is first called.
    touched(2**20)
    cpu.memory()
    before = cpu.memory()

    def grown(what: str) -> None:
        after = cpu.memory()
        found[what] = [after.peak - before.peak, (after.process or 0) - (before.process or 0)]

    grown("nothing")
    if job["what"] == "held":
        _LEAKED.append(touched(size))
        grown("held")
    if job["what"] == "steps":
        for _ in range(20):
            touched(size)
        grown("steps")
    if job["what"] == "child":
        waiting, ready = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(waiting)
            held = touched(size)
            os.write(ready, b"x")
            time.sleep(60)
            os._exit(int(held[0]) - 1)
        os.read(waiting, 1)
        grown("child")
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        grown("gone")
    return found


def unwell(job: Job, progress: Progress) -> Job:
    raise FashiontlError("expected a, got b; do c")


def skipped(job: Job, progress: Progress) -> Job:
    raise SkippedError("expected a stage, got none")


def diverged(job: Job, progress: Progress) -> Job:
    raise DivergedError("epoch 1, step 2", {"losses": [2.5]})


def fail(job: Job, progress: Progress) -> Job:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def out_of_memory(job: Job, progress: Progress) -> Job:
    return {"never": torch.empty(2**60)}


def killed(job: Job, progress: Progress) -> Job:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def segfault(job: Job, progress: Progress) -> Job:
    os.write(2, b"something is rotten\n")
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def hang(job: Job, progress: Progress) -> Job:
    progress(str(os.getpid()))
    time.sleep(60)
    return job
