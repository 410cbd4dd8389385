"""The phase that profiles a case."""

from pathlib import Path

from fashiontl import devices, modes
from fashiontl.phases.job import Job, Progress
from fashiontl.profiling import profile_steps
from fashiontl.workload import Workload


def profile(job: Job, progress: Progress) -> Job:
    """Profile training steps of a case and leave a trace."""
    work = Workload.of(job)
    modes.fastest(work.case.precision)
    progress("profiling")
    folder = Path(job["traces"])
    operators = profile_steps(
        work.training_step(work.starts()),
        lambda: devices.synchronize(work.case.device),
        devices.profiler_activities(work.case.device),
        folder,
        work.case.file_name,
    )
    return {"operators": operators, "trace": str(folder)}
