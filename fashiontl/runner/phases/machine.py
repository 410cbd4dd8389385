"""Phases about the machine and not a case."""

import torch

from fashiontl.machine.devices import Device
from fashiontl.matrix import extensions
from fashiontl.runner.messages import (
    CaseJob,
    DeviceFacts,
    DeviceJob,
    PeakJob,
    Progress,
    VariantSupport,
)
from fashiontl.timing import variants
from fashiontl.timing.peak import measured_peak


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
