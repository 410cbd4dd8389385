"""Where a network starts: at random, from published ImageNet weights, a pretrained source, a file, or a folder."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fashiontl.core.case import Case, is_published
from fashiontl.core.errors import FashiontlError
from fashiontl.data import find_task
from fashiontl.data.preprocessing import Preprocessing
from fashiontl.models.build import build
from fashiontl.models.ensembles import JoinedNetwork
from fashiontl.models.network import Network
from fashiontl.models.registry import find, members
from fashiontl.models.weights.files import in_folder, load, save
from fashiontl.models.weights.published import Published, torchvision_weights

__all__ = ["Start", "digest", "save", "start"]


@dataclass(frozen=True)
class Start:
    """A network before training.

    Attributes:
        network: on the CPU, with a head for the case's task.
        preprocessing: that the weights were trained with.
        provenance: name, file's SHA-256 and recipe of the weights, for the record.
        doubts: about the weights, for the record's warnings.
        verifying: seconds that it took to verify files of weights, which is no part of loading them.
    """

    network: Network
    preprocessing: Preprocessing
    provenance: dict[str, Any]
    doubts: tuple[str, ...] = ()
    verifying: float = 0.0


def start(case: Case, size: int, checkpoints: Mapping[str, Path] | None = None) -> Start:
    """Build the case's network with its weights.

    Args:
        case: what to build, no `mean:` hybrid; its `weights` say how it starts.
        size: side of the input in pixels.
        checkpoints: the files that pretraining left, by architecture, for source weights.

    Raises:
        FashiontlError: weights that are not there, cannot be read, are not what was written or published under their
            name, or belong to another architecture.
    """
    checkpoints = checkpoints or {}
    if names := members(case.architecture):
        return _joined(case, {name: start(replace(case, architecture=name), size, checkpoints) for name in names})
    architecture, classes = case.architecture, len(find_task(case.task).class_names)
    if case.weights == "none":
        network = build(architecture, classes, image_size=size)
        return Start(network, Preprocessing(size), {"name": "none"})
    if is_published(case.weights):
        published = _published(architecture, case.weights)
        network = build(architecture, classes, published.state, image_size=size)
        preprocessing = Preprocessing(size, published.mean, published.deviation, published.interpolation)
        return Start(network, preprocessing, published.origin, verifying=published.verifying)
    path = checkpoints.get(architecture, Path(case.weights))
    if path.is_dir():
        path = in_folder(path, architecture)
    loaded = load(architecture, classes, size, path, case.weights, pretrained=architecture in checkpoints)
    return Start(loaded.network, loaded.preprocessing, loaded.origin, tuple(loaded.doubts), loaded.verifying)


def digest(network: Network) -> str:
    """SHA-256 of a network's parameters and buffers with their names; equal weights have equal digests."""
    found = hashlib.sha256()
    for name, value in network.state_dict().items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(bytes_of(value))
    return found.hexdigest()


def bytes_of(values: Tensor) -> memoryview:
    """A tensor's numbers as they lie in memory, those of a device fetched from it; one on the CPU is not copied."""
    found: memoryview = values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
    return found


def _joined(case: Case, starts: Mapping[str, Start]) -> Start:
    preprocessings = {begun.preprocessing for begun in starts.values()}
    if len(preprocessings) > 1:
        raise FashiontlError(
            f"{case.architecture}: expected members with one preprocessing, got {len(preprocessings)}; "
            "use mean:, which gives each member its own"
        )
    network = JoinedNetwork([begun.network for begun in starts.values()], len(find_task(case.task).class_names))

    provenance = {"name": case.weights, "members": {name: begun.provenance for name, begun in starts.items()}}
    doubts = dict.fromkeys(doubt for begun in starts.values() for doubt in begun.doubts)
    verifying = sum(begun.verifying for begun in starts.values())
    return Start(network, preprocessings.pop(), provenance, tuple(doubts), verifying)


def _published(architecture: str, tag: str) -> Published:
    if find(architecture).family == "timm":
        from fashiontl.models.weights.timm_weights import timm_weights

        return timm_weights(architecture, tag)
    return torchvision_weights(architecture, tag)
