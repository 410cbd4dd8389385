"""Published ImageNet weights: torchvision's, and what comes with them."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fashiontl.architectures import find
from fashiontl.errors import FashiontlError, unknown_name
from fashiontl.vision import models

# The name under which every architecture's best published weights are asked for.
DEFAULT = "imagenet"


@dataclass(frozen=True)
class Published:
    """Weights as their authors published them.

    Attributes:
        state: parameters and buffers under the authors' names.
        mean: of each channel on the scale 0..1, with which the weights were trained.
        deviation: of each channel on the scale 0..1.
        interpolation: with which images were resized: `bilinear` or `bicubic`.
        origin: gives `name`, `sha256` of the file and `recipe` (None when unknown), for the record.
    """

    state: Mapping[str, Tensor]
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    interpolation: str
    origin: Callable[[], dict[str, Any]]


def torchvision_weights(architecture: str, tag: str = DEFAULT) -> Published:
    """Torchvision's weights, from its cache or downloaded.

    Args:
        architecture: a name in the table.
        tag: `imagenet` for the best, or one of torchvision's names, such as `IMAGENET1K_V1`.

    Raises:
        FashiontlError: none of that name are published, the file is damaged, or it cannot be downloaded.
    """
    entry = find(architecture)
    if not entry.weights:
        raise FashiontlError(f"torchvision publishes no ImageNet weights for {architecture}; use --weights none")
    if tag not in {DEFAULT, *entry.weights}:
        raise FashiontlError(f"{architecture}: {unknown_name('ImageNet weights', tag, entry.weights)}")
    known = models.get_model_weights(entry.builder)
    weights = known.DEFAULT if tag == DEFAULT else known[tag]
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # a damaged file makes the unpickler fail in any way
        if file.exists():
            raise FashiontlError(
                f"{file}: expected the ImageNet weights of {architecture} ({weights.name}), got: {first_line(error)}. "
                f"Delete it, and it is downloaded anew from {weights.url}"
            ) from error
        raise FashiontlError(
            f"expected the ImageNet weights of {architecture} ({weights.name}) at {file}, and cannot download them: "
            f"{error}. Put the file {weights.url} there, or set TORCH_HOME to the folder whose hub/checkpoints has it"
        ) from error
    # The published preprocessing is a partial of a class whose attributes it fills.
    transforms = weights.transforms()
    origin = partial(origin_of, f"{architecture} {weights.name}", file, recipe=weights.meta.get("recipe"))
    interpolation = transforms.interpolation.value
    return Published(state, tuple(transforms.mean), tuple(transforms.std), interpolation, origin)


def origin_of(name: str, file: Path, **more: Any) -> dict[str, Any]:
    """Where weights come from, for the record.

    Half a second for VGG's half gigabyte, which is no part of loading it: so it is asked only where it is recorded.
    """
    return {"name": name, "sha256": sha256(file), **more}


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    return " ".join([type(error).__name__, *str(error).splitlines()[:1]])


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
