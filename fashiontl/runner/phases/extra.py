"""A phase of the user's own."""

import importlib
from math import isfinite

from fashiontl.core.metrics import METRICS
from fashiontl.runner.messages import ExtraJob, PhaseResult, Progress
from fashiontl.runner.workload import Workload


def extra(job: ExtraJob, progress: Progress) -> PhaseResult:
    """Call the function that the job names.

    Raises:
        TypeError: it returns something else.
        ValueError: it measured what no record can hold.
    """
    work = Workload.of(job)
    module, _, name = job.function.partition(":")
    result = getattr(importlib.import_module(module), name)(work, progress)
    if not isinstance(result, PhaseResult):
        raise TypeError(f"expected {job.function} to return a PhaseResult, got {type(result).__name__}")
    # A record with what these raise for could not be read again, whatever else it holds.
    names = [each.metric for each in result.measurements]
    if len(names) != len(set(names)):
        raise ValueError(f"expected each metric once, got {', '.join(names)}")
    for each in result.measurements:
        metric = METRICS[each.metric]
        if wrong := [value for value in each.values if isfinite(value) and not metric.least <= value <= metric.most]:
            valid = f"{metric.least:g} to {metric.most:g} (unit {metric.unit})"
            raise ValueError(f"expected {metric.name} from {valid}, got {wrong[0]:g}")
    return result
