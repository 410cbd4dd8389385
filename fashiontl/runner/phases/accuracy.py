"""The phases that make weights and judge them."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fashiontl.core.case import Case
from fashiontl.core.errors import DivergedError
from fashiontl.data.select import TaskData, select
from fashiontl.data.sources import Images, load_task_images
from fashiontl.freezing import POLICIES
from fashiontl.models.ensembles import combined
from fashiontl.models.network import Network
from fashiontl.models.registry import members
from fashiontl.models.weights.start import weights_digest
from fashiontl.records.facts import Proof
from fashiontl.runner.messages import CaseJob, Pretraining, Progress, Training, backbone_name
from fashiontl.runner.workload import Workload
from fashiontl.timing import torch_flags
from fashiontl.training.divergence import diverged, in_answers
from fashiontl.training.evaluation import evaluate
from fashiontl.training.fit import Examples, fit, frozen_cut, is_normalised, predict
from fashiontl.training.prefix import FeatureStore
from fashiontl.training.pretraining import pretrained
from fashiontl.training.recipes import recipe_for


def pretrain(job: CaseJob, progress: Progress) -> Pretraining:
    """Find or make the source backbones of a case: as many as the settings say, for each member of a hybrid.

    In the record the first one's facts hold those of the others.
    """
    work = Workload.of(job)
    case = work.case
    torch_flags.deterministic()
    work.outlines()  # whose check comes before minutes of training that could not be used
    names = members(case.architecture) or (case.architecture,)
    result = Pretraining()
    found: dict[str, dict[str, Any]] = {}
    try:
        for name in names:
            for seed in range(work.settings.backbones):
                facts = pretrained(case.weights, name, case.device, work.settings, Path(job.cache), progress, seed=seed)
                result.checkpoints[backbone_name(name, seed)] = facts.pop("checkpoint")
                if seed:
                    found[name].setdefault("others", []).append(facts)
                else:
                    found[name] = facts
    except DivergedError as error:
        error.value = Pretraining(provenance=error.value)
        raise
    result.provenance["pretraining"] = found[case.architecture] if len(found) == 1 else {"members": found}
    return result


def train(job: CaseJob, progress: Progress) -> Training:
    """Train a case with each seed and test it once at the end of each; lists hold one entry a seed."""
    work = Workload.of(job)
    settings = work.settings
    torch_flags.deterministic(work.case.precision)
    images = load_task_images(work.task, settings.data, settings.data_root or None, settings.image_size)
    per_class = work.task.per_class or settings.train_per_class
    store = FeatureStore()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seeds: list[_Seed] = []
        for seed in range(settings.seeds):
            chosen = select(images, work.task, per_class, settings.test_per_class, seed, settings.validation_per_class)
            try:
                seeds.append(
                    {
                        member.architecture: _train_network(work, member, chosen, seed, store, progress)
                        for member in work.members()
                    }
                )
            except DivergedError as error:
                losses = [*(_of_each(before, "losses") for before in seeds), error.value["losses"]]
                provenance = {**error.value, "losses": losses, "image_size": settings.image_size}
                error.value = Training(provenance={**provenance, "data": _origin(images)})
                raise
    nondeterministic = any("deterministic" in str(warning.message) for warning in caught)
    return _tested(work, chosen, seeds, _origin(images), deterministic=not nondeterministic)


def _origin(images: Images) -> dict[str, str]:
    return {"source": images.source, "sha256": images.sha256}


@dataclass(frozen=True)
class _Trained:
    """One network after its training.

    Attributes:
        logits: on the test images, float32 `[n, classes]`.
        seconds: that training took.
        proof: that the policy was kept.
        losses: mean ones, of each epoch.
        validation: accuracies on the validation images and the epoch that was chosen by them; None without any.
        weights_digest: of the trained weights.
        reused_stages: whose outputs were computed once.
        features: where those came from.
        recipe: by which it was trained.
        weights: where it started.
        warnings: about it.
    """

    logits: torch.Tensor
    seconds: float
    proof: Proof
    losses: list[float]
    validation: dict[str, Any] | None
    weights_digest: str
    reused_stages: Any
    features: Any
    recipe: dict[str, Any]
    weights: dict[str, Any]
    warnings: list[str]


# The networks of one seed, by architecture: one, or each member of a hybrid.
_Seed = dict[str, _Trained]


def _of_each(seed: _Seed, name: str) -> Any:
    """A field of the networks of a seed: of the only one, or by architecture."""
    values = {architecture: getattr(trained, name) for architecture, trained in seed.items()}
    return values if len(values) > 1 else next(iter(values.values()))


def _tested(
    work: Workload, chosen: TaskData, seeds: Sequence[_Seed], data: dict[str, str], *, deterministic: bool
) -> Training:
    """What all seeds together say."""
    result, last = Training(), seeds[-1]
    # Members of a hybrid may differ in their preprocessing, so here their answers are combined, not their networks.
    logits = [combined([trained.logits for trained in seed.values()]) for seed in seeds]
    evaluations = [evaluate(each, chosen.test_labels) for each in logits]
    result.measure("accuracy", [each.accuracy for each in evaluations], trials=len(chosen.test_labels))
    result.measure("training_time", [sum(trained.seconds for trained in seed.values()) for seed in seeds])
    for each in logits:
        predicted = each.argmax(dim=1)
        result.answers.append(hashlib.sha256(predicted.numpy().tobytes()).hexdigest())
        result.right.append("".join("1" if right else "0" for right in predicted == chosen.test_labels))
    result.proofs = [trained.proof for seed in seeds for trained in seed.values()]
    if not deterministic:
        result.warnings.append("an operator has no deterministic form on this device")
    result.warnings += [warning for trained in last.values() for warning in trained.warnings]
    result.provenance = {
        "data": data,
        "image_size": work.settings.image_size,
        "deterministic": deterministic,
        "evaluation": [asdict(each) for each in evaluations],
        "losses": [_of_each(seed, "losses") for seed in seeds],
        "reused_stages": _of_each(last, "reused_stages"),
        "recipe": _of_each(last, "recipe"),
        "weights": _of_each(seeds[0], "weights"),
    }
    optional = {
        "trained": [_of_each(seed, "weights_digest") for seed in seeds],
        "validation": [_of_each(seed, "validation") for seed in seeds],
        "features": [_of_each(seed, "features") for seed in seeds],
    }
    if work.settings.backbones > 1:
        optional["backbones"] = [_of_each(seed, "weights") for seed in seeds]
    if len(last) > 1:
        optional["members"] = [
            {name: evaluate(trained.logits, chosen.test_labels).accuracy for name, trained in seed.items()}
            for seed in seeds
        ]
    result.provenance |= {name: values for name, values in optional.items() if any(values)}
    return result


def _train_network(
    work: Workload, member: Case, chosen: TaskData, seed: int, store: FeatureStore, progress: Progress
) -> _Trained:
    """Train and test one network.

    Raises:
        DivergedError: with the seed, the architecture and what else is known as its value, a record's provenance.
    """
    device_name = member.device
    torch.manual_seed(seed)
    initial = work.start(member, seed)
    network = initial.network
    work.prepare(network)
    recipe = recipe_for(member.policy, work.settings, normalised=is_normalised(network))
    where = f"seed {seed + 1} of {work.settings.seeds}" + (f", {member.architecture}" if member != work.case else "")
    validation = Examples(chosen.validation_images, chosen.validation_labels).on(device_name)
    try:
        result = fit(
            network,
            POLICIES[member.policy],
            Examples(chosen.train_images, chosen.train_labels).on(device_name),
            recipe,
            initial.preprocessing,
            seed=seed,
            validation=validation if len(validation.labels) else None,
            variant=work.variant,
            store=store,
            progress=lambda epoch: progress(f"training, {where}, epoch {epoch + 1} of {recipe.epochs}"),
        )
        progress(f"testing, {where}")
        # What is frozen to the end is the same in the next seed's network.
        prefix = frozen_cut(network, work.plan(network, work.settings.epochs - 1)) if work.settings.seeds > 1 else 0
        logits = predict(network, chosen.test_images, initial.preprocessing, work.variant, prefix=prefix, store=store)
        if fault := in_answers(logits, "test"):
            raise diverged(fault, recipe, (result.chosen, result.steps - 1), result.steps, result.losses)
    except DivergedError as error:
        known = {"losses": error.value["losses"], "weights": initial.provenance, "recipe": asdict(recipe)}
        if member != work.case:
            known = {name: {member.architecture: found} for name, found in known.items()}
        place = {**error.value["divergence"], "seed": seed, "architecture": member.architecture}
        raise DivergedError(
            f"training, {where}, {error}, lower it (--set lr=LR)", {**known, "divergence": place}
        ) from error
    return _Trained(
        logits=logits,
        seconds=result.seconds,
        proof=Proof(**asdict(result.proof)),
        losses=list(result.losses),
        validation={"accuracies": result.validation, "chosen": result.chosen} if result.validation else None,
        weights_digest=weights_digest(network),
        reused_stages=result.reused_stages,
        features=result.features,
        recipe=asdict(recipe),
        weights=initial.provenance,
        warnings=[*_without_effect(work, network), *initial.warnings],
    )


def _without_effect(work: Workload, network: Network) -> list[str]:
    """Say so where a policy that trains normalisation layers meets a network that has none."""
    if is_normalised(network) or all(stage.trains != "normalisation" for stage in work.plan(network)):
        return []
    return ["the network has no normalisation layers, so only the head was trained"]
