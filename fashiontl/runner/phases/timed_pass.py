"""What the timing phases share: the timed pass, readings of memory and energy, and what a record keeps of a loop."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.nn import functional

from fashiontl.core.case import Settings
from fashiontl.core.errors import FashiontlError
from fashiontl.machine.devices import Device
from fashiontl.machine.energy import Energy, measure_energy
from fashiontl.profiling.capture import profiler_is_on
from fashiontl.runner.messages import PhaseResult
from fashiontl.runner.workload import Workload
from fashiontl.timing import torch_flags
from fashiontl.timing.loops import DeviceTimer, Samples, SamplingBudget
from fashiontl.timing.variants import cold_compile

# Of the samples of a loop that may be dropped because the machine was slowed down; past it the rest is no fair sample.
_MOST_THROTTLED = 0.2
# About a nanosecond in a ten-millisecond call: finer than any clock, and half the length of a record.
_DIGITS = 7


def sampling_budget(settings: Settings, *, samples: bool = False) -> SamplingBudget:
    """The settings' budget of a loop; with their number of samples where single calls are timed."""
    if samples:
        return SamplingBudget(settings.seconds, samples=settings.samples, half_width=settings.half_width)
    return SamplingBudget(settings.seconds, half_width=settings.half_width)


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


def throughput(images: int, seconds: Sequence[float]) -> list[float]:
    """Images a second of each sample."""
    return compact(images / value for value in seconds if value)


def summarise(result: PhaseResult, loops: Mapping[str, Samples]) -> None:
    """Add what is known of loops besides their samples: how they went, warnings, and reasons not to use them.

    Args:
        result: of the phase.
        loops: by what they timed, as a metric's name.
    """
    for name, samples in loops.items():
        result.loops.setdefault("timing", {})[name] = _facts(samples)
        result.warnings += _warnings(name, samples)
        if samples.throttled_share > _MOST_THROTTLED:
            result.invalid.append(
                f"{_words(name)}: {samples.throttled_share:.0%} of the samples were taken while the machine was "
                "throttled; cool it, or raise its limit, and measure again"
            )


def _facts(samples: Samples) -> dict[str, Any]:
    warm_up = samples.warm_up
    return {
        "warm_up": warm_up.calls,
        "steady": warm_up.steady,
        "drift": round(warm_up.drift, 4),
        "noise": round(warm_up.noise, 4),
        "ended": samples.ended,
        "throttled": samples.throttled,
    }


def _warnings(name: str, samples: Samples) -> list[str]:
    warm_up = samples.warm_up
    warnings = []
    if not warm_up.steady:
        warnings.append(
            f"{_words(name)} was not steady after {warm_up.calls} warm-up calls "
            f"(drift {warm_up.drift:.1%}, noise {warm_up.noise:.1%})"
        )
    if samples.throttled:
        warnings.append(f"{_words(name)}: {samples.throttled} samples dropped, taken while the machine was throttled")
    return warnings


def _words(name: str) -> str:
    return name.replace("_", " ")
