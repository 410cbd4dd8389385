"""The phases that make weights and judge them."""

import hashlib
import warnings
from dataclasses import asdict
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
from fashiontl.runner.phases.job import Job, Progress
from fashiontl.runner.workload import Workload
from fashiontl.timing import torch_flags
from fashiontl.training.divergence import diverged, in_answers
from fashiontl.training.evaluation import evaluate
from fashiontl.training.fit import Examples, fit, is_normalised, predict
from fashiontl.training.prefix import FeatureStore
from fashiontl.training.pretraining import pretrained
from fashiontl.training.recipes import recipe_for


def pretrain(job: Job, progress: Progress) -> Job:
    """Find or make the source backbones of a case: one, or one for each member of a hybrid."""
    work = Workload.of(job)
    case = work.case
    torch_flags.deterministic()
    work.outlines()  # whose check comes before minutes of training that could not be used
    names = members(case.architecture) or (case.architecture,)
    found = {
        name: pretrained(case.weights, name, case.device, work.settings, Path(job["cache"]), progress) for name in names
    }
    return {
        "checkpoints": {name: facts.pop("checkpoint") for name, facts in found.items()},
        "pretraining": found[case.architecture] if len(found) == 1 else {"members": found},
    }


def train(job: Job, progress: Progress) -> Job:
    """Train a case with each seed and test it once at the end of each; lists hold one entry a seed.

    Returns:
        Besides what a record keeps, for each seed `answers`, the SHA-256 of the predicted classes, and `right`, a `1`
        for each test image whose class was predicted and a `0` for each other, in the order of the images; and
        `features`, where the outputs of `reused_stages` came from.
    """
    work = Workload.of(job)
    settings = work.settings
    torch_flags.deterministic(work.case.precision)
    images = load_task_images(work.task, settings.data, settings.data_root or None, settings.image_size)
    per_class = work.task.per_class or settings.train_per_class
    store = FeatureStore()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seeds = []
        for seed in range(settings.seeds):
            chosen = select(images, work.task, per_class, settings.test_per_class, seed, settings.validation_per_class)
            try:
                seeds.append(_train_seed(work, chosen, seed, store, progress))
            except DivergedError as error:
                error.value |= {"data": _origin(images), "image_size": settings.image_size}
                error.value["losses"] = [*(before["losses"] for before in seeds), error.value["losses"]]
                raise
    nondeterministic = any("deterministic" in str(warning.message) for warning in caught)
    doubts = ["an operator has no deterministic form on this device"] if nondeterministic else []
    each = (
        "accuracy", "evaluation", "training_time", "losses", "validation", "trained", "features", "members", "answers",
        "right",
    )  # fmt: skip
    return {
        **{name: [seed[name] for seed in seeds] for name in each},
        **{name: seeds[-1][name] for name in ("trials", "reused_stages", "weights", "recipe")},
        "proof": [proof for seed in seeds for proof in seed["proof"]],
        "data": _origin(images),
        "image_size": settings.image_size,
        "deterministic": not nondeterministic,
        "warnings": doubts + seeds[-1]["warnings"],
    }


def _origin(images: Images) -> Job:
    return {"source": images.source, "sha256": images.sha256}


def _train_seed(work: Workload, chosen: TaskData, seed: int, store: FeatureStore, progress: Progress) -> Job:
    trained = {part.architecture: _train_part(work, part, chosen, seed, store, progress) for part in work.parts()}
    parts = {name: value for name, (value, _) in trained.items()}
    # Members of a hybrid may differ in their preprocessing, so here their answers are combined, not their networks.
    logits = combined([answers for _, answers in trained.values()])
    evaluation = evaluate(logits, chosen.test_labels)
    predicted = logits.argmax(dim=1)

    def of_each(name: str) -> Any:
        values = {part: value[name] for part, value in parts.items()}
        return values if len(values) > 1 else next(iter(values.values()))

    return {
        **{name: of_each(name) for name in ("losses", "validation", "trained", "weights", "recipe")},
        **{name: of_each(name) for name in ("reused_stages", "features")},
        "accuracy": evaluation.accuracy,
        "evaluation": asdict(evaluation),
        "answers": hashlib.sha256(predicted.numpy().tobytes()).hexdigest(),
        "right": "".join("1" if right else "0" for right in predicted == chosen.test_labels),
        "trials": len(chosen.test_labels),
        "members": {name: value["accuracy"] for name, value in parts.items()} if len(parts) > 1 else None,
        "training_time": sum(value["training_time"] for value in parts.values()),
        "proof": [value["proof"] for value in parts.values()],
        "warnings": [warning for value in parts.values() for warning in value["warnings"]],
    }


def _train_part(
    work: Workload, part: Case, chosen: TaskData, seed: int, store: FeatureStore, progress: Progress
) -> tuple[Job, torch.Tensor]:
    """One network's training: what the record keeps of it, and its answers on the test images.

    Raises:
        DivergedError: with the seed, the architecture and what else is known as its value.
    """
    device_name = part.device
    torch.manual_seed(seed)
    begun = work.start(part)
    network = begun.network
    work.prepare(network)
    recipe = recipe_for(part.policy, work.settings, normalised=is_normalised(network))
    where = f"seed {seed + 1} of {work.settings.seeds}" + (f", {part.architecture}" if part != work.case else "")
    validation = Examples(chosen.validation_images, chosen.validation_labels).on(device_name)
    try:
        result = fit(
            network,
            POLICIES[part.policy],
            Examples(chosen.train_images, chosen.train_labels).on(device_name),
            recipe,
            begun.preprocessing,
            seed=seed,
            validation=validation if len(validation.labels) else None,
            variant=work.variant,
            store=store,
            progress=lambda epoch: progress(f"training, {where}, epoch {epoch + 1} of {recipe.epochs}"),
        )
        progress(f"testing, {where}")
        logits = predict(network, chosen.test_images, begun.preprocessing, work.variant)
        if fault := in_answers(logits, "test"):
            raise diverged(fault, recipe, (result.chosen, result.steps - 1), result.steps, result.losses)
    except DivergedError as error:
        known = {"losses": error.value["losses"], "weights": begun.provenance, "recipe": asdict(recipe)}
        if part != work.case:
            known = {name: {part.architecture: found} for name, found in known.items()}
        place = {**error.value["divergence"], "seed": seed, "architecture": part.architecture}
        raise DivergedError(
            f"training, {where}, {error}, lower it (--set lr=LR)", {**known, "divergence": place}
        ) from error
    value = {
        "accuracy": evaluate(logits, chosen.test_labels).accuracy,
        "training_time": result.seconds,
        "losses": result.losses,
        "proof": asdict(result.proof),
        "validation": {"accuracies": result.validation, "chosen": result.chosen} if result.validation else None,
        "trained": weights_digest(network),
        "reused_stages": result.reused_stages,
        "features": result.features,
        "recipe": asdict(recipe),
        "weights": begun.provenance,
        "warnings": [*_without_effect(work, network), *begun.warnings],
    }
    return value, logits


def _without_effect(work: Workload, network: Network) -> list[str]:
    """Say so where a policy that trains normalisation layers meets a network that has none."""
    if is_normalised(network) or all(stage.trains != "normalisation" for stage in work.plan(network)):
        return []
    return ["the network has no normalisation layers, so only the head was trained"]
