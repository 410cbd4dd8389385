"""Hybrids of several networks: the mean of their probabilities, or one head on their concatenated features."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fashiontl.core.errors import FashiontlError
from fashiontl.models.network import Network


class MeanOfProbabilities(nn.Module):
    """The mean of networks of the same classes and input size, each trained separately."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        """From images, float `[n, 3, size, size]`, to logarithms of the mean probabilities, `[n, classes]`."""
        return combined([network(images) for network in self.networks])


def combined(logits: Sequence[Tensor]) -> Tensor:
    """Logits `[n, classes]` whose softmax is the mean of several networks' probabilities; one's stay as they are."""
    if len(logits) == 1:
        return logits[0]
    return torch.stack([one.log_softmax(1) for one in logits]).logsumexp(0) - math.log(len(logits))


class JoinedNetwork(Network):
    """One network of several: their stages run side by side, and one head takes their concatenated features.

    Stages are matched from the head backwards, so that `last_stage` means the last stage of each; the longest member's
    stem is `stage1`.

    The members' heads are left out; the new one starts at random from torch's generator.

    Raises:
        FashiontlError: a member does not run in stages.
    """

    def __init__(self, members: Sequence[Network], classes: int) -> None:
        if any(len(member.cuts) <= len(member.stages) for member in members):
            raise FashiontlError(
                "joined: expected members whose stages run one after the other, got a model of timm; use mean:"
            )
        bodies = [
            [list(stage.children()) for name, stage in member.stages.items() if name not in {"neck", "head"}]
            for member in members
        ]
        depth = max(map(len, bodies))
        padded: list[list[list[nn.Module]]] = [[[]] * (depth - len(body)) + body for body in bodies]
        stages: dict[str, Sequence[nn.Module]] = {
            f"stage{number}": [SideBySide([nn.Sequential(*modules) for modules in level])]
            for number, level in enumerate(zip(*padded, strict=True), start=1)
        }
        stages["stage1"] = [Share(len(members)), *stages["stage1"]]
        widths = sum(member.head_layer.weight.shape[1] for member in members)
        stages["neck"] = [SideBySide([nn.Sequential(*_neck(member)) for member in members]), Join()]
        stages["head"] = [nn.Linear(widths, classes, device=members[0].head_layer.weight.device)]
        super().__init__(stages)

    @property
    def cuts(self) -> tuple[int, ...]:
        """Only images and joined features are one tensor; between them there are several."""
        return (0, len(self.stages) - 1, len(self.stages))


class Share(nn.Module):
    """One input for several networks."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Repeat without copying; each member leaves its input as it is."""
        return (images,) * self.count


class SideBySide(nn.Module):
    """One module for each of several inputs."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(modules)

    def forward(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Run each on its own."""
        return tuple(module(value) for module, value in zip(self.members, inputs, strict=True))


class Join(nn.Module):
    """Features `[n, width]` of several networks to `[n, sum of widths]`."""

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """Concatenate."""
        return torch.cat(features, dim=1)


def _neck(network: Network) -> list[nn.Module]:
    modules = list(network.stages["neck"].children()) if "neck" in network.stages else []
    # A convolution as the last layer is averaged over the image after it; joined features are averaged before.
    return modules if isinstance(network.head_layer, nn.Linear) else [*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(1)]
