"""Loading of weights: what torchvision published in older layouts, and a clear account of what does not fit."""

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from fashiontl.core.errors import FashiontlError
from fashiontl.data.torchvision_import import models
from fashiontl.models.network import Layer, outputs, resized

# Auxiliary heads of GoogLeNet and Inception, which are off here.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
# DenseNet's published weights use the names from before dots were forbidden in module names: norm.1 is now norm1.
_OLD_DENSE_LAYER = re.compile(r"(?<=\.)(norm|relu|conv)\.([12])(?=\.(?:weight|bias|running_mean|running_var)$)")
_SHOWN = 3


def load(model: nn.Module, state: Mapping[str, Tensor], family: str, name: str) -> None:
    """Load weights into a model, whose last layer is made to fit theirs.

    Args:
        model: on any device, the meta device included; it takes the place of the weights, in float32.
        state: parameters and buffers under torchvision's names; copied.
        family: of the model, for the names and sizes that changed over time.
        name: of the architecture, for the error.

    Raises:
        FashiontlError: the weights are of another architecture.
    """
    # Only `state_dict()` itself carries versions; without them, the names are taken for those of today.
    metadata = getattr(state, "_metadata", {"": {"version": model._version}})
    state = _modern(model, state, family)
    _fit_head(model, state)
    copies: Any = OrderedDict(
        (key, value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True))
        for key, value in state.items()
    )
    copies._metadata = metadata
    try:
        model.load_state_dict(copies, assign=True)
    except RuntimeError as error:
        raise FashiontlError(f"these are not weights of {name}: {faults(model, state)}") from error


def _modern(model: Any, state: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """The state under today's names, with positions for the model's own number of patches."""
    modern = {key: value for key, value in state.items() if not key.startswith(_AUXILIARY)}
    if family == "densenet":
        modern = {_OLD_DENSE_LAYER.sub(r"\1\2", key): value for key, value in modern.items()}
    if family == "vit":
        # What cannot be interpolated is reported with everything else that does not fit.
        with suppress(KeyError, ValueError):
            models.vision_transformer.interpolate_embeddings(model.image_size, model.patch_size, modern)
    return modern


def _fit_head(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give the last layer as many outputs as the state has classes."""
    name, layer = [(name, module) for name, module in model.named_modules() if isinstance(module, Layer)][-1]
    weight = state.get(f"{name}.weight")
    if weight is not None and weight.dim() and len(weight) != outputs(layer):
        model.set_submodule(name, resized(layer, len(weight)))


def faults(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Say which weights a model lacks, has no place for, or holds in another shape."""
    expected = model.state_dict()
    # Old weights lack this counter; torch fills it in.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} (expected {_shape(expected[key])}, got {_shape(value)})"
        for key, value in state.items()
        if key in expected and value.shape != expected[key].shape
    ]
    counted = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return "; ".join(f"{len(keys)} {kind}: {_first(keys)}" for kind, keys in counted.items() if keys)


def _first(keys: Iterable[str]) -> str:
    keys = list(keys)
    return ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape) or "a number"
