"""timm's classifiers as `timm/NAME`: cut into stages by timm's own group matcher, run by their own `forward`.

timm is an extra, imported only when a name asks for it.
"""

from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fashiontl.core.errors import FashiontlError

# Before any import of timm, which imports torchvision: this makes that possible.
from fashiontl.data import torchvision_import  # noqa: F401
from fashiontl.models.registry import Architecture
from fashiontl.models.states import faults
from fashiontl.models.whole import WholeNetwork

PREFIX = "timm/"


def library() -> Any:
    """The module `timm`.

    Raises:
        FashiontlError: it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise FashiontlError(
            f"architectures called {PREFIX}NAME need timm, which is not installed; pip install 'fashiontl[timm]'"
        ) from error
    return timm


@cache
def describe(name: str) -> Architecture:
    """One of timm's models as the table of architectures would hold it.

    Args:
        name: `timm/NAME`, or `timm/NAME.TAG` for weights that are not the model's default ones.

    Raises:
        FashiontlError: timm is not installed or has no such model.
    """
    timm = library()
    model = name.removeprefix(PREFIX)
    known = {*timm.list_models(), *timm.list_models(include_tags=True)}
    if model not in known:
        nearest = get_close_matches(model, sorted(known), n=3, cutoff=0.5)
        meant = f"; did you mean {', '.join(PREFIX + other for other in nearest)}?" if nearest else ""
        raise FashiontlError(f"unknown architecture {name!r}{meant} (timm.list_models() gives all)")
    config = configuration(name)
    tags = [other.partition(".")[2] for other in timm.list_pretrained(f"{model.partition('.')[0]}.*")]
    if "." in model:
        tags = [tag for tag in tags if tag == config.tag]
    smallest = config.min_input_size[-1] if config.min_input_size else 1
    return Architecture(name, "timm", smallest, tuple(sorted(tags, key=lambda tag: tag != config.tag)), builder="timm")


def configuration(name: str) -> Any:
    """Timm's `PretrainedCfg` of a model: that of its default weights, or of those that the name's tag says."""
    return library().get_pretrained_cfg(name.removeprefix(PREFIX))


def timm_network(name: str, classes: int, state: Mapping[str, Tensor] | None, image_size: int) -> WholeNetwork:
    """Build one of timm's models; arguments and result are those of `fashiontl.models.build.build`.

    Raises:
        FashiontlError: weights of another architecture, or a model that timm cannot make for this size, that has no
            groups, or that has more than one classifier.
    """
    if state is None:
        return _staged(name, _create(name, classes, image_size), image_size)
    network = _staged(name, _with_weights(name, classes, state, image_size), image_size)
    network.replace_head(classes)
    return network


def _create(name: str, classes: int, image_size: int) -> Any:
    """A model with a random start, on torch's default device."""
    if torch.get_default_device().type == "meta":
        # Some compute with tensors, whose values the meta device does not have, or hold constants outside their state
        # dict, which weights that are read later would not bring.
        with suppress(Exception):
            model = _timm_model(name, classes, image_size)
            if {key for key, _ in model.named_buffers()} <= model.state_dict().keys():
                return model
        with torch.device("cpu"):
            return _create(name, classes, image_size)
    try:
        return _timm_model(name, classes, image_size)
    except Exception as error:  # each model has its own way to refuse a size
        own = configuration(name).input_size[-1]
        raise FashiontlError(
            f"timm cannot make {name} for images of {image_size} pixels: {type(error).__name__} {error}; "
            f"use its own size, --set image_size={own}"
        ) from error


def _timm_model(name: str, classes: int, image_size: int, **arguments: Any) -> Any:
    if configuration(name).fixed_input_size:
        arguments["img_size"] = image_size
    return library().create_model(name.removeprefix(PREFIX), num_classes=classes, **arguments)


def _with_weights(name: str, classes: int, state: Mapping[str, Tensor], image_size: int) -> Any:
    """A model with weights, which timm itself adapts: old names, positions for another number of patches."""
    config = configuration(name)
    weight = state.get(f"{config.classifier}.weight")
    count = config.num_classes if weight is None else len(weight)
    overlay = {
        "state_dict": dict(state), "num_classes": count, "label_offset": 0, "custom_load": False,
        "url": None, "file": None, "hf_hub_id": None,
    }  # fmt: skip
    try:
        model = _timm_model(name, count, image_size, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # what timm does to adapt weights fails in any way where they are not the model's
        with torch.device("meta"):
            expected = _create(name, count, image_size)
        raise FashiontlError(f"these are not weights of {name}: {faults(expected, state)}") from error
    # timm keeps a copy of the weights here.
    del model.pretrained_cfg["state_dict"]
    if not count:
        model.reset_classifier(classes)
    return model


def _staged(name: str, model: Any, image_size: int) -> WholeNetwork:
    return WholeNetwork(name, model, _groups(name, model), image_size)


def _groups(name: str, model: Any) -> dict[str, list[str]]:
    """Names of parameters by stage, from timm's coarse groups; what is grouped with the classifier is the neck.

    Raises:
        FashiontlError: timm does not group this model.
    """
    try:
        matcher = model.group_matcher(coarse=True)
    except (AttributeError, AssertionError) as error:
        raise FashiontlError(f"{name}: timm does not say how its layers are grouped; choose another model") from error
    parameters = dict(model.named_parameters())
    *numbered, last = library().models.group_parameters(model, matcher).values()
    groups: list[list[str]] = []
    for names in numbered:
        # VGG's matcher counts BatchNorm as a layer of its own, which belongs with the convolution before it.
        if groups and all(parameters[name].ndim < 2 for name in names):
            groups[-1].extend(names)
        else:
            groups.append(names)
    stages = {f"stage{number}" if number else "stem": names for number, names in enumerate(groups)}
    return {**stages, "neck": last}
