"""Where a network starts: at random, from torchvision's ImageNet weights, a pretrained source, or a file."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fashiontl.architectures import ARCHITECTURES
from fashiontl.architectures.build import build
from fashiontl.architectures.network import Network
from fashiontl.case import Case
from fashiontl.data import TASKS
from fashiontl.errors import FashiontlError
from fashiontl.images import IMAGENET_DEVIATION, IMAGENET_MEAN, Preprocessing
from fashiontl.vision import models

_FORMAT = "fashiontl-1"


@dataclass(frozen=True)
class Start:
    """A network before training.

    Attributes:
        network: on the CPU, with a head for the case's task.
        preprocessing: that the weights were trained with.
        provenance: name, file's SHA-256 and recipe of the weights, for the record.
    """

    network: Network
    preprocessing: Preprocessing
    provenance: dict[str, Any]


def start(case: Case, size: int, checkpoint: Path | None = None) -> Start:
    """Build the case's network with its weights.

    Args:
        case: what to build; its `weights` say how it starts.
        size: side of the input in pixels.
        checkpoint: the file that pretraining left, for source weights.

    Raises:
        FashiontlError: weights that are not there, cannot be read, or belong to another architecture.
    """
    classes = len(TASKS[case.task].classes)
    if case.weights == "none":
        network = build(case.architecture, classes, image_size=size)
        return Start(network, Preprocessing(size), {"name": "none"})
    if case.weights == "imagenet":
        return _imagenet(case.architecture, classes, size)
    return _file(case.architecture, classes, size, checkpoint or Path(case.weights), case.weights)


def save(path: Path, network: Network, architecture: str, preprocessing: Preprocessing) -> str:
    """Write a checkpoint that `start` reads, whole or not at all; returns its SHA-256."""
    contents = {
        "format": _FORMAT,
        "architecture": architecture,
        "classes": network.classes,
        "mean": list(preprocessing.mean),
        "deviation": list(preprocessing.deviation),
        "state": network.state_dict(),
    }
    partial = path.with_suffix(".partial")
    torch.save(contents, partial)
    digest = _sha256(partial)
    partial.replace(path)
    return digest


def _imagenet(architecture: str, classes: int, size: int) -> Start:
    entry = ARCHITECTURES[architecture]
    if not entry.weights:
        raise FashiontlError(f"torchvision publishes no ImageNet weights for {architecture}; use --weights none")
    weights = models.get_model_weights(entry.builder).DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # a damaged file makes the unpickler fail in any way
        if file.exists():
            raise FashiontlError(
                f"{file}: expected the ImageNet weights of {architecture} ({weights.name}), got: {_first_line(error)}. "
                f"Delete it, and it is downloaded anew from {weights.url}"
            ) from error
        raise FashiontlError(
            f"expected the ImageNet weights of {architecture} ({weights.name}) at {file}, and cannot download them: "
            f"{error}. Put the file {weights.url} there, or set TORCH_HOME to the folder whose hub/checkpoints has it"
        ) from error
    # The published preprocessing is a partial of a class whose attributes it fills.
    published = weights.transforms()
    preprocessing = Preprocessing(size, tuple(published.mean), tuple(published.std))
    provenance = {
        "name": f"{architecture} {weights.name}",
        "sha256": _sha256(file),
        "recipe": weights.meta.get("recipe"),
    }
    return Start(build(architecture, classes, state, image_size=size), preprocessing, provenance)


def _file(architecture: str, classes: int, size: int, path: Path, name: str) -> Start:
    contents = _read(path)
    provenance = {"name": name, "sha256": _sha256(path)}
    if contents.get("format") != _FORMAT:
        preprocessing = Preprocessing(size, IMAGENET_MEAN, IMAGENET_DEVIATION)
        state = _state(contents, path)
        return Start(build(architecture, classes, state, image_size=size), preprocessing, provenance)
    if contents["architecture"] != architecture:
        raise FashiontlError(
            f"{path} holds weights of {contents['architecture']}, expected {architecture}; "
            f"run it with --arch {contents['architecture']}"
        )
    # On the meta device nothing is drawn at random that would be overwritten at once.
    with torch.device("meta"):
        network = build(architecture, contents["classes"], image_size=size)
    try:
        network.load_state_dict(contents["state"], assign=True)
    except RuntimeError as error:
        raise FashiontlError(
            f"{path}: expected weights of {architecture} for images of {size} pixels, got: {_first_line(error)}. "
            "They may be of another size (--set image_size=PIXELS) or of another version of fashiontl"
        ) from error
    network.replace_head(classes)
    preprocessing = Preprocessing(size, tuple(contents["mean"]), tuple(contents["deviation"]))
    return Start(network, preprocessing, provenance)


def _read(path: Path) -> dict[str, Any]:
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise FashiontlError(f"no file {path}; --weights takes none, imagenet, fashion6, or a checkpoint") from error
    except Exception as error:  # any other file makes the unpickler fail in any way
        raise FashiontlError(
            f"{path}: expected a checkpoint that torch.load(weights_only=True) reads, got: {_first_line(error)}. "
            "Save it anew with torch.save(model.state_dict(), path)"
        ) from error
    if not isinstance(contents, dict):
        raise FashiontlError(f"{path}: expected a state dict, got {type(contents).__name__}")
    return contents


def _state(contents: Mapping[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a checkpoint, which many trainers put under a key of its own and DataParallel prefixes."""
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(contents.get(key), dict):
            contents = contents[key]
            break
    if not contents or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in contents.items()):
        keys = ", ".join(map(str, list(contents)[:5])) or "none"
        raise FashiontlError(f"{path}: expected names and tensors, got keys {keys}")
    return {name.removeprefix("module."): value for name, value in contents.items()}


def _first_line(error: Exception) -> str:
    return " ".join([type(error).__name__, *str(error).splitlines()[:1]])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
