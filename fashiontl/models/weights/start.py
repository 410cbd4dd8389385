"""Where a network starts: at random, from published ImageNet weights, a pretrained source, a file, or a folder."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fashiontl.core.case import Case, is_published
from fashiontl.core.errors import FashiontlError
from fashiontl.data import find_task
from fashiontl.data.preprocessing import Preprocessing
from fashiontl.models.build import build
from fashiontl.models.ensembles import JoinedNetwork
from fashiontl.models.network import Network
from fashiontl.models.registry import members
from fashiontl.models.weights.files import Start, in_folder, load_file, save
from fashiontl.models.weights.published import published_weights

__all__ = ["Start", "bytes_of", "save", "start", "weights_digest"]


def start(case: Case, size: int, checkpoints: Mapping[str, Path] | None = None) -> Start:
    """Build the case's network with its weights.

    Args:
        case: what to build, no `mean:` hybrid; its `weights` say how it starts.
        size: side of the input in pixels.
        checkpoints: the files that pretraining made, by architecture.

    Raises:
        FashiontlError: weights that do not exist, cannot be read, are not what was written or published under their
            name, or belong to another architecture.
    """
    checkpoints = checkpoints or {}
    if names := members(case.architecture):
        return _joined(case, {name: start(replace(case, architecture=name), size, checkpoints) for name in names})
    architecture, classes = case.architecture, len(find_task(case.task).class_names)
    if case.weights == "none":
        return Start(build(architecture, classes, image_size=size), Preprocessing(size), {"name": "none"})
    if is_published(case.weights):
        found = published_weights(architecture, case.weights)
        network = build(architecture, classes, found.state, image_size=size)
        preprocessing = Preprocessing(size, found.mean, found.std, found.interpolation)
        return Start(network, preprocessing, found.origin, verifying=found.verifying)
    path = checkpoints.get(architecture, Path(case.weights))
    if path.is_dir():
        path = in_folder(path, architecture)
    return load_file(architecture, classes, size, path, case.weights, pretrained=architecture in checkpoints)


def _joined(case: Case, starts: Mapping[str, Start]) -> Start:
    preprocessings = {initial.preprocessing for initial in starts.values()}
    if len(preprocessings) > 1:
        raise FashiontlError(
            f"{case.architecture}: expected members with one preprocessing, got {len(preprocessings)}; "
            "use mean:, which gives each member its own"
        )
    network = JoinedNetwork([initial.network for initial in starts.values()], len(find_task(case.task).class_names))
    provenance = {"name": case.weights, "members": {name: initial.provenance for name, initial in starts.items()}}
    warnings = dict.fromkeys(warning for initial in starts.values() for warning in initial.warnings)
    verifying = sum(initial.verifying for initial in starts.values())
    return Start(network, preprocessings.pop(), provenance, tuple(warnings), verifying)


def weights_digest(network: Network) -> str:
    """SHA-256 of a network's parameters and buffers with their names; equal weights have equal digests."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(bytes_of(value))
    return digest.hexdigest()


def bytes_of(values: Tensor) -> memoryview:
    """A tensor's numbers as they lie in memory, copied only if it is on another device than the CPU."""
    return values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
