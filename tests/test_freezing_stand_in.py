"""A small staged network with everything that freezing has to treat apart, for the tests of `fashiontl.freezing`."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from fashiontl.freezing.lora import prepare
from fashiontl.freezing.policies import Plan

CLASSES = 3


def keeps_statistics() -> bool:
    """Whether InstanceNorm in eval mode leaves its statistics alone: torch 2.6 rounds them at each call."""
    norm = nn.InstanceNorm2d(2, track_running_stats=True).eval()
    mean = nn.init.uniform_(norm.running_mean, 0.5, 1).clone()
    norm(torch.randn(6, 2, 4, 4))
    return torch.equal(norm.running_mean, mean)


TRACKING_NORM = nn.InstanceNorm2d if keeps_statistics() else nn.BatchNorm2d


class StandIn(nn.Module):
    """The interface of `fashiontl.models.network.Network`, on inputs `[n, 2, 4, 4]`."""

    def __init__(self, stages: int = 4, stem: bool = True, neck: bool = True) -> None:
        super().__init__()
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if stem:
            parts["stem"] = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2))
        norms = (
            lambda: nn.BatchNorm2d(2),
            lambda: nn.GroupNorm(1, 2),
            lambda: nn.LayerNorm(4),
            lambda: TRACKING_NORM(2, affine=True, track_running_stats=True),
        )
        for number in range(stages):
            # Two levels deep, because a mode or a flag that is set on children alone passes one level.
            parts[f"stage{number + 1}"] = nn.Sequential(
                OrderedDict(
                    block=nn.Sequential(
                        OrderedDict(
                            conv=nn.Conv2d(2, 2, 3, padding=1),
                            # Without it, normalisation would cancel the convolution's bias, which then never moves.
                            tanh=nn.Tanh(),
                            norm=norms[number % 4](),
                            drop=nn.Dropout(0.5),
                        )
                    )
                )
            )
        if neck:
            parts["neck"] = nn.Sequential(
                OrderedDict(
                    flat=nn.Flatten(),
                    linear=nn.Linear(32, 32),
                    tanh=nn.Tanh(),
                    norm=nn.BatchNorm1d(32),
                    drop=nn.Dropout(0.5),
                )
            )
        parts["head"] = nn.Sequential(OrderedDict(flat=nn.Flatten(), linear=nn.Linear(32, CLASSES)))
        self.stages = nn.ModuleDict(parts)

    @property
    def stage_names(self) -> tuple[str, ...]:
        return tuple(self.stages)

    def run(self, x: Tensor, start: int, stop: int) -> Tensor:
        for stage in list(self.stages.values())[start:stop]:
            x = stage(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, 0, len(self.stages))


def stand_in(stages: int = 4, stem: bool = True, neck: bool = True) -> StandIn:
    torch.manual_seed(0)
    network = StandIn(stages, stem, neck)
    for module in network.modules():
        # Fresh scales of 1, shifts of 0 and statistics of 0 and 1 would hide what changes or ignores them.
        if getattr(module, "running_mean", None) is not None:
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 1, 2)
    for parameter in network.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return network


def prepared(network: StandIn, plan: Plan) -> StandIn:
    """The network with the adapters that the plan needs."""
    prepare(network, plan, torch.zeros(1, 2, 4, 4))
    return network


def loss(network: StandIn) -> Tensor:
    return functional.cross_entropy(network(torch.randn(6, 2, 4, 4)), torch.arange(6) % CLASSES)


def step(network: StandIn, optimizer: torch.optim.Optimizer, *, set_to_none: bool = True) -> None:
    optimizer.zero_grad(set_to_none=set_to_none)
    loss(network).backward()
    optimizer.step()


def state(network: StandIn, plan: Plan, *, frozen: bool) -> dict[str, Tensor]:
    """Copies of all tensors of the stages in which nothing trains, or of the others; named as in `stages`."""
    chosen = {name for name, stage in zip(network.stage_names, plan, strict=True) if (stage.trains == "none") == frozen}
    return {
        name: value.detach().clone()
        for name, value in network.stages.state_dict().items()
        if name.split(".")[0] in chosen
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
