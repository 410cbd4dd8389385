"""The phases that time a case and read its memory."""

from torch.nn import functional

import torch
from torch.utils.flop_counter import FlopCounterMode

from fashiontl import devices, modes
from fashiontl.freezing.adapters import load_library
from fashiontl.latency import Samples, time_calls, time_slices
from fashiontl.phases.job import Job, Progress
from fashiontl.workload import Workload, answering


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
        peak = devices.DEVICES[kind].memory(index).peak
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
        "training_peak_memory": devices.DEVICES[kind].memory(index).peak - base,
        "base_memory": base,
        "warm_up": {"train_throughput": sum(slices.warm_up for slices in loops.values())},
        "warnings": _unsettled(loops),
    }


def _base_memory(name: str) -> int:
    """Bytes that a worker holds on the CPU before it does anything of the case; 0 on devices with memory of their own.

    A convolution comes first, so that the code of the libraries that every case needs is counted here.
    """
    if devices.split(name)[0] != "cpu":
        return 0
    weight = torch.ones(8, 3, 3, 3, requires_grad=True)
    functional.conv2d(torch.ones(2, 3, 8, 8), weight).sum().backward()  # type: ignore[no-untyped-call]
    return devices.DEVICES["cpu"].memory(0).peak


def _unsettled(loops: dict[str, Samples]) -> list[str]:
    return [
        f"{name} had not settled after {samples.warm_up} warm-up calls"
        for name, samples in loops.items()
        if not samples.settled
    ]
