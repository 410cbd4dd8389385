"""timm's classifiers as `timm/NAME`: cut into stages by timm's own group matcher, run by their own `forward`.

timm is an extra, imported only when a name asks for it.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fashiontl.core.errors import FashiontlError

# Before any import of timm, which imports torchvision: this makes that possible.
from fashiontl.data import torchvision_import  # noqa: F401
from fashiontl.models.network import Layer, Network, resized, state_errors
from fashiontl.models.registry import Architecture

PREFIX = "timm/"
# Of modules, and of single parameters.
_Names: TypeAlias = tuple[list[str], list[str]]


def library() -> Any:
    """The module `timm`; a FashiontlError where it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise FashiontlError(
            f"architectures called {PREFIX}NAME need timm, which is not installed; pip install 'fashiontl[timm]'"
        ) from error
    return timm


@cache
def describe(name: str) -> Architecture:
    """One of timm's models, `timm/NAME`, as the table of architectures would hold it.

    `timm/NAME.TAG` stands for weights that are not the model's default ones.

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
    """Timm's `PretrainedCfg` of a model and its weights."""
    return library().get_pretrained_cfg(name.removeprefix(PREFIX))


def timm_network(name: str, classes: int, state: Mapping[str, Tensor] | None, image_size: int) -> "TimmNetwork":
    """Build one of timm's models; arguments and result are those of `fashiontl.models.build.build`.

    Raises:
        FashiontlError: weights of another architecture, or a model that timm cannot make for this size, that has no
            groups, or that has more than one classifier.
    """
    model = _create(name, classes, image_size) if state is None else _with_weights(name, classes, state, image_size)
    network = TimmNetwork(name, model, _groups(name, model), image_size)
    if state is not None:
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
    """A model with weights, which timm itself converts: old names, positions for another number of patches."""
    config = configuration(name)
    weight = state.get(f"{config.classifier}.weight")
    count = config.num_classes if weight is None else len(weight)
    overlay = {
        "state_dict": dict(state), "num_classes": count, "label_offset": 0, "custom_load": False,
        "url": None, "file": None, "hf_hub_id": None,
    }  # fmt: skip
    try:
        model = _timm_model(name, count, image_size, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # converting weights that are not the model's fails in any way
        with torch.device("meta"):
            expected = _create(name, count, image_size)
        raise FashiontlError(
            f"these are not weights of {name}: {state_errors(expected.state_dict(), state)}"
        ) from error
    # timm keeps a copy of the weights here.
    del model.pretrained_cfg["state_dict"]
    if not count:
        model.reset_classifier(classes)
    return model


def _groups(name: str, model: Any) -> dict[str, list[str]]:
    """Names of parameters by stage, from timm's coarse groups; what is grouped with the classifier is the neck."""
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


class TimmNetwork(Network):
    """A model that runs its own `forward`, and whose modules and parameters are grouped into stages.

    A stage holds the largest modules that lie in it entirely, and parameters of modules that span several stages, such
    as a class token. A module without parameters belongs to the stage of what was registered before it; behind the last
    numbered stage, to the neck. Modules that span several stages are in none, and so stay in eval mode.

    `groups` are names of the model's parameters by stage, in order of execution: `stem`, `stage1` ..., `neck`. Wherever
    those of the classifier are, they become the stage `head`.

    Raises:
        FashiontlError: the model's classifier is not one layer, Linear or Conv2d.
    """

    def __init__(self, name: str, model: Any, groups: Mapping[str, Iterable[str]], image_size: int) -> None:
        super(Network, self).__init__()
        self.model = model
        classifier = model.get_classifier()
        names: list[str] = [inner for inner, module in model.named_modules() if module is classifier]
        if not names or not isinstance(classifier, Layer):
            raise FashiontlError(
                f"{name}: expected one classifier, a Linear or Conv2d layer, got {type(classifier).__name__}; "
                "choose another model"
            )
        self._head = names[0]
        self._image_size = image_size
        self._cuts: tuple[int, ...] | None = None
        # Not submodules, since they hold the model's own modules a second time.
        self._views = {stage: _View(model, *held) for stage, held in _stage_contents(model, groups, self._head).items()}

    @property
    def stages(self) -> nn.ModuleDict:  # type: ignore[override] # a chain's are an attribute
        """The stages, each with the modules and parameters that the model has now, under names with `/` for `.`.

        A module that is assigned to such a name takes its place in the model.
        """
        for view in self._views.values():
            view.fill()
        return nn.ModuleDict(self._views)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the stages in order of execution; the last is `head`."""
        return tuple(self._views)

    def train(self, mode: bool = True) -> "TimmNetwork":
        """As in `nn.Module`; the stages follow."""
        super().train(mode)
        for view in self._views.values():
            view.training = mode
        return self

    def run(self, inputs: Tensor, start: int, stop: int) -> Tensor:
        """Run the stages from number `start` up to, not including, `stop`; a FashiontlError if not both in `cuts`."""
        last = len(self._views)
        if (start, stop) == (0, last):
            return self.model(inputs)  # type: ignore[no-any-return]
        if start not in self.cuts or stop not in self.cuts:
            raise FashiontlError(
                f"expected to start and stop at one of stages {', '.join(map(str, self.cuts))}, got {start} and {stop}"
            )
        if start == stop:
            return inputs
        return self._features(inputs) if start == 0 else self.head_layer(inputs)

    @property
    def cuts(self) -> tuple[int, ...]:
        """Where `run` can start and stop: at the ends and, if it changes no bit, before the head."""
        if next(self.parameters()).is_meta:
            return 0, len(self._views)
        if self._cuts is None:
            last = len(self._views)
            self._cuts = (0, last - 1, last) if self._same_with_a_cut() else (0, last)
        return self._cuts

    @property
    def head_layer(self) -> Layer:
        """The classifier's last layer."""
        return self.model.get_submodule(self._head)  # type: ignore[no-any-return]

    def replace_head(self, classes: int) -> None:
        """Put a new last layer, at random from torch's generator and on the old one's device, in the model.

        timm's `reset_classifier` would put it on the CPU, and some models' make more than the last layer anew.
        """
        self.model.set_submodule(self._head, resized(self.head_layer, classes))
        self.model.num_classes = classes

    def _features(self, images: Tensor) -> Tensor:
        return self.model.forward_head(self.model.forward_features(images), pre_logits=True)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _same_with_a_cut(self) -> bool:
        """Whether features and classifier compute what the model does, tried in eval mode on random images."""
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        images = torch.randn(2, 3, self._image_size, self._image_size, generator=torch.Generator().manual_seed(0))
        images = images.to(next(self.parameters()).device)
        try:
            return torch.equal(self.head_layer(self._features(images)), self.model(images))
        except (TypeError, RuntimeError):  # no `pre_logits`, or features of a shape that the classifier does not take
            return False
        finally:
            for module, mode in modes.items():
                module.training = mode


class _View(nn.Module):
    """One stage: modules and single parameters of a model under their names, which are looked up at each filling."""

    def __init__(self, model: nn.Module, modules: Sequence[str], parameters: Sequence[str]) -> None:
        super().__init__()
        # In a tuple, or it would be a submodule.
        self._model = (model,)
        self._names = tuple(modules), tuple(parameters)

    def fill(self) -> None:
        (model,), (modules, parameters) = self._model, self._names
        self._modules.clear()
        self._parameters.clear()
        for name in modules:
            self.add_module(name.replace(".", "/"), model.get_submodule(name))
        for name in parameters:
            self.register_parameter(name.replace(".", "/"), model.get_parameter(name))

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, nn.Module):
            self._model[0].set_submodule(name.replace("/", "."), value)


def _stage_contents(model: nn.Module, groups: Mapping[str, Iterable[str]], head: str) -> dict[str, _Names]:
    """Names of the modules and single parameters of each stage, in order of execution."""
    stage_of = {model.get_parameter(name): stage for stage, names in groups.items() for name in names}
    stage_of.update(dict.fromkeys(model.get_submodule(head).parameters(), "head"))
    *_, last_feature, _ = groups
    contents: dict[str, _Names] = {stage: ([], []) for stage in [*groups, "head"]}
    latest = next(iter(groups))

    def place(name: str, module: nn.Module) -> None:
        nonlocal latest
        stages = {stage_of[parameter] for parameter in module.parameters()}
        if len(stages) > 1 or ("head" in stages and name != head):
            prefix = f"{name}." if name else ""
            for own, parameter in module.named_parameters(recurse=False):
                contents[stage_of[parameter]][1].append(prefix + own)
            for child_name, child in module.named_children():
                place(prefix + child_name, child)
            return
        latest = stages.pop() if stages else "neck" if latest == last_feature else latest
        contents[latest][0].append(name)

    place("", model)
    return {stage: found for stage, found in contents.items() if any(found)}
