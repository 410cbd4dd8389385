"""What a worker process can be asked to do: each public function is one phase, run in a fork of its own.

A phase takes a job (what `job` in `fashiontl.measure` wrote) and a progress callback, and returns what JSON holds.
"""

import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from fashiontl import devices, modes
from fashiontl.architectures import members
from fashiontl.architectures.hybrids import combined
from fashiontl.architectures.network import Network
from fashiontl.case import Case
from fashiontl.data.select import TaskData, select
from fashiontl.data.sources import load_task_images
from fashiontl.evaluation import evaluate
from fashiontl.freezing import POLICIES
from fashiontl.freezing.adapters import load_library
from fashiontl.latency import Samples, time_calls, time_slices
from fashiontl.pretraining import pretrained
from fashiontl.profiling import profile_steps
from fashiontl.recipes import recipe_for
from fashiontl.train import Examples, fit, is_normalised, predict
from fashiontl.weights import digest
from fashiontl.workload import Workload, answering

Progress = Callable[[str], None]
Job = dict[str, Any]


def device(job: Job, progress: Progress) -> Job:
    """Whether a device can be used, and what it is; `absence` is None or the reason."""
    del progress
    name = job["device"]
    reason = devices.absence(name)
    facts = {} if reason else devices.DEVICES[devices.split(name)[0]].facts(devices.split(name)[1])
    if reason is None:
        # A device that is listed but broken shows here, before any case is lost to it.
        torch.ones(8, 8, device=name).matmul(torch.ones(8, 8, device=name))
        devices.synchronize(name)
    return {"absence": reason, "facts": facts}


def pretrain(job: Job, progress: Progress) -> Job:
    """Find or make the source backbones of a case: one, or one for each member of a hybrid."""
    work = Workload.of(job)
    case = work.case
    modes.deterministic()
    names = members(case.architecture) or (case.architecture,)
    found = {
        name: pretrained(case.weights, name, case.device, work.settings, Path(job["cache"]), progress) for name in names
    }
    return {
        "checkpoints": {name: facts.pop("checkpoint") for name, facts in found.items()},
        "pretraining": found[case.architecture] if len(found) == 1 else {"members": found},
    }


def train(job: Job, progress: Progress) -> Job:
    """Train a case with each seed and test it once at the end of each; lists hold one entry a seed."""
    work = Workload.of(job)
    settings = work.settings
    modes.deterministic()
    images = load_task_images(work.task, settings.data, settings.data_root or None, settings.image_size)
    per_class = work.task.per_class or settings.train_per_class
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seeds = []
        for seed in range(settings.seeds):
            chosen = select(images, work.task, per_class, settings.test_per_class, seed, settings.validation_per_class)
            seeds.append(_train_seed(work, chosen, seed, progress))
    nondeterministic = any("deterministic" in str(warning.message) for warning in caught)
    doubts = ["an operator has no deterministic form on this device"] if nondeterministic else []
    each = ("accuracy", "evaluation", "training_time", "losses", "validation", "trained", "members")
    return {
        **{name: [seed[name] for seed in seeds] for name in each},
        **{name: seeds[-1][name] for name in ("trials", "reused_stages", "weights", "recipe")},
        "proof": [proof for seed in seeds for proof in seed["proof"]],
        "data": {"source": images.source, "sha256": images.sha256},
        "image_size": settings.image_size,
        "deterministic": not nondeterministic,
        "warnings": doubts + seeds[-1]["warnings"],
    }


def _train_seed(work: Workload, chosen: TaskData, seed: int, progress: Progress) -> Job:
    trained = {part.architecture: _train_part(work, part, chosen, seed, progress) for part in work.parts()}
    parts = {name: value for name, (value, _) in trained.items()}
    # Members of a hybrid may differ in their preprocessing, so here their answers are combined, not their networks.
    logits = combined([answers for _, answers in trained.values()])
    evaluation = evaluate(logits, chosen.test_labels)

    def of_each(name: str) -> Any:
        values = {part: value[name] for part, value in parts.items()}
        return values if len(values) > 1 else next(iter(values.values()))

    return {
        **{name: of_each(name) for name in ("losses", "validation", "trained", "reused_stages", "weights", "recipe")},
        "accuracy": evaluation.accuracy,
        "evaluation": asdict(evaluation),
        "trials": len(chosen.test_labels),
        "members": {name: value["accuracy"] for name, value in parts.items()} if len(parts) > 1 else None,
        "training_time": sum(value["training_time"] for value in parts.values()),
        "proof": [value["proof"] for value in parts.values()],
        "warnings": [warning for value in parts.values() for warning in value["warnings"]],
    }


def _train_part(
    work: Workload, part: Case, chosen: TaskData, seed: int, progress: Progress
) -> tuple[Job, torch.Tensor]:
    """One network's training: what the record keeps of it, and its answers on the test images."""
    device_name = part.device
    torch.manual_seed(seed)
    begun = work.start(part)
    network = begun.network.to(device_name)
    work.prepare(network)
    recipe = recipe_for(part.policy, work.settings, normalised=is_normalised(network))
    where = f"seed {seed + 1} of {work.settings.seeds}" + (f", {part.architecture}" if part != work.case else "")
    validation = Examples(chosen.validation_images.to(device_name), chosen.validation_labels.to(device_name))
    result = fit(
        network,
        POLICIES[part.policy],
        Examples(chosen.train_images.to(device_name), chosen.train_labels.to(device_name)),
        recipe,
        begun.preprocessing,
        seed=seed,
        validation=validation if len(validation.labels) else None,
        progress=lambda epoch: progress(f"training, {where}, epoch {epoch + 1} of {recipe.epochs}"),
    )
    progress(f"testing, {where}")
    logits = predict(network, chosen.test_images.to(device_name), begun.preprocessing)
    value = {
        "accuracy": evaluate(logits, chosen.test_labels).accuracy,
        "training_time": result.seconds,
        "losses": result.losses,
        "proof": asdict(result.proof),
        "validation": {"accuracies": result.validation, "chosen": result.chosen} if result.validation else None,
        "trained": digest(network),
        "reused_stages": result.reused_stages,
        "recipe": asdict(recipe),
        "weights": begun.provenance,
        "warnings": [*_without_effect(work, network), *begun.doubts],
    }
    return value, logits


def inference(job: Job, progress: Progress) -> Job:
    """Time inference of a case and read its memory peak, then count its parameters and FLOPs."""
    work = Workload.of(job)
    case, settings = work.case, work.settings
    modes.fastest()
    base = _base_memory(case.device)
    networks = work.networks()
    model = answering(networks).eval()
    one, many = work.random_images(1), work.random_images(settings.throughput_batch)
    kind, index = devices.split(case.device)
    devices.DEVICES[kind].reset_peak(index)
    with torch.inference_mode():
        progress("latency")
        latency = time_calls(
            lambda: model(one),
            lambda: devices.synchronize(case.device),
            seconds=settings.seconds,
            most=settings.samples,
        )
        progress("inference throughput")
        slices = time_slices(lambda: model(many), lambda: devices.synchronize(case.device), seconds=settings.seconds)
        peak = devices.DEVICES[kind].peak(index)
        with FlopCounterMode(display=False) as counter:
            model(one)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    # Only now: adapters can be merged into the weights, so they are no part of what inference costs.
    trainable = sum(work.trainable_parameters(network) for network in networks)
    return {
        "latency": latency.values,
        "inference_throughput": [settings.throughput_batch / value for value in slices.values],
        "inference_peak_memory": peak - base,
        "base_memory": base,
        "flops": counter.get_total_flops(),
        "parameters": parameters,
        "trainable_parameters": trainable,
        "warm_up": {"latency": latency.warm_up, "inference_throughput": slices.warm_up},
        "warnings": _unsettled({"latency": latency, "inference throughput": slices}),
    }


def step(job: Job, progress: Progress) -> Job:
    """Time training steps of a case on one synthetic batch and read their memory peak.

    Where the policy changes over the epochs, a step's time is the mean over them, and the peak is the highest.
    """
    work = Workload.of(job)
    case, settings = work.case, work.settings
    modes.fastest()
    if case.policy == "lora":
        load_library()
    base = _base_memory(case.device)
    networks = work.networks()
    kind, index = devices.split(case.device)
    devices.DEVICES[kind].reset_peak(index)
    progress("training throughput")
    seconds: list[list[float]] = []
    loops: dict[str, Samples] = {}
    for epoch, share in work.periods(networks[0]):
        call = work.training_step(networks, epoch)
        slices = time_slices(call, lambda: devices.synchronize(case.device), seconds=settings.seconds)
        seconds.append([share * value for value in slices.values])
        loops[f"training throughput{f' in epoch {epoch + 1}' if share < 1 else ''}"] = slices
    return {
        "train_throughput": [settings.throughput_batch / sum(values) for values in zip(*seconds, strict=False)],
        "training_peak_memory": devices.DEVICES[kind].peak(index) - base,
        "base_memory": base,
        "warm_up": {"train_throughput": sum(slices.warm_up for slices in loops.values())},
        "warnings": _unsettled(loops),
    }


def profile(job: Job, progress: Progress) -> Job:
    """Profile training steps of a case and leave a trace."""
    work = Workload.of(job)
    modes.fastest()
    progress("profiling")
    folder = Path(job["traces"])
    operators = profile_steps(
        work.training_step(work.networks()),
        lambda: devices.synchronize(work.case.device),
        devices.profiler_activities(work.case.device),
        folder,
        work.case.file_name,
    )
    return {"operators": operators, "trace": str(folder)}


def _without_effect(work: Workload, network: Network) -> list[str]:
    """Say so where a policy that trains normalisation layers meets a network that has none."""
    if is_normalised(network) or all(stage.trains != "normalisation" for stage in work.plan(network)):
        return []
    return ["the network has no normalisation layers, so only the head was trained"]


def _base_memory(name: str) -> int:
    """Bytes that a worker holds on the CPU before it does anything of the case; 0 on devices with memory of their own.

    A convolution comes first, so that the code of the libraries that every case needs is counted here.
    """
    if devices.split(name)[0] != "cpu":
        return 0
    weight = torch.ones(8, 3, 3, 3, requires_grad=True)
    functional.conv2d(torch.ones(2, 3, 8, 8), weight).sum().backward()  # type: ignore[no-untyped-call]
    return devices.DEVICES["cpu"].peak(0)


def _unsettled(loops: dict[str, Samples]) -> list[str]:
    return [
        f"{name} had not settled after {samples.warm_up} warm-up calls"
        for name, samples in loops.items()
        if not samples.settled
    ]
