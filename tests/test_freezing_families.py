"""Every policy on a network of every family: the invariants that no model may break."""

from functools import cache

import pytest
import torch
from test_freezing_stand_in import one_thread  # noqa: F401 - a fixture
from torch.nn import functional

from fashiontl.architectures import ARCHITECTURES
from fashiontl.architectures.build import build
from fashiontl.architectures.network import Network
from fashiontl.errors import FashiontlError
from fashiontl.freezing import POLICIES, Plan
from fashiontl.freezing.apply import apply, parameter_groups
from fashiontl.freezing.proof import Watch

# The first architecture of each family.
FAMILIES = {entry.family: entry.name for entry in reversed(ARCHITECTURES.values())}
# Small enough to train for a step in a test.
TRAINED = ("densenet121", "mobilenet_v2", "regnet_x_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1")
EPOCHS = 3


@cache
def shape_of(architecture: str) -> Network:
    """A network without numbers: flags, modes and groups need none. Shared, because `apply` sets all of them."""
    with torch.device("meta"):
        return build(architecture, 4, image_size=224)


def plan_of(network: Network, policy: str, epoch: int) -> Plan:
    if policy.startswith("surgical") and policy.replace("surgical_", "stage") not in network.stage_names:
        with pytest.raises(FashiontlError, match="expected a stage called"):
            POLICIES[policy].plan(network.stage_names, epoch, EPOCHS)
        pytest.skip("this family has fewer stages")
    return POLICIES[policy].plan(network.stage_names, epoch, EPOCHS)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("architecture", FAMILIES.values())
def test_flags_modes_and_groups(architecture: str, policy: str) -> None:
    network = shape_of(architecture)
    for plan in dict.fromkeys(plan_of(network, policy, epoch) for epoch in range(EPOCHS)):
        apply(network, plan)
        for stage, modules in zip(plan, network.stages.values(), strict=True):
            flags = [parameter.requires_grad for parameter in modules.parameters()]
            modes = [module.training for module in modules.modules()]
            if stage.trains == "none":
                assert not any(flags + modes)
            elif stage.trains == "all" and stage.normalisation == "batch":
                assert all(flags + modes)
        assert all(parameter.requires_grad for parameter in network.head_layer.parameters())
        held = [id(parameter) for group in parameter_groups(network, plan, 1e-3, 0.1) for parameter in group["params"]]
        assert len(held) == len(set(held))
        assert set(held) == {id(parameter) for parameter in network.parameters() if parameter.requires_grad}


@pytest.mark.parametrize("architecture", ["resnet18", "vit_b_16"])
def test_bias_only_and_bn_only_train_something_in_every_stage_that_has_layers(architecture: str) -> None:
    network = shape_of(architecture)
    for policy in ("bias_only", "bn_only"):
        apply(network, plan_of(network, policy, 0))
        for name, stage in network.stages.items():
            # ViT embeds its patches without normalisation.
            expected = bool(list(stage.parameters())) and (policy, architecture, name) != (
                "bn_only",
                "vit_b_16",
                "stem",
            )
            assert any(parameter.requires_grad for parameter in stage.parameters()) == expected, (policy, name)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", TRAINED)
def test_training_keeps_every_policy(architecture: str) -> None:
    torch.manual_seed(0)
    network = build(architecture, 4, image_size=32)
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    for policy in ("linear_probe", "last_stage", "surgical_1", "full_frozen_bn", "bn_only", "bias_only", "full"):
        plan = plan_of(network, policy, 0)
        watch = Watch(network)
        apply(network, plan)
        watch.begin(plan)
        # Random weights on the statistics of no data explode at rates that are usual elsewhere, and NaN never moves.
        optimizer = torch.optim.SGD(parameter_groups(network, plan, 1e-4, 0.1), momentum=0.9)
        loss = functional.cross_entropy(network(images), labels)
        assert loss.isfinite()
        loss.backward()
        optimizer.step()
        watch.end()
        assert watch.result().holds, (policy, watch.result().violations)
