"""The phase that runs a case at one batch size after the other."""

import gc
import sys
from collections.abc import Callable
from typing import Any

import torch

from fashiontl.machine import devices
from fashiontl.runner.messages import CaseJob, PhaseResult, Progress
from fashiontl.runner.phases.timed_pass import compact, timed_pass
from fashiontl.runner.workload import Workload, together
from fashiontl.timing.loops import Effort, Instrument
from fashiontl.timing.sweep import CallOf, Sweep, available_memory, limit_memory, process_peak, within
from fashiontl.timing.sweep import sweep as over_batches

# Of the time budget of other measurements, for each batch size.
_SHARE = 0.2
# BatchNorm cannot train on a single value a channel, which one small image may leave.
_LEAST_TRAINING = 2


def sweep(job: CaseJob, progress: Progress) -> PhaseResult:
    """Throughput of inference and of training steps at batch sizes that double, up to what memory holds."""
    work = Workload.of(job)
    with timed_pass(work) as tool:
        inference = _inference(work, tool, progress)
        training, doubts = _training(work, tool, progress)
    found = {"inference": inference, "training": training}
    result = PhaseResult(warnings=doubts)
    result.provenance["sweep"] = {name: _facts(each) for name, each in found.items()}
    for name, each in found.items():
        if each.limit == "memory":
            result.measure(f"largest_{name}_batch", each.largest)
    return result


def _inference(work: Workload, tool: Instrument, progress: Progress) -> Sweep:
    model = work.deployed(work.networks())
    compiled = work.variant.compiled(model)

    def call_of(batch: int) -> Callable[[], object]:
        images = work.deployed_images(batch)
        return lambda: compiled(images)

    with torch.inference_mode():
        return _over_batches(work, call_of, tool, lambda batch: progress(f"inference, batch {batch}"))


def _training(work: Workload, tool: Instrument, progress: Progress) -> tuple[Sweep, list[str]]:
    """Steps of the last epoch, which in all policies but those that freeze on the way trains the most; and doubts."""
    starts = work.starts()
    epoch = work.settings.epochs - 1

    def call_of(batch: int) -> Callable[[], object]:
        return together([work.step(begun, epoch, batch) for begun in starts])

    doubts = work.of_one_epoch("training at other batch sizes", epoch, [begun.network for begun in starts])
    found = _over_batches(
        work, call_of, tool, lambda batch: progress(f"training, batch {batch}"), least=_LEAST_TRAINING
    )
    return found, doubts


def _over_batches(
    work: Workload,
    call_of: CallOf,
    tool: Instrument,
    progress: Callable[[int], None],
    least: int = 1,
) -> Sweep:
    settings = work.settings
    return over_batches(
        _guarded(work, call_of),
        tool,
        Effort(settings.seconds * _SHARE, half_width=settings.half_width),
        most=settings.sweep,
        is_out_of_memory=devices.is_out_of_memory,
        release=lambda: _release(work.case.device),
        progress=progress,
        least=least,
    )


def _guarded(work: Workload, call_of: CallOf) -> CallOf:
    """On the CPU the system would end the process, or slow down the machine, before an allocation failed."""
    if devices.split(work.case.device)[0] != "cpu" or sys.platform != "linux":
        return call_of
    more = available_memory()
    limit_memory()
    return within(call_of, more, process_peak)


def _release(device: str) -> None:
    gc.collect()
    kind = devices.split(device)[0]
    if kind != "cpu":
        getattr(torch, kind).empty_cache()


def _facts(found: Sweep) -> dict[str, Any]:
    return {
        "points": [{"batch": point.batch, "seconds": compact(point.seconds)} for point in found.points],
        "largest": found.largest,
        "limit": found.limit,
    }
