"""What of a matrix has to be timed, each thing once: cells whose networks do the same share a measurement. No torch."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fashiontl.core.case import Case, Settings
from fashiontl.freezing import POLICIES
from fashiontl.matrix.options import as_timed
from fashiontl.models.registry import members
from fashiontl.runner.estimate import Work
from fashiontl.training.recipes import recipe_for

INFERENCE = ("latency", "inference_throughput")
TRAINING = ("train_throughput", "end_to_end_throughput")
# Of these a few slices of each process do.
SECONDARY = {"end_to_end_throughput"}


@dataclass(frozen=True)
class Subject:
    """What one process times.

    Attributes:
        key: says what it is, the same in each run; cells with equal keys share what is measured.
        case: as it is run.
        metrics: `INFERENCE` or `TRAINING`.
        cells: ids of the cells that share it.
    """

    key: str
    case: Case
    metrics: tuple[str, ...]
    cells: tuple[str, ...]


def subjects_of(cases: Sequence[Case], settings: Settings, count: Callable[[Case], Work | None]) -> list[Subject]:
    """The subjects of cases, in the order in which they are first needed.

    Inference of a network does not depend on the policy, since adapters are merged when it is deployed, nor a training
    step on where the weights came from. Two policies that train the same in each epoch have one training step.

    Args:
        cases: on one device.
        settings: how they are run.
        count: what a case computes, which has the names of the network's stages; None where that is unknown.
    """
    found: dict[str, Subject] = {}
    for case in cases:
        timed = as_timed(case)
        inference = replace(timed, policy="full", weights=timed.weights)
        training = f"training {_step_key(case, settings, count(case))}"
        for key, each, metrics in (
            (f"{inference.id}: inference", inference, INFERENCE),
            (f"{inference.id}: {training}", timed, TRAINING),
        ):
            known = found.setdefault(key, Subject(key, each, metrics, ()))
            found[key] = replace(known, cells=(*known.cells, case.id))
    return list(found.values())


def _step_key(case: Case, settings: Settings, work: Work | None) -> str:
    """What decides the arithmetic of a training step: what trains in which share of the epochs, and the optimiser.

    Where a plan is unknown, or means different things to members of a hybrid, a policy is a step of its own.
    """
    if work is None or members(case.architecture):
        return case.policy
    try:
        plans = [
            [
                (stage.trains, stage.normalisation)
                for stage in POLICIES[case.policy].plan(tuple(work.parameters), *epoch)
            ]
            for epoch in ((each, settings.epochs) for each in range(settings.epochs))
        ]
        recipe = recipe_for(case.policy, settings, normalised=work.normalised)
    except Exception:  # a policy that has no plan for a network: its own cell will say so
        return case.policy
    kind = (plans, recipe.optimizer, recipe.weight_decay > 0, recipe.label_smoothing > 0, recipe.augment)
    return hashlib.sha256(repr(kind).encode()).hexdigest()[:8]
