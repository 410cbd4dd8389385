"""The phase that counts what a case will compute, before anything is measured."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fashiontl.models.build import build
from fashiontl.models.registry import members
from fashiontl.runner.estimate import Work
from fashiontl.runner.messages import CaseJob, Progress
from fashiontl.runner.workload import Workload
from fashiontl.timing.flops import forward_flops
from fashiontl.training.fit import is_normalised


def count(job: CaseJob, progress: Progress) -> Work:
    """What a case computes; on the meta device, where nothing is."""
    del progress
    work = Workload.of(job)
    case = work.case
    found = [_count(work, name) for name in members(case.architecture) or (case.architecture,)]
    # Stages of a hybrid's members are matched from the head, as it trains them.
    names = max((list(each.parameters) for each in found), key=len)
    parameters = dict.fromkeys(names, 0.0)
    for each in found:
        for name, value in zip(reversed(names), reversed(list(each.parameters.values())), strict=False):
            parameters[name] += value
    return Work(
        sum(each.flops for each in found),
        sum(each.operators for each in found),
        parameters,
        any(each.normalised for each in found),
    )


def _count(work: Workload, architecture: str) -> Work:
    size = work.settings.image_size
    with torch.device("meta"):
        network = build(architecture, len(work.task.class_names), image_size=size).to("meta").eval()
        image = torch.empty(1, 3, size, size)
    flops = forward_flops(network, image)
    with _Operators() as operators, torch.no_grad():
        network(image)
    parameters = {
        name: float(sum(parameter.numel() for parameter in stage.parameters()))
        for name, stage in network.stages.items()
    }
    return Work(flops, operators.count, parameters, is_normalised(network))


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
        del types
        self.count += 1
        return function(*arguments, **(named or {}))
