"""Published ImageNet weights: torchvision's, and what comes with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fashiontl.core.errors import FashiontlError, unknown_name
from fashiontl.data.sources import download_timeout
from fashiontl.data.torchvision_import import models
from fashiontl.models.registry import find
from fashiontl.models.weights.verified import opened, published_in_name, recorded

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
        origin: `name`, `sha256` of the file and `recipe` (None when unknown), for the record.
        verifying: seconds that it took to verify the file.
    """

    state: Mapping[str, Tensor]
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    interpolation: str
    origin: dict[str, Any]
    verifying: float


def torchvision_weights(architecture: str, tag: str = DEFAULT) -> Published:
    """Torchvision's weights, from its cache or downloaded.

    Args:
        architecture: a name in the table.
        tag: `imagenet` for the best, or one of torchvision's names, such as `IMAGENET1K_V1`.

    Raises:
        FashiontlError: none of that name are published, the file does not hold what was published, or it cannot be
            downloaded.
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
        if not file.exists():
            download(weights.url, file)
        with opened(file, published_in_name(file) or recorded(file)) as verified:
            state = torch.load(verified.file, map_location="cpu", weights_only=True)
    except FashiontlError:
        raise
    except Exception as error:  # a file of another kind makes the unpickler fail in any way
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
    origin = {
        "name": f"{architecture} {weights.name}",
        "sha256": verified.sha256,
        "recipe": weights.meta.get("recipe"),
    }
    interpolation = transforms.interpolation.value
    mean, deviation = tuple(transforms.mean), tuple(transforms.std)
    return Published(state, mean, deviation, interpolation, origin, verified.seconds)


def download(url: str, file: Path) -> None:
    """Put what is under an address into a file, whole or not at all, and only what its name says was published."""
    file.parent.mkdir(parents=True, exist_ok=True)
    expected = published_in_name(file)
    with download_timeout():
        torch.hub.download_url_to_file(url, str(file), expected.digest if expected else None, progress=False)


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    return " ".join([type(error).__name__, *str(error).splitlines()[:1]])
