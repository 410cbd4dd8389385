"""A phase of the user's own."""

from math import isfinite
from pkgutil import resolve_name

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
    result = resolve_name(job.function)(work, progress)
    if not isinstance(result, PhaseResult):
        raise TypeError(f"expected {job.function} to return a PhaseResult, got {type(result).__name__}")
    # A record with what these raise for could not be read again, whatever else it holds.
    names = [each.metric for each in result.measurements]
    if len(names) != len(set(names)):
        raise ValueError(f"expected each metric once, got {', '.join(names)}")
    for each in result.measurements:
        metric = METRICS[each.metric]
        if (wrong := metric.outside(filter(isfinite, each.values))) is not None:
            valid = f"{metric.least:g} to {metric.most:g} (unit {metric.unit})"
            raise ValueError(f"expected {metric.name} from {valid}, got {wrong:g}")
    return result
