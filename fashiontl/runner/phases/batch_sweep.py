"""The phase that runs a case at one batch size after the other."""

from collections.abc import Callable
from typing import Any

import torch

from fashiontl.runner.messages import CaseJob, PhaseResult, Progress
from fashiontl.runner.phases.timed_pass import compact, timed_pass
from fashiontl.runner.workload import Workload, together
from fashiontl.timing.loops import DeviceTimer, SamplingBudget
from fashiontl.timing.sweep import CPU_LARGEST, CallOf, Sweep
from fashiontl.timing.sweep import sweep as over_batches

# Of the time budget of other measurements, for each batch size.
_SHARE = 0.2
# BatchNorm cannot train on a single value a channel, which one small image may leave.
_LEAST_TRAINING = 2


def sweep(job: CaseJob, progress: Progress) -> PhaseResult:
    """Throughput of inference and of training steps at batch sizes that double, up to what memory holds."""
    work = Workload.of(job)
    with timed_pass(work) as timer:
        inference = _inference(work, timer, progress)
        training, warnings = _training(work, timer, progress)
    found = {"inference": inference, "training": training}
    result = PhaseResult(warnings=warnings)
    result.provenance["sweep"] = {name: _facts(each) for name, each in found.items()}
    for name, each in found.items():
        if each.limit == "memory":
            result.measure(f"largest_{name}_batch", each.largest)
    return result


def _inference(work: Workload, timer: DeviceTimer, progress: Progress) -> Sweep:
    model = work.deployed(work.networks())
    compiled = work.variant.compiled(model)

    def call_of(batch: int) -> Callable[[], object]:
        images = work.deployed_images(batch)
        return lambda: compiled(images)

    with torch.inference_mode():
        return _over_batches(work, call_of, timer, lambda batch: progress(f"inference, batch {batch}"))


def _training(work: Workload, timer: DeviceTimer, progress: Progress) -> tuple[Sweep, list[str]]:
    """Steps of the last epoch, which in all policies but those that freeze on the way trains the most; and warnings."""
    starts = work.starts()
    epoch = work.settings.epochs - 1

    def call_of(batch: int) -> Callable[[], object]:
        return together([work.step(initial, epoch, batch) for initial in starts])

    warnings = work.of_one_epoch("training at other batch sizes", epoch, [initial.network for initial in starts])
    found = _over_batches(
        work, call_of, timer, lambda batch: progress(f"training, batch {batch}"), least=_LEAST_TRAINING
    )
    return found, warnings


def _over_batches(
    work: Workload,
    call_of: CallOf,
    timer: DeviceTimer,
    progress: Callable[[int], None],
    least: int = 1,
) -> Sweep:
    settings = work.settings
    return over_batches(
        call_of,
        work.device,
        timer,
        SamplingBudget(settings.seconds * _SHARE, half_width=settings.half_width),
        most=settings.sweep if work.device.has_queue else min(settings.sweep, CPU_LARGEST),
        progress=progress,
        least=least,
    )


def _facts(found: Sweep) -> dict[str, Any]:
    return {
        "points": [{"batch": point.batch, "seconds": compact(point.seconds)} for point in found.points],
        "largest": found.largest,
        "limit": found.limit,
    }
