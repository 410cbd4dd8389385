"""Phases about the machine and not a case."""

import torch

from fashiontl import devices
from fashiontl.phases.job import Job, Progress


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
