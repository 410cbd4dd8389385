"""What a training step took under each plan of a policy that changes over the epochs, from a record's provenance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

# No step takes less or more, no memory is larger, and a mean of such numbers is finite.
_SECONDS = (1e-12, 1e12)
_MOST_BYTES = 2**60
_MOST_EPOCHS = 2**31


@dataclass(frozen=True, slots=True)
class Period:
    """Epochs with one plan, or the mean over all of them.

    Attributes:
        first: number of the first epoch, from 1; 0 of the mean.
        epochs: how many.
        step: seconds of a step on a batch that stays on the device.
        end_to_end: seconds of a step that makes its batch; None when unknown.
        memory: bytes at the peak; None when unknown, as where a system cannot forget the peak of the period before.
    """

    first: int
    epochs: int
    step: float
    end_to_end: float | None
    memory: float | None


def periods_of(provenance: Mapping[str, Any]) -> tuple[Period, ...]:
    """Read `periods`; none where the policy does not change, or where any of them cannot be read."""
    found = provenance.get("periods")
    entries = found.get("each") if isinstance(found, dict) else None
    if not isinstance(entries, list | tuple):
        return ()
    periods = [_period(entry) for entry in entries]
    known = tuple(period for period in periods if period is not None)
    return known if len(known) == len(periods) > 1 else ()


def mean_of(periods: Sequence[Period]) -> Period:
    """The mean over periods, weighted by their epochs, as the speed of training is reported."""
    epochs = sum(period.epochs for period in periods)

    def mean(numbers: Sequence[float | None]) -> float | None:
        known = [number for number in numbers if number is not None]
        if len(known) < len(numbers):
            return None
        return sum(period.epochs * number for period, number in zip(periods, known, strict=True)) / epochs

    step = mean([period.step for period in periods])
    assert step is not None
    end_to_end, memory = mean([each.end_to_end for each in periods]), mean([each.memory for each in periods])
    return Period(0, epochs, step, end_to_end, memory)


def _period(entry: Any) -> Period | None:
    if not isinstance(entry, dict):
        return None
    first: Any = entry.get("first_epoch")
    epochs: Any = entry.get("epochs")
    seconds = _median(entry.get("step_time"))
    if seconds is None or not _is_count(first) or not _is_count(epochs):
        return None
    memory: Any = entry.get("training_peak_memory")
    is_known = type(memory) in {int, float} and 0 <= memory < _MOST_BYTES
    return Period(first, epochs, seconds, _median(entry.get("end_to_end_time")), memory if is_known else None)


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 < number < _MOST_EPOCHS


def _median(seconds: Any) -> float | None:
    if not isinstance(seconds, list | tuple) or not seconds:
        return None
    known = all(type(value) in {int, float} and _SECONDS[0] < value < _SECONDS[1] for value in seconds)
    return float(median(seconds)) if known else None
