"""Checkpoints in files: fashiontl's own, and what other trainers save."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from fashiontl.core.errors import FashiontlError
from fashiontl.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from fashiontl.data.torchvision_import import models
from fashiontl.models.build import build, to_be_filled
from fashiontl.models.network import Network
from fashiontl.models.registry import find
from fashiontl.models.timm_models import configuration
from fashiontl.models.weights.published import first_line
from fashiontl.models.weights.verified import Expected, opened, published_in_name, removal

_FORMAT = "fashiontl-1"
_SUFFIXES = (".pt", ".pth", ".safetensors")
# Keys under which trainers keep the state dict beside other things.
_STATE_KEYS = ("state_dict", "model", "model_state_dict")


@dataclass(frozen=True)
class Start:
    """A network before training, on the CPU, with a head for the case's task.

    Attributes:
        preprocessing: that the weights were trained with.
        provenance: name, file's SHA-256 and recipe of the weights.
        verifying: seconds that verifying files took, which is not part of loading them.
    """

    network: Network
    preprocessing: Preprocessing
    provenance: dict[str, Any]
    warnings: tuple[str, ...] = ()
    verifying: float = 0.0


class Facts(msgspec.Struct):
    """What pretraining writes beside a checkpoint.

    The recipe holds all that its weights depend on, the accuracy is that on the source's test images, and the seconds
    are those that training took.
    """

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    recipe: dict[str, Any]
    accuracy: Annotated[float, Meta(ge=0, le=1)]
    seconds: Annotated[float, Meta(ge=0)]


def save(path: Path, network: Network, architecture: str, preprocessing: Preprocessing) -> str:
    """Write a checkpoint that `load_file` reads, whole or not at all; returns its SHA-256."""
    contents = {
        "format": _FORMAT,
        "architecture": architecture,
        "classes": network.classes,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "interpolation": preprocessing.interpolation,
        # Without the memory format in which one training went: whoever loads it chooses another. A kernel of one pixel
        # counts as contiguous in every format, but torch reads the format of a convolution off its strides; only a copy
        # has those of a contiguous tensor.
        "state": {
            name: value.clone(memory_format=torch.contiguous_format) if value.ndim == 4 else value
            for name, value in network.state_dict().items()
        },
    }
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(contents, file)
        file.flush()
        os.fsync(file.fileno())
    with opened(partial) as written:
        digest = written.sha256
    partial.replace(path)
    return digest


def facts_file(checkpoint: Path) -> Path:
    """Where the facts of a checkpoint are."""
    return checkpoint.with_suffix(".json")


def facts_of(checkpoint: Path) -> Facts | None:
    """What pretraining wrote beside a checkpoint; None where there is no such file.

    Raises:
        FashiontlError: the file cannot be read.
    """
    file = facts_file(checkpoint)
    try:
        return msgspec.json.decode(file.read_bytes(), type=Facts)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeError, msgspec.MsgspecError) as error:
        raise FashiontlError(
            f"{file}: expected the SHA-256 and the recipe of {checkpoint.name} in JSON, got: {first_line(error)}; "
            f"remove both, and it is trained again: {removal(checkpoint, file)}"
        ) from error


def expected_of(checkpoint: Path, facts: Facts) -> Expected:
    """The digest that a checkpoint's facts record."""
    file = facts_file(checkpoint)
    return Expected(facts.sha256, f"recorded in {file.name}", (checkpoint, file), "it is trained again")


def in_folder(folder: Path, architecture: str) -> Path:
    """The one file of a folder for an architecture: `resnet18.pt`, or `resnet18-f37072fd.pth` as published.

    A `/` in the architecture's name is a `_` in the file's.

    Raises:
        FashiontlError: there is no such file, or more than one.
    """
    stem = architecture.replace("/", "_")
    files = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    found = [path for path in files if path.stem == stem or path.stem.startswith(f"{stem}-")]
    if len(found) == 1:
        return found[0]
    got = ", ".join(path.name for path in found or files) or "no checkpoints"
    raise FashiontlError(
        f"{folder}: expected one file called {stem}.pt, .pth or .safetensors, or {stem}-HASH.pth, got {got}"
    )


def load_file(architecture: str, classes: int, size: int, path: Path, name: str, *, pretrained: bool = False) -> Start:
    """A network with the weights in a file, and a new head.

    `name` is what the record calls the file. Beside one that pretraining made is its SHA-256.

    Raises:
        FashiontlError: the file does not exist, cannot be read, is not what was written or published under its name,
            or belongs to another architecture.
    """
    try:
        with opened(path, _expected(path, architecture, pretrained=pretrained)) as verified:
            contents = _read(path, verified.file)
    except FileNotFoundError as error:
        raise FashiontlError(
            f"no file {path}; --weights takes none, imagenet, fashion6, a name such as IMAGENET1K_V1, a checkpoint, "
            "or a folder of checkpoints"
        ) from error
    except OSError as error:
        raise FashiontlError(
            f"expected a file of weights that can be read, got {path}: {error.strerror}; free it or name another"
        ) from error
    preprocessing, warnings = _preprocessing(architecture, contents, size)
    if contents.get("format") == _FORMAT:
        network = _own_network(architecture, contents, path, size)
        network.replace_head(classes)
    else:
        network = build(architecture, classes, _state(contents, path), image_size=size)
    provenance = {"name": name, "sha256": verified.sha256}
    if contents.get("recipe") is not None:
        provenance["recipe"] = str(contents["recipe"])
    return Start(network, preprocessing, provenance, warnings, verified.seconds)


def _own_network(architecture: str, contents: Mapping[str, Any], path: Path, size: int) -> Network:
    if contents["architecture"] != architecture:
        raise FashiontlError(
            f"{path} holds weights of {contents['architecture']}, expected {architecture}; "
            f"run it with --arch {contents['architecture']}"
        )
    with to_be_filled(architecture):
        network = build(architecture, contents["classes"], image_size=size)
    try:
        network.load_state_dict(contents["state"], assign=True)
    except RuntimeError as error:
        raise FashiontlError(
            f"{path}: expected weights of {architecture} for images of {size} pixels, got: {first_line(error)}. "
            "They may be of another size (--set image_size=PIXELS) or of another version of fashiontl"
        ) from error
    return network


def _expected(path: Path, architecture: str, *, pretrained: bool) -> Expected | None:
    """The digest recorded by pretraining, or in a name under which torchvision published weights of this kind."""
    if pretrained and path.exists():
        facts = facts_of(path)
        if facts is None:
            raise FashiontlError(
                f"{path}: expected its SHA-256 in {facts_file(path).name} beside it, got no such file; remove it, and "
                f"it is trained again: {removal(path)}"
            )
        return expected_of(path, facts)
    entry = find(architecture)
    published = models.get_model_weights(entry.builder) if entry.weights and entry.family != "timm" else ()
    named = any(Path(weights.url).name == path.name for weights in published)
    return published_in_name(path) if named else None


def _preprocessing(architecture: str, contents: Mapping[str, Any], size: int) -> tuple[Preprocessing, tuple[str, ...]]:
    """What a checkpoint says of its images, in keys `mean` and `std`, or timm's configuration does; and warnings."""
    # fashiontl used to write `deviation`.
    mean, std = contents.get("mean"), contents.get("std", contents.get("deviation"))
    if mean is not None and std is not None:
        interpolation = str(contents.get("interpolation", "bilinear"))
        return Preprocessing(size, _channels(mean), _channels(std), interpolation), ()
    if find(architecture).family == "timm":
        config = configuration(architecture)
        return Preprocessing(size, tuple(config.mean), tuple(config.std), config.interpolation), ()
    warning = "the checkpoint does not say with which mean and std it was trained; ImageNet's were taken"
    return Preprocessing(size, IMAGENET_MEAN, IMAGENET_STD), (warning,)


def _channels(value: Any) -> tuple[float, float, float]:
    numbers = torch.as_tensor(value, dtype=torch.float64).flatten()
    if len(numbers) not in {1, 3}:
        raise FashiontlError(f"expected a mean and a std of one or three channels, got {len(numbers)}")
    red, green, blue = numbers.expand(3).tolist()
    return red, green, blue


def _read(path: Path, file: BinaryIO) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file as load_safetensors

            return dict(load_safetensors(path))
        contents = torch.load(file, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise FashiontlError(f"{path}: safetensors is not installed; pip install safetensors") from error
    except Exception as error:  # any other file makes the unpickler fail in any way
        raise FashiontlError(
            f"{path}: expected a checkpoint that torch.load(weights_only=True) reads, got: {first_line(error)}. "
            "Save it again with torch.save(model.state_dict(), path)"
        ) from error
    if not isinstance(contents, dict):
        raise FashiontlError(f"{path}: expected a state dict, got {type(contents).__name__}")
    return contents


def _state(contents: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint, which many trainers put under a key of its own and DataParallel prefixes."""
    contents = next((contents[key] for key in _STATE_KEYS if isinstance(contents.get(key), dict)), contents)
    if not contents or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in contents.items()):
        keys = ", ".join(map(str, list(contents)[:5])) or "none"
        raise FashiontlError(f"{path}: expected names and tensors, got keys {keys}")
    return {name.removeprefix("module."): value for name, value in contents.items()}
