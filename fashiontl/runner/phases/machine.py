"""Phases about the machine and not a case."""

import statistics
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from fashiontl.machine.devices import Device
from fashiontl.matrix import extensions
from fashiontl.runner.messages import (
    CaseJob,
    DeviceFacts,
    DeviceJob,
    Noise,
    PeakJob,
    Progress,
    TimedJob,
    VariantSupport,
)
from fashiontl.timing import torch_flags, variants
from fashiontl.timing.loops import DeviceTimer, SamplingBudget, time_blocks
from fashiontl.timing.peak import measured_peak

# Small enough for any device, and some milliseconds on a core.
_IMAGES, _SIDE, _CHANNELS, _CLASSES = 16, 32, 16, 10


def device(job: DeviceJob, progress: Progress) -> DeviceFacts:
    """Whether a device can be used, and what it is."""
    del progress
    found = _device(job)
    reason = found.unavailable_reason()
    if reason is not None:
        return DeviceFacts(unavailable=reason)
    # A device that is listed but broken shows here, before any case is lost to it.
    torch.ones(8, 8, device=found.name).matmul(torch.ones(8, 8, device=found.name))
    found.synchronize()
    return DeviceFacts(facts=found.facts())


def _device(job: DeviceJob) -> Device:
    extensions.load(job.extensions)
    return Device.of(job.device)


def variant(job: CaseJob, progress: Progress) -> VariantSupport:
    """Whether a case's device can run it as its variant says."""
    del progress
    extensions.load(job.extensions)
    reason = variants.unavailable_reason(job.case)
    return VariantSupport(unavailable=reason) if reason else VariantSupport(warnings=variants.warnings_for(job.case))


def peak(job: PeakJob, progress: Progress) -> dict[str, float]:
    """What matrix products and convolutions reach in a precision, FLOP/s; one that does not fit is left out."""
    progress(f"measuring the peak in {job.precision}")
    return dict(measured_peak(_device(job), job.precision, job.seconds))


def noise(job: TimedJob, progress: Progress) -> Noise:
    """Time one small training step that is always the same; what differs from process to process is noise."""
    progress("timing a small step")
    torch_flags.fastest()
    found = _device(job)
    samples = time_blocks(_step(found.name), DeviceTimer.of(found), SamplingBudget(job.seconds, half_width=0.0))
    if not samples.values:
        return Noise(None, None, steady=False)
    return Noise(statistics.median(samples.values), samples.half_width, samples.warm_up.steady)


def _step(name: str) -> Callable[[], None]:
    """A training step of three convolutions on images that stay on the device."""
    torch.manual_seed(0)
    network = nn.Sequential(
        _convolution(3, _CHANNELS, 1),
        _convolution(_CHANNELS, 2 * _CHANNELS, 2),
        _convolution(2 * _CHANNELS, 4 * _CHANNELS, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * _CHANNELS, _CLASSES),
    ).to(name)
    # A rate at which nothing moves far: the last step is the same work as the first.
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)
    images = torch.randn(_IMAGES, 3, _SIDE, _SIDE).to(name)
    labels = torch.arange(_IMAGES, device=name) % _CLASSES

    def step() -> None:
        functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )
