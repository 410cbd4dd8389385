"""Source backbones: trained on the classes that the target task lacks, once, and kept by content."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import torch

from fashiontl.core.case import Settings
from fashiontl.core.errors import DivergedError
from fashiontl.core.files import write_atomically
from fashiontl.data import find_task
from fashiontl.data.preprocessing import Preprocessing
from fashiontl.data.select import select
from fashiontl.data.sources import load_images
from fashiontl.freezing import POLICIES
from fashiontl.machine.devices import Device
from fashiontl.machine.locks import locked
from fashiontl.models.build import build, outline
from fashiontl.models.weights.files import Facts, expected_of, facts_file, facts_of, save
from fashiontl.models.weights.verified import opened
from fashiontl.timing.variants import Variant, faster_format
from fashiontl.training.divergence import diverged, in_answers
from fashiontl.training.evaluation import evaluate
from fashiontl.training.fit import Examples, fit, is_normalised, predict
from fashiontl.training.recipes import pretraining_recipe


def pretrained(
    source: str,
    architecture: str,
    device: str,
    settings: Settings,
    cache: Path,
    progress: Callable[[str], None],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Find or make the checkpoint of an architecture trained from scratch on a source task.

    The file's name holds a hash of all that its weights depend on, so a change of any of it makes a new one, and
    processes that want the same one wait for the first.

    Returns:
        The fields of `Facts`, `checkpoint` (path) and `cached` (whether it was there already).

    Raises:
        DivergedError: training did; nothing is kept.
        FashiontlError: the checkpoint that is there, or what is beside it, is not what was written.
    """
    images = load_images(settings.data, settings.data_root or None)
    task = find_task(source)
    shape = outline(lambda: build(architecture, len(task.classes), image_size=settings.image_size))
    recipe = pretraining_recipe(settings, normalised=is_normalised(shape))
    variant = Variant(memory_format=faster_format(shape, Device.of(device).kind))
    origin = {
        "source": source,
        "architecture": architecture,
        "device": Device.of(device).kind,
        "size": settings.image_size,
        "memory_format": variant.memory_format,
        "per_class": settings.pretrain_per_class,
        "data": images.sha256,
        "torch": str(torch.__version__),
        "seed": seed,
    }
    digest = hashlib.sha256(json.dumps([origin, asdict(recipe)], sort_keys=True).encode()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    checkpoint = cache / f"{source}-{architecture}-{digest}.pt"
    with locked(checkpoint.with_suffix(".lock")):
        if checkpoint.exists() and (known := facts_of(checkpoint)) is not None:
            with opened(checkpoint, expected_of(checkpoint, known)):
                return {**msgspec.structs.asdict(known), "checkpoint": str(checkpoint), "cached": True}
        chosen = select(images, task, settings.pretrain_per_class, settings.test_per_class, seed)
        torch.manual_seed(seed)
        network = build(architecture, len(task.classes), image_size=settings.image_size).to(device)
        preprocessing = Preprocessing(settings.image_size)
        try:
            result = fit(
                network,
                POLICIES["scratch"],
                Examples(chosen.train_images, chosen.train_labels).on(device),
                recipe,
                preprocessing,
                seed=seed,
                variant=variant,
                progress=lambda epoch: progress(f"pretraining on {source}, epoch {epoch + 1} of {recipe.epochs}"),
            )
            logits = predict(network, chosen.test_images, preprocessing, variant)
            if what := in_answers(logits, "test"):
                raise diverged(what, recipe, (result.chosen, result.steps - 1), result.steps, result.losses)
        except DivergedError as error:
            # Its value is of this training, and not of the case's.
            place = {**error.value["divergence"], "architecture": architecture, "task": source}
            raise DivergedError(
                f"pretraining {architecture} on {source}, {error}; start from other weights (--weights)",
                {"divergence": place},
            ) from error
        accuracy = evaluate(logits, chosen.test_labels).accuracy
        # A process that is killed between the two files must not leave facts of another checkpoint beside this one.
        facts_file(checkpoint).unlink(missing_ok=True)
        sha256 = save(checkpoint, network.cpu(), architecture, preprocessing)
        facts = Facts(sha256, {**origin, **asdict(recipe)}, accuracy, result.seconds)
        write_atomically(facts_file(checkpoint), msgspec.json.encode(facts))
    return {**msgspec.structs.asdict(facts), "checkpoint": str(checkpoint), "cached": False}
