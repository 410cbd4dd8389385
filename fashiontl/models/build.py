"""From an architecture's name to a network in stages, with or without weights."""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn

from fashiontl.core.errors import FashiontlError
from fashiontl.data.torchvision_import import models
from fashiontl.models.blocks import shrink_stem
from fashiontl.models.families import split
from fashiontl.models.network import Layer, Network, outputs, resized, state_errors
from fashiontl.models.registry import Architecture, find
from fashiontl.models.timm_models import timm_network

# Published weights of these two were made with their own input scale, so it is part of the network. `init_weights` is
# torchvision's present default, named because it warns otherwise.
_INCEPTION = {"aux_logits": False, "transform_input": True, "init_weights": True}

# Arguments that torchvision's constructors take besides the number of classes, from the image size.
_ARGUMENTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "vit": lambda size: {"image_size": size},
    "maxvit": lambda size: {"input_size": (size, size)},
    "googlenet": lambda size: _INCEPTION,
    "inception": lambda size: _INCEPTION,
}

# Names of the first convolution and of the pooling after it, where there is a variant for small images.
_STEMS = {"resnet": ("conv1", "maxpool"), "densenet": ("features.conv0", "features.pool0")}

# Auxiliary heads of GoogLeNet and Inception, which are off here.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
# DenseNet's published weights use the names from before dots were forbidden in module names: norm.1 is now norm1.
_OLD_DENSE_LAYER = re.compile(r"(?<=\.)(norm|relu|conv)\.([12])(?=\.(?:weight|bias|running_mean|running_var)$)")


def build(name: str, classes: int, state: Mapping[str, Tensor] | None = None, *, image_size: int) -> Network:
    """Build a network in training mode, on torch's default device (with a state: where that is).

    Args:
        name: that `find` knows.
        classes: outputs of the head.
        state: weights under torchvision's or timm's names, for any number of classes; the head is always new. None
            starts at random, from torch's generator, as torchvision or timm does.
        image_size: side of the images in pixels, one that `fitting_size` allows. Most architectures then take others as
            well; ViT, MaxViT, tutorial_vgg and many of timm's models do not.

    Raises:
        FashiontlError: unknown name, or weights of another architecture.
    """
    entry = find(name)
    if entry.family == "timm":
        return timm_network(name, classes, state, image_size)
    if state is None:
        return _staged(_construct(entry, classes, image_size), entry)
    with to_be_filled(name):
        model = _construct(entry, classes, image_size)
    _load(model, state, entry)
    network = _staged(model, entry)
    network.replace_head(classes)
    return network


def to_be_filled(name: str) -> AbstractContextManager[Any]:
    """Where to build a network whose weights are then replaced by others: on the meta device, without random numbers.

    A user's network may compute with values as it is built, or hold some that no weights bring: it is built on the CPU,
    without changing what is drawn at random later.
    """
    return torch.random.fork_rng(devices=()) if ":" in find(name).builder else torch.device("meta")


def outline(make: Callable[[], Network]) -> Network:
    """A network of which only the structure is needed: on the meta device if it can be built there.

    A user's network may compute with tensors as it is built, whose values the meta device does not have.
    """
    try:
        with torch.device("meta"):
            return make()
    except FashiontlError:
        raise
    except Exception:  # each has its own way to fail
        return make()


def _construct(entry: Architecture, classes: int, image_size: int) -> nn.Module:
    if ":" in entry.builder:
        model: nn.Module = resolve_name(entry.builder)(classes=classes, image_size=image_size)
        return model
    arguments = _ARGUMENTS[entry.family](image_size) if entry.family in _ARGUMENTS else {}
    # RegNet computes its widths with tensors, whose values the meta device does not have.
    with torch.device("cpu") if entry.family == "regnet" else nullcontext():
        model = models.get_model(entry.builder, weights=None, num_classes=classes, **arguments)
    if entry.small_stem:
        shrink_stem(model, *_STEMS[entry.family])
    return model


def _staged(model: nn.Module, entry: Architecture) -> Network:
    if isinstance(model, Network):
        return model
    if not entry.family:
        raise FashiontlError(
            f"{entry.name}: expected a Network from {entry.builder}, got {type(model).__name__}; "
            "or name the family by which it falls into stages"
        )
    return split(model, entry.family)


def _load(model: Any, state: Mapping[str, Tensor], entry: Architecture) -> None:
    """Load weights, copied in float32, into a model on any device, whose last layer is made to fit theirs."""
    # Only `state_dict()` itself carries versions; without them, the names are taken for those of today.
    metadata = getattr(state, "_metadata", {"": {"version": model._version}})
    state = {key: value for key, value in state.items() if not key.startswith(_AUXILIARY)}
    if entry.family == "densenet":
        state = {_OLD_DENSE_LAYER.sub(r"\1\2", key): value for key, value in state.items()}
    if entry.family == "vit":
        # Positions for another number of patches. What cannot be interpolated is reported with all else that differs.
        with suppress(KeyError, ValueError):
            models.vision_transformer.interpolate_embeddings(model.image_size, model.patch_size, state)
    name, layer = [(name, module) for name, module in model.named_modules() if isinstance(module, Layer)][-1]
    weight = state.get(f"{name}.weight")
    if weight is not None and weight.dim() and len(weight) != outputs(layer):
        model.set_submodule(name, resized(layer, len(weight)))
    copies: Any = OrderedDict(
        (key, value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True))
        for key, value in state.items()
    )
    copies._metadata = metadata
    try:
        model.load_state_dict(copies, assign=True)
    except RuntimeError as error:
        raise FashiontlError(
            f"these are not weights of {entry.name}: {state_errors(model.state_dict(), state)}"
        ) from error
