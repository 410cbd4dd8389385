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
