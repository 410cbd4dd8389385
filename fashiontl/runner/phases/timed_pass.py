"""What the timing phases share: the timed pass, readings of memory and energy, and what a record keeps of a loop."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.nn import functional

from fashiontl.core.errors import FashiontlError
from fashiontl.machine.devices import Device
from fashiontl.machine.energy import Energy, measure_energy
from fashiontl.profiling.capture import profiler_is_on
from fashiontl.runner.messages import PhaseResult
from fashiontl.runner.workload import Workload
from fashiontl.timing import torch_flags
from fashiontl.timing.loops import DeviceTimer
from fashiontl.timing.variants import cold_compile

# About a nanosecond in a ten-millisecond call: finer than any clock, and half the length of a record.
_DIGITS = 7


@contextmanager
def timed_pass(work: Workload) -> Iterator[DeviceTimer]:
    """Set torch's switches for timing, with no profiler before or after, and what is compiled compiled anew.

    Raises:
        FashiontlError: a profiler is recording.
    """
    torch_flags.fastest(work.case.precision)
    _refuse_profiler()
    timer = DeviceTimer.of(work.device)
    with nullcontext() if work.case.execution == "eager" else cold_compile():
        yield timer
    _refuse_profiler()


def _refuse_profiler() -> None:
    if profiler_is_on():
        raise FashiontlError(
            "expected no profiler in a timed pass, got one that is recording; stop it, and let fashiontl profile in a "
            "pass of its own"
        )


def base_memory(device: Device) -> int:
    """Bytes that a worker holds on the CPU before it does anything of the case; 0 on devices with memory of their own.

    A convolution comes first, so that the code of the libraries that every case needs is counted here, and a device's
    context is made before anything is timed.
    """
    weight = torch.ones(8, 3, 3, 3, requires_grad=True, device=device.name)
    images = torch.ones(2, 3, 8, 8, device=device.name)
    functional.conv2d(images, weight).sum().backward()  # type: ignore[no-untyped-call]
    device.synchronize()
    return 0 if device.has_queue else device.memory().peak


def forget_search(device: Device, calls: Sequence[Callable[[], object]]) -> None:
    """Have a device with memory of its own choose its algorithms, and start its peak anew afterwards.

    cuDNN tries algorithms with workspaces of up to gigabytes at the first call of each shape; torch's allocator would
    keep them as reserved. On the CPU nothing is tried, and the peak is that of the process from its beginning.

    Args:
        device: of the phase.
        calls: one of each shape.
    """
    if not device.has_queue:
        return
    for call in calls:
        call()
    device.synchronize()
    device.restart_peak()


def memory(device: Device, phase: str, base: int) -> dict[str, float]:
    """The memory of a phase, each figure under the name of its metric; unknown ones are left out.

    Args:
        device: of the phase.
        phase: `inference` or `training`.
        base: that of the empty worker, which the peak leaves out.
    """
    found = device.memory()
    # A peak that was forgotten meanwhile may be less than the empty worker's.
    figures = {"peak": max(0, found.peak - base), "reserved": found.reserved, "process": found.process}
    return {f"{phase}_{name}_memory": figure for name, figure in figures.items() if figure is not None}


def read_energy(work: Workload, call: Callable[[], object], timer: DeviceTimer) -> Energy | None:
    """What calls on a batch take, if the device has a counter."""
    counter = work.device.energy_counter()
    if counter is None:
        return None
    images, seconds = work.settings.throughput_batch, work.settings.seconds
    return measure_energy(call, images, counter, timer.synchronize, seconds=seconds, clock=timer.clock)


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
    result.loops["energy"] = {what: [{"share": share, **_energy_facts(energy)} for share, energy in known]}
    result.warnings += [warning for _, energy in known for warning in energy.warnings]


def _energy_facts(energy: Energy) -> dict[str, Any]:
    return {
        "source": energy.source,
        "idle_watts": energy.idle_watts,
        "gross_watts": energy.gross_watts,
        "seconds": energy.seconds,
        "images": energy.images,
    }


def compact(values: Iterable[float]) -> list[float]:
    """Values with the digits that mean something."""
    return [float(f"{value:.{_DIGITS}g}") for value in values]
