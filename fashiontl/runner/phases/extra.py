"""A phase of the user's own."""

import importlib

from fashiontl.runner.messages import ExtraJob, PhaseResult, Progress
from fashiontl.runner.workload import Workload


def extra(job: ExtraJob, progress: Progress) -> PhaseResult:
    """Call the function that the job names.

    Raises:
        TypeError: it returns something else.
    """
    work = Workload.of(job)
    module, _, name = job.function.partition(":")
    result = getattr(importlib.import_module(module), name)(work, progress)
    if not isinstance(result, PhaseResult):
        raise TypeError(f"expected {job.function} to return a PhaseResult, got {type(result).__name__}")
    return result
