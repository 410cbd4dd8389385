"""The phases that load a case for the first time, read its memory and count its arithmetic.

How fast it is once it runs is timed by `fashiontl.runner.rounds`, in other processes.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fashiontl.freezing.lora import load_library
from fashiontl.machine.energy import Energy
from fashiontl.models.weights.start import Start
from fashiontl.runner.messages import CaseJob, PhaseResult, Progress
from fashiontl.runner.phases.timed_pass import (
    add_energy,
    base_memory,
    forget_search,
    memory,
    read_energy,
    timed_pass,
)
from fashiontl.runner.workload import Workload, together
from fashiontl.timing.flops import forward_flops, step_flops
from fashiontl.timing.loops import DeviceTimer
from fashiontl.timing.variants import compile_counts

# Enough for BatchNorm to train on; FLOPs an image do not depend on it.
_COUNTED_BATCH = 2
# After these the allocator holds what it will hold.
_CALLS = 2


def inference(job: CaseJob, progress: Progress) -> PhaseResult:
    """Time the loading and the first inference of a case and read its memory, then count its parameters and FLOPs."""
    work = Workload.of(job)
    with timed_pass(work) as timer:
        base = base_memory(work.device)
        started = timer.clock()
        starts = work.starts()
        networks = [start.network for start in starts]
        model = work.deployed(networks)
        timer.synchronize()
        # Files of weights are verified each time they are read, but that is no part of loading.
        result = PhaseResult()
        result.measure("load_time", timer.clock() - started - sum(start.verifying for start in starts))
        result.measure("base_memory", base)
        if model is not networks[0]:
            # What a copy was made of is no part of the memory of inference.
            networks = []
        del starts
        _inference(result, work, model, base, timer, progress)
    # Of networks as they train, not as they are deployed: adapters can be merged into the weights, for example.
    networks = networks or work.networks()
    result.measure("parameters", sum(parameter.numel() for network in networks for parameter in network.parameters()))
    result.measure("trainable_parameters", sum(work.trainable_parameters(network) for network in networks))
    return result


def _inference(
    result: PhaseResult, work: Workload, model: nn.Module, base: int, timer: DeviceTimer, progress: Progress
) -> None:
    """Add what is measured of a model that has been loaded."""
    images = work.settings.throughput_batch
    with torch.inference_mode():
        one, many = (work.deployed_images(count) for count in (1, images))
        work.device.reset_peak()
        compiled = work.variant.compiled(model)
        first = _once(lambda: compiled(one), timer)
        result.measure("first_call_time", first)
        progress("memory of inference")
        forget_search(work.device, [lambda: compiled(one), lambda: compiled(many)])
        usual = _usual(lambda: compiled(one), timer)
        _usual(lambda: compiled(many), timer)
        result.measure_all(memory(work.device, "inference", base))
        _add_compiling(result, work, "inference", first - usual)
        progress("inference energy")
        add_energy(result, "inference", [(1.0, read_energy(work, lambda: compiled(many), timer))])
        result.measure("flops", forward_flops(model, one))


def step(job: CaseJob, progress: Progress) -> PhaseResult:
    """Make the first training steps of a case, read their memory and energy, and count their FLOPs.

    Where the policy changes over the epochs, everything is the mean over its periods, weighted by their epochs, but for
    the memory, which is the most of them: that must fit. `periods` then holds what is known of each, and the means.
    """
    work = Workload.of(job)
    with timed_pass(work) as timer:
        base = base_memory(work.device)
        if work.adapts(work.outlines()):
            load_library()
            base = base_memory(work.device)
        starts = work.starts()
        work.device.reset_peak()
        spans = work.periods([initial.network for initial in starts])
        before = memory(work.device, "training", base)
        periods = [_period(work, starts, span, base, timer, progress) for span in spans]
        result = PhaseResult()
        result.measure_all(_most([before, *(period.most for period in periods)]))
        _add_compiling(result, work, "training", periods[0].first - periods[0].usual)
    # In a pass of its own, since what counts stands in the way of what is timed.
    eager = work.eagerly
    flops = [step_flops(together([eager.step(each, p.epoch, _COUNTED_BATCH) for each in starts])) for p in periods]
    if len(periods) > 1:
        result.provenance["periods"] = _by_period(work, periods, flops)
    result.measure("base_memory", base)
    result.measure("first_step_time", periods[0].first)
    each = [period.share * count for period, count in zip(periods, flops, strict=True)]
    result.measure("training_flops", sum(each) / _COUNTED_BATCH)
    add_energy(result, "training", [(period.share, period.energy) for period in periods])
    return result


@dataclass(frozen=True)
class _Period:
    """Epochs with one plan, and what a step with that plan takes.

    Attributes:
        epoch: the first, from 0.
        share: of all epochs.
        first: seconds of the first step.
        usual: of one of the next.
        energy: None where there is no counter.
        most: memory since the period began or, where that is unknown, since the phase did.
        is_own: whether it is the period's alone.
    """

    epoch: int
    share: float
    first: float
    usual: float
    energy: Energy | None
    most: dict[str, float]
    is_own: bool


def _period(
    work: Workload, starts: Sequence[Start], span: tuple[int, float], base: int, timer: DeviceTimer, progress: Progress
) -> _Period:
    """Make steps on a batch that stays on the device."""
    progress("memory of training")
    epoch, share = span
    # What is the only one's is the phase's, from its beginning.
    is_own = share == 1 or work.device.restart_peak()
    call = work.training_step(starts, epoch)
    first = _once(call, timer)
    forget_search(work.device, [call])
    usual = _usual(call, timer)
    progress("training energy")
    energy = read_energy(work, call, timer)
    return _Period(epoch, share, first, usual, energy, memory(work.device, "training", base), is_own)


def _most(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """The largest of several readings of the memory, by figure."""
    return {name: max(reading[name] for reading in figures if name in reading) for name in figures[-1]}


def _by_period(work: Workload, periods: Sequence[_Period], flops: Sequence[int]) -> dict[str, Any]:
    """What is known of each period, and the means that are reported, weighted by share.

    Returns:
        `each`: `first_epoch` (from 1), `epochs`, `share`, `training_flops` an image, and the memory by the names of its
        metrics, where it is the period's own. `mean`: those of the memory.
    """
    epochs = work.settings.epochs
    each: list[dict[str, Any]] = [
        {
            "first_epoch": period.epoch + 1,
            "epochs": round(period.share * epochs),
            "share": period.share,
            "training_flops": count / _COUNTED_BATCH,
            **(period.most if period.is_own else {}),
        }
        for period, count in zip(periods, flops, strict=True)
    ]
    mean: dict[str, float] = {}
    if all(period.is_own for period in periods):
        mean = {name: sum(entry["share"] * entry[name] for entry in each) for name in periods[0].most}
    return {"each": each, "mean": mean}


def _once(call: Callable[[], object], timer: DeviceTimer) -> float:
    """Seconds of a first call: libraries load, algorithms are chosen, graphs are compiled."""
    timer.synchronize()
    started = timer.clock()
    call()
    timer.synchronize()
    return timer.clock() - started


def _usual(call: Callable[[], object], timer: DeviceTimer) -> float:
    """Seconds of a call when it is no longer the first, the median of a few: the memory is then all that it takes."""
    return statistics.median(_once(call, timer) for _ in range(_CALLS))


def _add_compiling(result: PhaseResult, work: Workload, what: str, seconds: float) -> None:
    """Add what the compiler took and made; nothing when there is none."""
    if work.case.execution == "eager":
        return
    result.measure(f"{what}_compile_time", max(0.0, seconds))
    result.loops["compile"] = {what: compile_counts()}
