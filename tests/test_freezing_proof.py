"""The proof of policy: it holds for honest training under every policy, and each way of cheating breaks it."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_freezing_stand_in import TRACKING_NORM, StandIn, prepared, stand_in, step
from torch import nn

from fashiontl.freezing import POLICIES, Plan
from fashiontl.freezing.apply import apply, parameter_groups
from fashiontl.freezing.proof import FreezeVerifier, PolicyProof

pytestmark = pytest.mark.usefixtures("one_thread")

EPOCHS = 6


def train(
    network: StandIn, policy: str, epochs: int = EPOCHS, cheat: Callable[[StandIn], None] | None = None
) -> FreezeVerifier:
    """Train as the training loop does: a new span wherever the plan changes."""
    prepared(network, POLICIES[policy].plan(network.stage_names, 0, epochs))
    verifier = FreezeVerifier(network)
    last: Plan | None = None
    for epoch in range(epochs):
        plan = POLICIES[policy].plan(network.stage_names, epoch, epochs)
        if plan != last:
            if last is not None:
                verifier.end()
            apply(network, plan)
            verifier.begin(plan)
            optimizer = torch.optim.SGD(parameter_groups(network, plan, 0.1, 0.1), momentum=0.9)
        last = plan
        if cheat is not None:
            cheat(network)
        step(network, optimizer)
    verifier.end()
    return verifier


def proof_of(policy: str, cheat: Callable[[StandIn], None] | None = None) -> PolicyProof:
    return train(stand_in(), policy, cheat=cheat).result()


# Of the stand-in's 25 parameters and 12 statistics: 3 in the stem (3 statistics), 4 in each stage (3 in the first
# and 3 in the fourth), 4 in the neck (3), 2 in the head. Adapters are 2 beside each of 5 convolutions
# and of the neck's linear layer.
@pytest.mark.parametrize(
    ("policy", "frozen_parameters", "frozen_buffers", "trained_parameters"),
    [
        ("scratch", 0, 0, 25),
        ("linear_probe", 23, 12, 2),
        ("last_stage", 15, 6, 10),
        ("full", 0, 0, 25),
        ("full_frozen_bn", 8, 12, 17),
        ("bn_only", 11, 0, 14),
        ("bias_only", 12, 12, 13),
        ("lp_ft", 23, 12, 25),
        ("gradual_unfreeze", 23, 12, 25),
        ("surgical_1", 19, 9, 6),
        ("progressive_freeze", 15, 6, 25),
        ("lora", 23, 12, 14),
    ],
)
def test_each_tensor_is_counted_once(
    policy: str, frozen_parameters: int, frozen_buffers: int, trained_parameters: int
) -> None:
    assert proof_of(policy) == PolicyProof(True, frozen_parameters, frozen_buffers, trained_parameters, (), ())


def test_a_cheat_that_sets_training_mode_again_is_caught() -> None:
    proof = proof_of("linear_probe", cheat=lambda network: network.train())
    assert not proof.holds
    assert {*proof.violations} == {
        "frozen buffers changed: 3 in stem, first stem.1.running_mean",
        "frozen buffers changed: 3 in stage1, first stage1.block.norm.running_mean",
        # InstanceNorm counts no batches.
        f"frozen buffers changed: {2 if TRACKING_NORM is nn.InstanceNorm2d else 3} in stage4, "
        "first stage4.block.norm.running_mean",
        "frozen buffers changed: 3 in neck, first neck.norm.running_mean",
        "modules should be in eval mode and are not: 3 in stem, first stem",
        "modules should be in eval mode and are not: 6 in stage1, first stage1",
        "modules should be in eval mode and are not: 6 in stage2, first stage2",
        "modules should be in eval mode and are not: 6 in stage3, first stage3",
        "modules should be in eval mode and are not: 6 in stage4, first stage4",
        "modules should be in eval mode and are not: 6 in neck, first neck",
    }


def test_dropout_that_is_on_in_a_frozen_stage_is_caught_though_no_tensor_changes() -> None:
    proof = proof_of("linear_probe", cheat=lambda network: network.stages["stage2"].block.drop.train())
    assert proof.violations == ("modules should be in eval mode and are not: 1 in stage2, first stage2.block.drop",)


@pytest.mark.parametrize("policy", ["linear_probe", "bn_only", "bias_only"])
def test_a_thawed_parameter_is_caught_though_it_requires_gradients(policy: str) -> None:
    network = stand_in()
    weight = network.stages["stage2"].block.conv.weight
    optimizer = torch.optim.SGD([weight], 0.1)

    def cheat(network: StandIn) -> None:  # noqa: ARG001 - the optimiser holds the weight
        weight.requires_grad_(True)
        weight.grad = torch.ones_like(weight)
        optimizer.step()

    proof = train(network, policy, cheat=cheat).result()
    assert proof.violations == ("frozen parameters changed: 1 in stage2, first stage2.block.conv.weight",)


def test_a_violation_in_an_early_span_is_not_forgotten() -> None:
    network = stand_in()
    plan = POLICIES["linear_probe"].plan(network.stage_names, 0, 1)
    later = POLICIES["full"].plan(network.stage_names, 0, 1)
    verifier = FreezeVerifier(network)
    apply(network, plan)
    verifier.begin(plan)
    with torch.no_grad():
        network.stages["stem"][0].weight.add_(1)
        network.stages["head"].linear.weight.add_(1)
    verifier.end()
    apply(network, later)
    verifier.begin(later)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    verifier.end()
    assert verifier.result().violations == ("frozen parameters changed: 1 in stem, first stem.0.weight",)


def test_a_stage_that_should_train_and_did_not_is_a_violation() -> None:
    network = stand_in()
    plan = POLICIES["last_stage"].plan(network.stage_names, 0, 1)
    verifier = FreezeVerifier(network)
    apply(network, plan)
    verifier.begin(plan)
    with torch.no_grad():
        network.stages["head"].linear.weight.add_(1)
        network.stages["neck"].linear.weight.add_(1)
    verifier.end()
    assert verifier.result() == PolicyProof(
        holds=False,
        frozen_parameters=15,
        frozen_buffers=6,
        trained_parameters=2,
        unmoved=(
            *(f"stage4.block.{name}" for name in ("conv.weight", "conv.bias", "norm.weight", "norm.bias")),
            *("neck.linear.bias", "neck.norm.weight", "neck.norm.bias", "head.linear.bias"),
        ),
        violations=("parameters should train and none moved: 4 in stage4, first stage4.block.conv.weight",),
    )


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (0.0, -0.0, False),
        (float("nan"), float("nan"), True),
        (float("inf"), float("inf"), True),
        (1.0, 1.0 + 2**-23, False),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tensors_are_compared_bit_for_bit(before: float, after: float, same: bool, dtype: torch.dtype) -> None:
    network = stand_in().to(dtype)
    weight = network.stages["stem"][0].weight
    plan = POLICIES["linear_probe"].plan(network.stage_names, 0, 1)
    apply(network, plan)
    verifier = FreezeVerifier(network)
    with torch.no_grad():
        weight.fill_(before)
        verifier.begin(plan)
        weight.fill_(after)
        network.stages["head"].linear.weight.add_(1)
    verifier.end()
    assert verifier.result().holds == same


@settings(max_examples=20)
@given(st.sampled_from(sorted(POLICIES)), st.integers(4, 6), st.booleans(), st.booleans(), st.integers(1, 6))
def test_honest_training_is_proven_for_any_number_of_stages_and_epochs(
    policy: str, stages: int, stem: bool, neck: bool, epochs: int
) -> None:
    network = stand_in(stages, stem, neck)
    proof = train(network, policy, epochs).result()
    assert proof.holds, proof.violations
    names = {name for name, _ in network.named_parameters()}
    assert proof.trained_parameters + len(proof.unmoved) <= len(names)
    assert proof.trained_parameters + len(proof.unmoved) + proof.frozen_parameters >= len(names)


def test_a_frozen_tensor_that_is_gone_or_of_another_type_is_caught() -> None:
    network = stand_in()
    plan = POLICIES["linear_probe"].plan(network.stage_names, 0, 1)
    apply(network, plan)
    verifier = FreezeVerifier(network)
    verifier.begin(plan)
    network.stages["stem"][0].weight.data = network.stages["stem"][0].weight.data.double()
    network.stages["stage1"].block.conv = nn.Identity().eval()
    nn.init.zeros_(network.stages["head"].linear.weight)
    verifier.end()
    assert verifier.result().violations == (
        "frozen parameters changed: 1 in stem, first stem.0.weight",
        "frozen parameters changed: 2 in stage1, first stage1.block.conv.weight",
    )
