"""Where a network starts: at random, from published ImageNet weights, a pretrained source, a file, or a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashiontl.architectures import find
from fashiontl.architectures.build import build
from fashiontl.architectures.network import Network
from fashiontl.case import Case, is_published
from fashiontl.data import find_task
from fashiontl.images import Preprocessing
from fashiontl.weights.files import in_folder, load, save
from fashiontl.weights.published import Published, torchvision_weights

__all__ = ["Start", "save", "start"]


@dataclass(frozen=True)
class Start:
    """A network before training.

    Attributes:
        network: on the CPU, with a head for the case's task.
        preprocessing: that the weights were trained with.
        provenance: name, file's SHA-256 and recipe of the weights, for the record.
        doubts: about the weights, for the record's warnings.
    """

    network: Network
    preprocessing: Preprocessing
    provenance: dict[str, Any]
    doubts: tuple[str, ...] = ()


def start(case: Case, size: int, checkpoint: Path | None = None) -> Start:
    """Build the case's network with its weights.

    Args:
        case: what to build; its `weights` say how it starts.
        size: side of the input in pixels.
        checkpoint: the file that pretraining left, for source weights.

    Raises:
        FashiontlError: weights that are not there, cannot be read, or belong to another architecture.
    """
    architecture, classes = case.architecture, len(find_task(case.task).class_names)
    if case.weights == "none":
        network = build(architecture, classes, image_size=size)
        return Start(network, Preprocessing(size), {"name": "none"})
    if is_published(case.weights):
        published = _published(architecture, case.weights)
        network = build(architecture, classes, published.state, image_size=size)
        preprocessing = Preprocessing(size, published.mean, published.deviation, published.interpolation)
        return Start(network, preprocessing, published.provenance)
    path = checkpoint or Path(case.weights)
    if path.is_dir():
        path = in_folder(path, architecture)
    network, preprocessing, provenance, doubts = load(architecture, classes, size, path, case.weights)
    return Start(network, preprocessing, provenance, tuple(doubts))


def _published(architecture: str, tag: str) -> Published:
    if find(architecture).family == "timm":
        from fashiontl.weights.timm_weights import timm_weights

        return timm_weights(architecture, tag)
    return torchvision_weights(architecture, tag)
