"""What the timing phases share: the timer of a device, and what a record keeps of a loop."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from fashiontl.core.case import Settings
from fashiontl.core.errors import FashiontlError
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
    refuse_profiler()
    timer = DeviceTimer.of(work.device)
    with nullcontext() if work.case.execution == "eager" else cold_compile():
        yield timer
    refuse_profiler()


def refuse_profiler() -> None:
    """See that no profiler slows down a timed pass.

    Raises:
        FashiontlError: one is recording.
    """
    if profiler_is_on():
        raise FashiontlError(
            "expected no profiler in a timed pass, got one that is recording; stop it, and let fashiontl profile in a "
            "pass of its own"
        )


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
