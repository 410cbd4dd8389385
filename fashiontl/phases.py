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

from fashiontl import devices
from fashiontl.architectures.network import Network
from fashiontl.case import Case, Settings
from fashiontl.data import find_task
from fashiontl.data.select import select
from fashiontl.data.sources import Images, load_images
from fashiontl.evaluation import evaluate
from fashiontl.freezing import POLICIES
from fashiontl.freezing.apply import apply, parameter_groups
from fashiontl.latency import Samples, time_calls, time_slices
from fashiontl.pretraining import pretrained
from fashiontl.profiling import profile_steps
from fashiontl.recipes import recipe_for
from fashiontl.train import Examples, fit, is_normalised, predict
from fashiontl.weights import Start, start

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
    """Find or make the source backbone of a case."""
    case, settings = _parse(job)
    _deterministic()
    return pretrained(case.weights, case.architecture, case.device, settings, Path(job["cache"]), progress)


def train(job: Job, progress: Progress) -> Job:
    """Train a case with each seed and test it once at the end of each; lists hold one entry a seed."""
    case, settings = _parse(job)
    _deterministic()
    images = load_images(settings.data, settings.data_root or None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seeds = [_train_seed(job, case, settings, images, seed, progress) for seed in range(settings.seeds)]
    nondeterministic = any("deterministic" in str(warning.message) for warning in caught)
    return {
        **{
            name: [seed[name] for seed in seeds]
            for name in ("accuracy", "evaluation", "training_time", "losses", "proof")
        },
        **{name: seeds[-1][name] for name in ("trials", "reused_stages", "weights")},
        "recipe": seeds[-1]["recipe"],
        "data": {"source": images.source, "sha256": images.sha256},
        "warnings": [
            *(["an operator has no deterministic form on this device"] if nondeterministic else []),
            *seeds[-1]["warnings"],
        ],
    }


def _train_seed(job: Job, case: Case, settings: Settings, images: Images, seed: int, progress: Progress) -> Job:
    chosen = select(images, find_task(case.task), settings.train_per_class, settings.test_per_class, seed)
    torch.manual_seed(seed)
    begun = _start(job, case, settings)
    network = begun.network.to(case.device)
    recipe = recipe_for(case.policy, settings, normalised=is_normalised(network))
    where = f"seed {seed + 1} of {settings.seeds}"
    result = fit(
        network,
        POLICIES[case.policy],
        Examples(chosen.train_images.to(case.device), chosen.train_labels.to(case.device)),
        recipe,
        begun.preprocessing,
        seed=seed,
        progress=lambda epoch: progress(f"training, {where}, epoch {epoch + 1} of {recipe.epochs}"),
    )
    progress(f"testing, {where}")
    logits = predict(network, chosen.test_images.to(case.device), begun.preprocessing)
    evaluation = evaluate(logits, chosen.test_labels)
    return {
        "accuracy": evaluation.accuracy,
        "evaluation": asdict(evaluation),
        "trials": len(logits),
        "training_time": result.seconds,
        "losses": result.losses,
        "proof": asdict(result.proof),
        "reused_stages": result.reused_stages,
        "recipe": asdict(recipe),
        "warnings": _without_effect(case.policy, network),
        "weights": begun.provenance,
    }


def inference(job: Job, progress: Progress) -> Job:
    """Time inference of a case and read its memory peak, then count its parameters and FLOPs."""
    case, settings = _parse(job)
    _fastest()
    base = _base_memory(case.device)
    network = _start(job, case, settings).network.to(case.device).eval()
    apply_plan = POLICIES[case.policy].plan(network.stage_names, 0, settings.epochs)
    one = _random_images(case, settings, 1)
    many = _random_images(case, settings, settings.throughput_batch)
    kind, index = devices.split(case.device)
    devices.DEVICES[kind].reset_peak(index)
    with torch.inference_mode():
        progress("latency")
        latency = time_calls(
            lambda: network(one),
            lambda: devices.synchronize(case.device),
            seconds=settings.seconds,
            most=settings.samples,
        )
        progress("inference throughput")
        slices = time_slices(lambda: network(many), lambda: devices.synchronize(case.device), seconds=settings.seconds)
        peak = devices.DEVICES[kind].peak(index)
        with FlopCounterMode(display=False) as counter:
            network(one)
    apply(network, apply_plan)
    return {
        "latency": latency.values,
        "inference_throughput": [settings.throughput_batch / value for value in slices.values],
        "inference_peak_memory": peak - base,
        "base_memory": base,
        "flops": counter.get_total_flops(),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "trainable_parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "warm_up": {"latency": latency.warm_up, "inference_throughput": slices.warm_up},
        "warnings": _unsettled({"latency": latency, "inference throughput": slices}),
    }


def step(job: Job, progress: Progress) -> Job:
    """Time training steps of a case on one synthetic batch and read their memory peak."""
    case, settings = _parse(job)
    _fastest()
    base = _base_memory(case.device)
    network = _start(job, case, settings).network.to(case.device)
    call = _training_step(network, case, settings)
    kind, index = devices.split(case.device)
    devices.DEVICES[kind].reset_peak(index)
    progress("training throughput")
    slices = time_slices(call, lambda: devices.synchronize(case.device), seconds=settings.seconds)
    return {
        "train_throughput": [settings.throughput_batch / value for value in slices.values],
        "training_peak_memory": devices.DEVICES[kind].peak(index) - base,
        "base_memory": base,
        "warm_up": {"train_throughput": slices.warm_up},
        "warnings": _unsettled({"training throughput": slices}) + _changing(network, case.policy, settings.epochs),
    }


def profile(job: Job, progress: Progress) -> Job:
    """Profile training steps of a case and leave a trace."""
    case, settings = _parse(job)
    _fastest()
    progress("profiling")
    folder = Path(job["traces"])
    operators = profile_steps(
        _training_step(_start(job, case, settings).network.to(case.device), case, settings),
        lambda: devices.synchronize(case.device),
        devices.profiler_activities(case.device),
        folder,
        case.file_name,
    )
    return {"operators": operators, "trace": str(folder)}


def _parse(job: Job) -> tuple[Case, Settings]:
    return Case(**job["case"]), Settings(**job["settings"])


def _start(job: Job, case: Case, settings: Settings) -> Start:
    checkpoint = job.get("checkpoint")
    return start(case, settings.image_size, Path(checkpoint) if checkpoint else None)


def _without_effect(policy: str, network: Network) -> list[str]:
    """Say so where a policy that trains normalisation layers meets a network that has none."""
    plan = POLICIES[policy].plan(network.stage_names, 0, 1)
    if is_normalised(network) or all(stage.trains != "normalisation" for stage in plan):
        return []
    return ["the network has no normalisation layers, so only the head was trained"]


def _changing(network: Network, policy: str, epochs: int) -> list[str]:
    """Say so where a step does not cost the same in every epoch."""
    plans = {POLICIES[policy].plan(network.stage_names, epoch, epochs) for epoch in range(epochs)}
    return ["the policy changes over the epochs; training steps were timed as in the first"] if len(plans) > 1 else []


def _random_images(case: Case, settings: Settings, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, settings.image_size, settings.image_size, generator=generator).to(case.device)


def _training_step(network: Network, case: Case, settings: Settings) -> Callable[[], None]:
    """A function that makes one training step on a batch that is already on the device.

    It runs every stage at every step: reuse of a frozen prefix is a saving of the accuracy runs, and is never mixed
    with what a step costs.
    """
    plan = POLICIES[case.policy].plan(network.stage_names, 0, settings.epochs)
    apply(network, plan)
    recipe = recipe_for(case.policy, settings, normalised=True)
    # A rate at which nothing moves far, so that a thousand steps on noise cannot overflow and change the speed.
    groups = parameter_groups(network, plan, 1e-6, recipe.decay)
    optimizer = torch.optim.AdamW(groups, fused=devices.split(case.device)[0] in {"cpu", "cuda"})
    inputs = _random_images(case, settings, settings.throughput_batch)
    labels = torch.arange(settings.throughput_batch, device=case.device) % len(find_task(case.task).class_names)

    def call() -> None:
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(inputs), labels, label_smoothing=recipe.smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return call


def _deterministic() -> None:
    """Ask for the same result each time, as far as the device can; torch's documentation, "Reproducibility"."""
    _full_precision()
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling all new memory guards code that reads what it never wrote; it would only cost time here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def _fastest() -> None:
    """Let cuDNN choose its algorithms by trying, which pays because a timed loop's shapes never change."""
    _full_precision()
    torch.backends.cudnn.benchmark = True


def _full_precision() -> None:
    """Keep TF32, torch's default for convolutions on CUDA, out of what is called float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


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
