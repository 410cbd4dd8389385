"""What the timing phases read besides time: memory and energy."""

import ctypes
import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from fashiontl.machine import devices
from fashiontl.machine.energy import Energy, measure_energy, meter
from fashiontl.runner.messages import PhaseResult
from fashiontl.runner.workload import Workload
from fashiontl.timing.loops import Instrument


def base_memory(device: str) -> int:
    """Bytes that a worker holds on the CPU before it does anything of the case; 0 on devices with memory of their own.

    A convolution comes first, so that the code of the libraries that every case needs is counted here, and a device's
    context is made before anything is timed.
    """
    weight = torch.ones(8, 3, 3, 3, requires_grad=True, device=device)
    images = torch.ones(2, 3, 8, 8, device=device)
    functional.conv2d(images, weight).sum().backward()  # type: ignore[no-untyped-call]
    devices.synchronize(device)
    return _memory(device).peak if devices.split(device)[0] == "cpu" else 0


def reset_peak(device: str) -> None:
    """Forget the memory's peak, where that can be forgotten."""
    kind, index = devices.split(device)
    devices.DEVICES[kind].reset_peak(index)


def restart_peak(device: str) -> bool:
    """Give back what is free and begin the memory's peak anew at what is in use; False where that cannot be done."""
    gc.collect()
    kind = devices.split(device)[0]
    if kind == "cpu":
        return _restart_process_peak()
    getattr(torch, kind).empty_cache()
    reset_peak(device)
    return True


def _restart_process_peak() -> bool:
    # glibc keeps what was freed, and the next peak would begin there.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    try:
        # It takes the process's high-water mark down to what is in use, getrusage's too (proc_pid_clear_refs(5)).
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def memory(device: str, phase: str, base: int) -> dict[str, float]:
    """The memory of a phase, each figure under the name of its metric; unknown ones are left out.

    Args:
        device: its name.
        phase: `inference` or `training`.
        base: that of the empty worker, which the peak leaves out.
    """
    found = _memory(device)
    # A peak that was forgotten meanwhile may be less than the empty worker's.
    figures = {"peak": max(0, found.peak - base), "reserved": found.reserved, "process": found.process}
    return {f"{phase}_{name}_memory": figure for name, figure in figures.items() if figure is not None}


def _memory(device: str) -> devices.Memory:
    kind, index = devices.split(device)
    return devices.DEVICES[kind].memory(index)


def read_energy(work: Workload, call: Callable[[], object], tool: Instrument) -> Energy | None:
    """What calls on a batch take, if the device has a counter."""
    counter = meter(work.case.device)
    if counter is None:
        return None
    images, seconds = work.settings.throughput_batch, work.settings.seconds
    return measure_energy(call, images, counter, tool.synchronize, seconds=seconds, clock=tool.clock)


def add_energy(result: PhaseResult, what: str, spent: Sequence[tuple[float, Energy | None]]) -> None:
    """Add joules an image as the mean over periods, idle power and warnings; nothing where nothing was read.

    Args:
        result: of the phase.
        what: `inference` or `training`.
        spent: the share of each period and its energy.
    """
    known = [(share, energy) for share, energy in spent if energy is not None]
    if not known:
        return
    joules = [share * energy.joules for share, energy in known if energy.joules is not None]
    if len(joules) == len(spent):
        result.measure(f"{what}_energy", sum(joules))
    idle = [energy.idle_watts for _, energy in known if energy.idle_watts is not None]
    result.measure("idle_power", idle[:1])
    result.loops["energy"] = {what: [{"share": share, **_facts(energy)} for share, energy in known]}
    result.warnings += [doubt for _, energy in known for doubt in energy.doubts]


def _facts(energy: Energy) -> dict[str, Any]:
    return {
        "source": energy.source,
        "idle_watts": energy.idle_watts,
        "gross_watts": energy.gross_watts,
        "seconds": energy.seconds,
        "images": energy.images,
    }
