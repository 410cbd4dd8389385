"""A few steps under torch's profiler, as tables and as a trace that viewers open."""

import gzip
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import msgspec
import torch
from torch import nn
from torch.profiler import profile, record_function, schedule

from fashiontl.core.files import write_atomically
from fashiontl.machine.devices import Device
from fashiontl.profiling.events import MODULE_PREFIX, tables
from fashiontl.profiling.operators import Profile, folded

_WARM_UP = 1
# Few steps bound the size of the trace: one step of a deep network is thousands of events.
_STEPS = 2
# Perfetto and torch-tb-profiler hold a trace several times over in memory, and Python parses this much in seconds.
_MOST_BYTES = 64 * 2**20


def profile_steps(
    step: Callable[[], object],
    device: Device,
    folder: Path,
    name: str,
    *,
    modules: Mapping[str, nn.Module] = MappingProxyType({}),
) -> Profile:
    """Profile a few steps, after one that warms the profiler up, and write their trace.

    The folder gets `NAME.TIME.pt.trace.json.gz`, which torch-tb-profiler, Perfetto and HolisticTraceAnalysis open.
    Operators are listed by module; `modules` are as in `module_ranges`.

    Returns:
        Tables of one step. The profiler slows the host down: shares show where time goes, no figure is a time of the
        step as it runs without.
    """
    activities = device.profiler_activities()
    with module_ranges(modules):
        with profile(
            activities=activities,
            schedule=schedule(wait=0, warmup=_WARM_UP, active=_STEPS, repeat=1),
            record_shapes=True,
            with_flops=True,
            profile_memory=True,
        ) as profiler:
            for _ in range(_WARM_UP + _STEPS):
                step()
                device.synchronize()
                profiler.step()
        read = tables(profiler.events() or (), _STEPS)
        content = _exported(profiler)
    path, error = _written(content, folder, name)
    warnings = [error] if error else []
    if read.device_idle is None and len(activities) > 1:
        warnings.append("the profiler saw nothing on the device; see that no other profiler uses its counters")
    return Profile(
        operators=folded(read.operators),
        kernels=folded(read.kernels),
        device_idle=read.device_idle,
        steps=_STEPS,
        step_s=read.step_s,
        trace=None if path is None else str(path),
        trace_bytes=None if path is None else path.stat().st_size,
        warnings=tuple(warnings),
    )


def profiler_is_on() -> bool:
    """Whether a torch profiler is recording in this process: torch.profiler's, or one of autograd's.

    A profiler that only warms up, or waits for its scheduled step, records nothing and is not seen.
    """
    # The first knows this thread's profiler only, the second is set for the whole process while any of them runs.
    return torch._C._autograd._profiler_enabled() or torch.autograd.profiler._is_profiler_enabled


@contextmanager
def module_ranges(modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Open a range in the profiler's record while a module's forward runs; afterwards hooks and ranges are gone.

    Hooks keep torch from its fast path for attention without gradients, so a profile of inference with
    `nn.MultiheadAttention` shows the ordinary path. What torch.compile has compiled has no modules inside.

    Args:
        modules: networks, each under the prefix of its modules' dotted paths. A module that occurs twice has its first.
    """
    paths: dict[nn.Module, str] = {}
    for prefix, network in modules.items():
        for path, module in network.named_modules(prefix=prefix):
            paths.setdefault(module, path)
    opened: list[record_function] = []

    def before(module: nn.Module, _: object) -> None:
        if not torch.compiler.is_compiling():
            opened.append(record_function(MODULE_PREFIX + paths[module]))
            opened[-1].__enter__()  # type: ignore[no-untyped-call]

    def after(*_: object) -> None:
        if not torch.compiler.is_compiling():
            opened.pop().__exit__(None, None, None)

    with ExitStack() as hooks:
        for module in paths:
            hooks.enter_context(module.register_forward_pre_hook(before))
            hooks.enter_context(module.register_forward_hook(after, always_call=True))
        try:
            yield
        finally:
            # Left open by a KeyboardInterrupt: torch calls no hooks then.
            while opened:
                opened.pop().__exit__(None, None, None)


def _exported(profiler: profile) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return path.read_bytes()


def _written(content: bytes, folder: Path, name: str) -> tuple[Path | None, str]:
    """The trace's path, or None and the reason why there is none."""
    if len(content) > _MOST_BYTES:
        return None, f"no trace: it has {len(content) >> 20} MiB, and viewers open {_MOST_BYTES >> 20} MiB"
    try:
        trace: dict[str, Any] = msgspec.json.decode(content, type=dict)
    except ValueError as error:
        return None, f"no trace: torch wrote no valid JSON ({error})"
    path = folder / f"{name}.{time.time_ns()}.pt.trace.json.gz"
    trace = {"distributedInfo": {"rank": 0, "world_size": 1}, **trace, "traceName": path.name}
    # HolisticTraceAnalysis finds the rank by a pattern that needs a space after the colon.
    write_atomically(path, gzip.compress(msgspec.json.format(msgspec.json.encode(trace), indent=0), 6))
    return path, ""
