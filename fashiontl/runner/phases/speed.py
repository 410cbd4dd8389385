"""The phases that time a case, read its memory and count its arithmetic."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
    compact,
    memory,
    read_energy,
    sampling_budget,
    summarise,
    throughput,
    timed_pass,
)
from fashiontl.runner.workload import Workload, together
from fashiontl.timing.flops import forward_flops, step_flops
from fashiontl.timing.loops import DeviceTimer, Samples, time_blocks, time_calls, time_parts
from fashiontl.timing.variants import compile_counts
from fashiontl.training.fit import Examples

# Enough for BatchNorm to train on; FLOPs an image do not depend on it.
_COUNTED_BATCH = 2
_PARTS = ("data", "forward", "backward", "optimizer")


def inference(job: CaseJob, progress: Progress) -> PhaseResult:
    """Time loading and inference of a case and read its memory, then count its parameters and FLOPs."""
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
        progress("latency")
        latency = time_calls(lambda: compiled(one), timer, sampling_budget(work.settings, samples=True))
        progress("inference throughput")
        blocks = time_blocks(lambda: compiled(many), timer, sampling_budget(work.settings))
        result.measure_all(memory(work.device, "inference", base))
        _add_compiling(result, work, "inference", first, latency)
        progress("inference energy")
        add_energy(result, "inference", [(1.0, read_energy(work, lambda: compiled(many), timer))])
        result.measure("flops", forward_flops(model, one))
    result.measure("latency", compact(latency.values))
    result.measure("device_latency", compact(latency.device))
    result.measure("inference_throughput", throughput(images, blocks.values))
    summarise(result, {"latency": latency, "inference_throughput": blocks})


def step(job: CaseJob, progress: Progress) -> PhaseResult:
    """Time training steps of a case, as a whole and in parts, read their memory and count their FLOPs.

    Where the policy changes over the epochs, everything is the mean over its periods, weighted by their epochs, but for
    the memory, which is the most of them: that must fit. `periods` then holds what is known of each, and the means.
    """
    work = Workload.of(job)
    images = work.settings.throughput_batch
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
        _add_compiling(result, work, "training", periods[0].first, periods[0].synthetic)
        examples = work.examples()
        whole = [_end_to_end(work, starts, period, examples, timer, progress) for period in periods]
    # In a pass of its own, since what counts stands in the way of what is timed.
    eager = work.eagerly
    flops = [step_flops(together([eager.step(each, p.epoch, _COUNTED_BATCH) for each in starts])) for p in periods]
    shares = [period.share for period in periods]
    if len(periods) > 1:
        result.provenance["periods"] = _by_period(work, periods, whole, flops)
    result.measure("base_memory", base)
    result.measure("first_step_time", periods[0].first)
    result.measure(
        "train_throughput", throughput(images, _mean(shares, [period.synthetic.values for period in periods]))
    )
    result.measure("end_to_end_throughput", throughput(images, _mean(shares, [samples.values for samples in whole])))
    for part in _PARTS:
        result.measure(f"step_{part}_time", compact(_mean(shares, [samples.parts[part] for samples in whole])))
    result.measure("training_flops", sum(_mean(shares, [[count] for count in flops])) / _COUNTED_BATCH)
    add_energy(result, "training", [(period.share, period.energy) for period in periods])
    loops = {f"train_throughput{period.label}": period.synthetic for period in periods}
    loops |= {f"end_to_end_throughput{p.label}": samples for p, samples in zip(periods, whole, strict=True)}
    summarise(result, loops)
    return result


@dataclass(frozen=True)
class _Period:
    """Epochs with one plan, and what a step with that plan takes.

    Attributes:
        epoch: the first, from 0.
        share: of all epochs.
        first: seconds of the first step.
        synthetic: steps on a batch that stays on the device.
        energy: None where there is no counter.
        most: memory since the period began or, where that is unknown, since the phase did.
        is_own: whether it is the period's alone.
    """

    epoch: int
    share: float
    first: float
    synthetic: Samples
    energy: Energy | None
    most: dict[str, float]
    is_own: bool

    @property
    def label(self) -> str:
        """Suffix of the names of its loops."""
        return f" in epoch {self.epoch + 1}" if self.share < 1 else ""


def _period(
    work: Workload, starts: Sequence[Start], span: tuple[int, float], base: int, timer: DeviceTimer, progress: Progress
) -> _Period:
    """Time steps on a batch that stays on the device."""
    progress("training throughput")
    epoch, share = span
    # What is the only one's is the phase's, from its beginning.
    is_own = share == 1 or work.device.restart_peak()
    call = work.training_step(starts, epoch)
    first = _once(call, timer)
    blocks = time_blocks(call, timer, sampling_budget(work.settings))
    progress("training energy")
    energy = read_energy(work, call, timer)
    return _Period(epoch, share, first, blocks, energy, memory(work.device, "training", base), is_own)


def _most(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """The largest of several readings of the memory, by figure."""
    return {name: max(reading[name] for reading in figures if name in reading) for name in figures[-1]}


def _by_period(
    work: Workload, periods: Sequence[_Period], whole: Sequence[Samples], flops: Sequence[int]
) -> dict[str, Any]:
    """What is known of each period, and the means that are reported, weighted by share.

    Returns:
        `each`: `first_epoch` (from 1), `epochs`, `share`, `step_time` and `end_to_end_time` (seconds of each sample),
        `training_flops` an image, and the memory by the names of its metrics, where it is the period's own. `mean`:
        `step_time` and `end_to_end_time`, means of the medians, and those of the memory.
    """
    epochs = work.settings.epochs
    each: list[dict[str, Any]] = [
        {
            "first_epoch": period.epoch + 1,
            "epochs": round(period.share * epochs),
            "share": period.share,
            "step_time": compact(period.synthetic.values),
            "end_to_end_time": compact(samples.values),
            "training_flops": count / _COUNTED_BATCH,
            **(period.most if period.is_own else {}),
        }
        for period, samples, count in zip(periods, whole, flops, strict=True)
    ]
    mean: dict[str, float] = {}
    for name in ("step_time", "end_to_end_time"):
        if all(entry[name] for entry in each):
            mean[name] = sum(entry["share"] * statistics.median(entry[name]) for entry in each)
    if all(period.is_own for period in periods):
        mean |= {name: sum(entry["share"] * entry[name] for entry in each) for name in periods[0].most}
    return {"each": each, "mean": mean}


def _end_to_end(
    work: Workload, starts: Sequence[Start], period: _Period, examples: Examples, timer: DeviceTimer, progress: Progress
) -> Samples:
    """Time steps in their parts, each on a batch made of the case's own images."""
    progress("training end to end")
    steps = [work.step(initial, period.epoch) for initial in starts]
    parts: dict[str, Callable[[], None]] = {
        "data": together([partial(step.load, examples) for step in steps]),
        "forward": together([step.forward for step in steps]),
        "backward": together([step.backward for step in steps]),
        "optimizer": together([step.update for step in steps]),
    }
    return time_parts(parts, timer, sampling_budget(work.settings))


def _mean(shares: Sequence[float], values: Sequence[Sequence[float]]) -> list[float]:
    """The mean over periods of their samples, the first of each, the second of each, and so on."""
    return [sum(share * value for share, value in zip(shares, row, strict=True)) for row in zip(*values, strict=False)]


def _once(call: Callable[[], object], timer: DeviceTimer) -> float:
    """Seconds of a first call: libraries load, algorithms are chosen, graphs are compiled."""
    timer.synchronize()
    started = timer.clock()
    call()
    timer.synchronize()
    return timer.clock() - started


def _add_compiling(result: PhaseResult, work: Workload, what: str, first: float, steady: Samples) -> None:
    """Add what the compiler took and made; nothing when there is none."""
    if work.case.execution == "eager":
        return
    usual = statistics.median(steady.values) if steady.values else 0.0
    result.measure(f"{what}_compile_time", max(0.0, first - usual))
    result.loops["compile"] = {what: compile_counts()}
