"""Phases about the machine and not a case."""

import statistics
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import nn
from torch.nn import functional

from fashiontl.machine import devices
from fashiontl.runner.messages import (
    CaseJob,
    ClockCheck,
    DeviceFacts,
    DeviceJob,
    Noise,
    PeakJob,
    Progress,
    TimedJob,
    VariantSupport,
)
from fashiontl.runner.phases.timed_pass import instrument
from fashiontl.timing import torch_flags, variants
from fashiontl.timing.loops import Effort, time_slices
from fashiontl.timing.peak import measured_peak
from fashiontl.timing.selftest import failures
from fashiontl.timing.selftest import self_test as known_work

# Small enough for any device, and some milliseconds on a core.
_IMAGES, _SIDE, _CHANNELS, _CLASSES = 16, 32, 16, 10


def device(job: DeviceJob, progress: Progress) -> DeviceFacts:
    """Whether a device can be used, and what it is."""
    del progress
    name = job.device
    reason = devices.absence(name)
    if reason is not None:
        return DeviceFacts(unavailable=reason)
    # A device that is listed but broken shows here, before any case is lost to it.
    torch.ones(8, 8, device=name).matmul(torch.ones(8, 8, device=name))
    devices.synchronize(name)
    kind, index = devices.split(name)
    entry = devices.DEVICES[kind]
    total = entry.total(index) if entry.total else None
    return DeviceFacts(facts=entry.facts(index), total_memory=total)


def variant(job: CaseJob, progress: Progress) -> VariantSupport:
    """Whether a case's device can run it as its variant says."""
    del progress
    reason = variants.absence(job.case)
    return VariantSupport(unavailable=reason) if reason else VariantSupport(warnings=variants.doubts(job.case))


def self_test(job: TimedJob, progress: Progress) -> ClockCheck:
    """Give the timing loops work whose answer is known."""
    progress("testing the clock")
    checks = known_work(job.device, instrument(job.device), job.seconds)
    return ClockCheck([asdict(check) for check in checks], failures(checks))


def peak(job: PeakJob, progress: Progress) -> dict[str, float]:
    """What matrix products and convolutions reach in a precision, FLOP/s; one that does not fit is left out."""
    progress(f"measuring the peak in {job.precision}")
    return dict(measured_peak(job.device, job.precision, job.seconds, lambda: devices.synchronize(job.device)))


def noise(job: TimedJob, progress: Progress) -> Noise:
    """Time one small training step that is always the same; what differs from process to process is noise."""
    progress("timing a small step")
    torch_flags.fastest()
    samples = time_slices(_step(job.device), instrument(job.device), Effort(job.seconds, half_width=0.0))
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
