"""A few steps under torch's profiler."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, schedule

from fashiontl.profiling.events import tables
from fashiontl.profiling.modules import module_ranges
from fashiontl.profiling.operators import Profile, folded_kernels, folded_operators
from fashiontl.profiling.trace import read_trace, write_trace

_WARM_UP = 1
# Few steps bound the size of the trace: one step of a deep network is already thousands of events.
_STEPS = 2
# Perfetto and torch-tb-profiler hold a trace several times over in memory, and Python parses this much in seconds.
_MOST_BYTES = 64 * 2**20


def profile_steps(
    step: Callable[[], object],
    synchronize: Callable[[], None],
    activities: list[ProfilerActivity],
    folder: Path,
    name: str,
    *,
    modules: Mapping[str, nn.Module] = MappingProxyType({}),
) -> Profile:
    """Profile a few steps, after one that warms the profiler up, and write their trace.

    Args:
        step: the workload.
        synchronize: waits for the device.
        activities: what to watch.
        folder: gets `NAME.TIME.pt.trace.json.gz`, which torch-tb-profiler, Perfetto and HolisticTraceAnalysis open.
        name: of the worker in the trace's file name.
        modules: networks that the step runs, each under what its modules' dotted paths begin with; operators are told
            apart by module.

    Returns:
        Tables of one step. The profiler slows the host down: shares tell where time goes, no figure is a time of the
        step as it runs without.
    """
    doubts = []
    with module_ranges(modules):
        profiler = _recorded(step, synchronize, activities, _STEPS, details=True)
        read = tables(profiler.events() or (), _STEPS)  # type: ignore[no-untyped-call]
        content = _exported(profiler)
        if len(content) > _MOST_BYTES:
            profiler = _recorded(step, synchronize, activities, 1, details=False)
            doubts.append(f"the trace is of one step, without shapes: it had {_mebibytes(content)} with them")
            content = _exported(profiler)
    if read.device_idle is None and activities != [ProfilerActivity.CPU]:
        doubts.append("the profiler saw nothing on the device; see that no other profiler uses its counters")
    path, more = _trace(content, folder, name)
    return Profile(
        operators=folded_operators(read.operators),
        kernels=folded_kernels(read.kernels),
        device_idle=read.device_idle,
        steps=_STEPS,
        step_s=read.step_s,
        trace=None if path is None else str(path),
        trace_bytes=None if path is None else path.stat().st_size,
        doubts=(*doubts, *more),
    )


def profiler_is_on() -> bool:
    """Whether a torch profiler is recording in this process: torch.profiler's, or one of autograd's.

    A profiler that only warms up, or waits for its scheduled step, records nothing and is not seen.
    """
    # The first knows this thread's profiler only, the second is set for the whole process while any of them runs.
    return torch._C._autograd._profiler_enabled() or torch.autograd.profiler._is_profiler_enabled


def _recorded(
    step: Callable[[], object],
    synchronize: Callable[[], None],
    activities: list[ProfilerActivity],
    steps: int,
    *,
    details: bool,
) -> profile:
    profiler = profile(
        activities=activities,
        schedule=schedule(wait=0, warmup=_WARM_UP, active=steps, repeat=1),
        record_shapes=details,
        with_flops=details,
        profile_memory=details,
    )
    with profiler:
        for _ in range(_WARM_UP + steps):
            step()
            synchronize()
            profiler.step()
    return profiler


def _exported(profiler: profile) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        with _utf_8(path) as same:
            profiler.export_chrome_trace(str(same))
        return path.read_bytes()


@contextmanager
def _utf_8(path: Path) -> Iterator[Path]:
    """The path, or another of the same file where its folder's is not UTF-8, which torch does not take."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        # Only Linux has such names, and the folder's number among the files that are open leads to it as well.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            yield Path(f"/proc/self/fd/{folder}") / path.name
        finally:
            os.close(folder)
    else:
        yield path


def _trace(content: bytes, folder: Path, name: str) -> tuple[Path | None, list[str]]:
    """Path of the trace, None when it is not fit to be kept, and what there is to doubt."""
    if len(content) > _MOST_BYTES:
        return None, [f"no trace: it has {_mebibytes(content)}, and viewers open {_MOST_BYTES / 2**20:.0f} MiB"]
    try:
        trace, mended = read_trace(content)
    except ValueError as error:
        return None, [f"no trace: torch wrote no JSON ({error})"]
    doubts = ["torch wrote a trace that is no strict JSON; it was mended"] if mended else []
    return write_trace(trace, folder, name), doubts


def _mebibytes(content: bytes) -> str:
    return f"{len(content) / 2**20:.0f} MiB"
