"""A model that runs its own `forward` and is shown in stages, though it is no chain of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fashiontl.core.errors import FashiontlError
from fashiontl.models.network import Layer, Network, resized

# Of modules, and of single parameters.
_Names: TypeAlias = tuple[list[str], list[str]]


class WholeNetwork(Network):
    """A classifier with timm's methods, whose modules and parameters are grouped into stages.

    A stage holds the largest modules that lie in it entirely, and parameters of modules that span several stages, such
    as a class token. A module without parameters belongs to the stage of what was registered before it; behind the last
    numbered stage, to the neck. Modules that span several stages are in none, and so stay in eval mode.

    Args:
        name: of the architecture, for errors.
        model: with `get_classifier`, `forward_features` and `forward_head(features, pre_logits=True)`.
        groups: names of the model's parameters by stage, in order of execution: `stem`, `stage1` ..., `neck`. Wherever
            those of the classifier are, they become the stage `head`.
        image_size: side of the images in pixels.

    Raises:
        FashiontlError: the model's classifier is not one layer, Linear or Conv2d.
    """

    def __init__(self, name: str, model: Any, groups: Mapping[str, Iterable[str]], image_size: int) -> None:
        super(Network, self).__init__()
        self.model = model
        self._head = _classifier(name, model)
        self._image_size = image_size
        self._cuts: tuple[int, ...] | None = None
        # Not submodules, since they hold the model's own modules a second time.
        self._views = {stage: _View(model, *members) for stage, members in _members(model, groups, self._head).items()}

    @property
    def stages(self) -> nn.ModuleDict:  # type: ignore[override] # a chain's are an attribute
        """The stages, each with the modules and parameters that the model has at this moment.

        Names of members have `/` for `.`. A module that is assigned to such a name takes its place in the model.
        """
        for view in self._views.values():
            view.fill()
        return nn.ModuleDict(self._views)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the stages in order of execution; the last is `head`."""
        return tuple(self._views)

    def train(self, mode: bool = True) -> "WholeNetwork":
        """As in `nn.Module`; the stages follow."""
        super().train(mode)
        for view in self._views.values():
            view.training = mode
        return self

    def run(self, inputs: Tensor, start: int, stop: int) -> Tensor:
        """Run the stages from number `start` up to, not including, `stop`; both must be in `cuts`.

        Raises:
            FashiontlError: the model cannot be entered or left there.
        """
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
        """Where `run` can start and stop: at the ends and, if it makes no difference to a bit, before the head."""
        if next(self.parameters()).is_meta:
            return 0, len(self._views)
        if self._cuts is None:
            before_head = (len(self._views) - 1,) if self._same_with_a_cut() else ()
            self._cuts = (0, *before_head, len(self._views))
        return self._cuts

    @property
    def head_layer(self) -> Layer:
        """The classifier's last layer."""
        layer: Layer = self.model.get_submodule(self._head)
        return layer

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
        self._members = tuple(modules), tuple(parameters)

    def fill(self) -> None:
        (model,), (modules, parameters) = self._model, self._members
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


def _classifier(name: str, model: Any) -> str:
    """The name of the model's classifier."""
    classifier = model.get_classifier()
    names: list[str] = [inner for inner, module in model.named_modules() if module is classifier]
    if not names or not isinstance(classifier, Layer):
        raise FashiontlError(
            f"{name}: expected one classifier, a Linear or Conv2d layer, got {type(classifier).__name__}; "
            "choose another model"
        )
    return names[0]


def _members(model: nn.Module, groups: Mapping[str, Iterable[str]], head: str) -> dict[str, _Names]:
    """Names of the modules and single parameters of each stage, in order of execution."""
    stage_of = {model.get_parameter(name): stage for stage, names in groups.items() for name in names}
    stage_of.update(dict.fromkeys(model.get_submodule(head).parameters(), "head"))
    *_, last_feature, _ = groups
    members: dict[str, _Names] = {stage: ([], []) for stage in [*groups, "head"]}
    latest = next(iter(groups))

    def place(name: str, module: nn.Module) -> None:
        nonlocal latest
        stages = {stage_of[parameter] for parameter in module.parameters()}
        if len(stages) > 1 or ("head" in stages and name != head):
            prefix = f"{name}." if name else ""
            for own, parameter in module.named_parameters(recurse=False):
                members[stage_of[parameter]][1].append(prefix + own)
            for child_name, child in module.named_children():
                place(prefix + child_name, child)
            return
        latest = stages.pop() if stages else "neck" if latest == last_feature else latest
        members[latest][0].append(name)

    place("", model)
    return {stage: found for stage, found in members.items() if any(found)}
