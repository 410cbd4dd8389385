"""A plan put on a network: what requires gradients, which modules are in training mode, what an optimiser gets."""

from collections.abc import Iterator
from itertools import takewhile
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fashiontl.core.errors import FashiontlError
from fashiontl.freezing.policies import Plan, StagePlan
from fashiontl.models.network import Network

# `_NormBase` is the base of every BatchNorm and InstanceNorm.
NORMALISATION = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def apply(network: Network, plan: Plan) -> None:
    """Set what trains and the mode of every module.

    Call this in place of `network.train()`, which would update frozen BatchNorm statistics and turn on frozen dropout.

    Raises:
        FashiontlError: the plan has another number of stages than the network, a parameter is in no stage or in two,
            or the plan trains adapters and the network has none.
    """
    errors = []
    if len(plan) != len(network.stages):
        errors.append(f"expected a plan of {len(network.stages)} stages ({', '.join(network.stages)}), got {len(plan)}")
    staged = [id(parameter) for stage in network.stages.values() for parameter in stage.parameters()]
    missing = {id(parameter) for parameter in network.parameters()} - set(staged)
    if missing:
        errors.append(f"expected every parameter in a stage, got {len(missing)} in none")
    if len(staged) != len(set(staged)):
        errors.append(f"expected every parameter in one stage, got {len(staged) - len(set(staged))} in two")
    if any(stage.trains == "adapters" for stage in plan) and not has_adapters(network):
        errors.append("expected a network with adapters, got one that fashiontl.freezing.lora.prepare has not seen")
    if errors:
        raise FashiontlError("; ".join(errors) + "; correct the policy's plan or the architecture's stages")
    network.eval()
    for stage, path, module in planned_modules(network, plan):
        module.train(in_training_mode(stage, module))
        for name, parameter in module.named_parameters(prefix=path, recurse=False):
            parameter.requires_grad_(trains(stage, module, name))
            if not parameter.requires_grad:
                # Zeros are not enough: an optimiser that holds the parameter still applies momentum and decay.
                parameter.grad = None


def frozen_prefix(plan: Plan) -> int:
    """How many leading stages compute the same function at every step, so that their outputs can be kept."""
    return sum(1 for _ in takewhile(lambda stage: stage.trains == "none" and stage.normalisation == "eval", plan))


def parameter_groups(network: Network, plan: Plan, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups of what trains, one for each learning rate (`lr` times the stage's scale) and weight decay.

    Weight decay is for parameters with more than one dimension; biases and the scales of normalisation layers get none
    (He et al., "Bag of tricks", CVPR 2019).
    """
    # The inner dictionaries are ordered sets: a module may hold one parameter under two names.
    groups: dict[tuple[float, float], dict[nn.Parameter, None]] = {}
    for stage, path, module in planned_modules(network, plan):
        for name, parameter in module.named_parameters(prefix=path, recurse=False):
            if trains(stage, module, name):
                key = (lr * stage.lr_scale, weight_decay if parameter.ndim > 1 else 0.0)
                groups.setdefault(key, {})[parameter] = None
    return [{"params": list(group), "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]


def planned_modules(network: Network, plan: Plan) -> Iterator[tuple[StagePlan, str, nn.Module]]:
    """Every module of every stage, parents first, with its stage's plan and its name (`stage2.0.conv1`)."""
    for stage, (stage_name, module) in zip(plan, network.stages.items(), strict=True):
        for name, inner in module.named_modules(prefix=stage_name):
            yield stage, name, inner


def has_adapters(network: Network) -> bool:
    """Whether any stage has low-rank adapters."""
    return any(_is_adapter(name) for name, _ in network.stages.named_parameters())


def has_statistics(module: nn.Module) -> bool:
    """Whether a layer keeps running statistics, which training mode updates."""
    return getattr(module, "running_mean", None) is not None


def in_training_mode(stage: StagePlan, module: nn.Module) -> bool:
    """Whether a module of a stage is in training mode."""
    # Dropout is on only where the whole stage trains: it regularises weights, and where those are frozen it is noise.
    return stage.normalisation == "batch" if has_statistics(module) else stage.trains == "all"


def trains(stage: StagePlan, module: nn.Module, name: str) -> bool:
    """Whether a parameter of a module trains; its name is that within the stages: `stage2.0.conv1.weight`."""
    if stage.normalisation == "eval" and has_statistics(module):
        return False
    match stage.trains:
        case "normalisation":
            return isinstance(module, NORMALISATION)
        case "bias":
            own = name.rpartition(".")[2]
            # `in_proj_bias` of attention and `bias_hh` of recurrent layers too.
            return own.startswith("bias") or own.endswith("bias")
        case "adapters":
            return _is_adapter(name)
        case _:
            return stage.trains == "all"


def _is_adapter(name: str) -> bool:
    # The prefix by which peft itself tells its LoRA parameters from a network's own.
    return any(part.startswith("lora_") for part in name.split("."))
