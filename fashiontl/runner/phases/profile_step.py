"""The phase that profiles a case."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from torch import nn

from fashiontl.core.case import Case
from fashiontl.models.ensembles import SideBySide
from fashiontl.models.network import Network
from fashiontl.models.registry import members
from fashiontl.profiling.capture import profile_steps
from fashiontl.runner.messages import CaseJob, PhaseResult, Progress
from fashiontl.runner.phases.timed_pass import timed_pass
from fashiontl.runner.workload import Workload
from fashiontl.timing.loops import no_garbage_collection


def profile(job: CaseJob, progress: Progress) -> PhaseResult:
    """Profile training steps of a case, those of the first epoch, and leave a trace in the folder `traces`.

    Returns:
        With the provenance `profile`, the fields of `fashiontl.profiling.operators.Profile`. Modules are paths such as
        `stage2.0.0.conv1`, behind the name of the member in a hybrid.
    """
    work = Workload.of(job)
    # The events of a deep network are hundreds of thousands of objects: with the collector on, reading them takes half
    # as long again, and it would run in the recorded steps too.
    with timed_pass(work) as timer, no_garbage_collection():
        starts = work.starts()
        networks = [initial.network for initial in starts]
        step = work.training_step(starts)
        if work.case.execution != "eager":
            # Compiling is no part of what a step is. What else comes with a first one is in the profiler's warm-up.
            progress("first step")
            step()
            timer.synchronize()
        progress("profiling")
        found = profile_steps(
            step,
            work.device,
            Path(job.traces),
            work.case.file_name,
            modules=_modules(work.members(), networks),
        )
    result = PhaseResult(provenance={"profile": msgspec.to_builtins(found)})
    result.warnings = [
        *(f"profile: {warning}" for warning in found.warnings),
        *work.of_one_epoch("profile", 0, networks),
    ]
    if found.trace:
        result.artifacts["trace"] = found.trace
    return result


def _modules(cases: Sequence[Case], networks: Sequence[Network]) -> dict[str, nn.Module]:
    """The stages of the networks by what their modules' paths begin with; those of a hybrid's members come first."""
    named: dict[str, nn.Module] = {}
    for case, network in zip(cases, networks, strict=True):
        names = members(case.architecture)
        for stage, module in network.stages.items():
            for side in (inner for inner in module.modules() if isinstance(inner, SideBySide)):
                named |= {f"{name}.{stage}": member for name, member in zip(names, side.members, strict=True)}
            named[f"{case.architecture}.{stage}" if len(cases) > 1 else stage] = module
    return named
