"""Where the time of a training step goes: torch's profiler, in a pass of its own, with a trace for TensorBoard."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler

# Few steps bound the size of the trace: one step of a deep network is already thousands of events.
_WARM_UP, _ACTIVE = 1, 2
_OPERATORS = 15


def profile_steps(
    step: Callable[[], object],
    synchronize: Callable[[], None],
    activities: list[ProfilerActivity],
    folder: Path,
    name: str,
) -> list[dict[str, Any]]:
    """Profile a few steps and write their trace.

    Args:
        step: the workload.
        synchronize: waits for the device.
        activities: what to watch.
        folder: gets `NAME.TIME.pt.trace.json.gz`, the form that torch-tb-profiler opens.
        name: of the worker in the trace's file name.

    Returns:
        The operators with the most self time, each with `name`, `calls`, `self_cpu_s` and `self_device_s` of one
        step.
    """
    handler = tensorboard_trace_handler(str(folder), worker_name=name, use_gzip=True)
    with profile(
        activities=activities,
        schedule=schedule(wait=0, warmup=_WARM_UP, active=_ACTIVE, repeat=1),
        on_trace_ready=handler,
    ) as profiler:
        for _ in range(_WARM_UP + _ACTIVE):
            step()
            synchronize()
            profiler.step()
    rows = [
        {
            "name": event.key,
            "calls": event.count / _ACTIVE,
            "self_cpu_s": event.self_cpu_time_total / 1e6 / _ACTIVE,
            "self_device_s": event.self_device_time_total / 1e6 / _ACTIVE,
        }
        for event in profiler.key_averages()
        if not event.key.startswith("ProfilerStep")
    ]
    rows.sort(key=lambda row: row["self_cpu_s"] + row["self_device_s"], reverse=True)
    return rows[:_OPERATORS]


def profiler_is_on() -> bool:
    """Whether a torch profiler is recording in this process: torch.profiler's, or one of autograd's.

    A profiler that only warms up, or waits for its scheduled step, records nothing and is not seen.
    """
    # The first knows this thread's profiler only, the second is set for the whole process while any of them runs.
    return torch._C._autograd._profiler_enabled() or torch.autograd.profiler._is_profiler_enabled
