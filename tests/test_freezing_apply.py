"""Plans put on a network: flags, modes, optimiser groups, and the traps of freezing by hand."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_freezing_stand_in import StandIn, prepared, same, stand_in, state, step
from torch import nn

from fashiontl.core.errors import FashiontlError
from fashiontl.freezing import POLICIES, Plan, StagePlan
from fashiontl.freezing.apply import apply, frozen_prefix, parameter_groups

pytestmark = pytest.mark.usefixtures("one_thread")

FROZEN = StagePlan("none", "eval", 0.0)
ALL = StagePlan("all", "batch", 1.0)


def plan_of(network: StandIn, policy: str, epoch: int = 0, epochs: int = 8) -> Plan:
    return POLICIES[policy].plan(network.stage_names, epoch, epochs)


def applied(policy: str, epoch: int = 0) -> tuple[StandIn, Plan]:
    network = stand_in()
    plan = plan_of(network, policy, epoch)
    apply(prepared(network, plan), plan)
    return network, plan


def training_parameters(network: StandIn) -> list[str]:
    return [name for name, parameter in network.stages.named_parameters() if parameter.requires_grad]


def awake(network: StandIn) -> list[str]:
    """Modules without children that are in training mode."""
    return [name for name, module in network.stages.named_modules() if module.training and not list(module.children())]


HEAD = ["head.linear.weight", "head.linear.bias"]
NECK = ["neck.linear.weight", "neck.linear.bias", "neck.norm.weight", "neck.norm.bias"]
STAGE_1 = [f"stage1.block.{name}" for name in ("conv.weight", "conv.bias", "norm.weight", "norm.bias")]
STAGE_4 = [name.replace("stage1", "stage4") for name in STAGE_1]
EVERYTHING = [name for name, _ in stand_in().stages.named_parameters()]
ADAPTERS = [
    f"{layer}.lora_{half}.default.weight"
    for layer in ("stem.0", *(f"stage{number}.block.conv" for number in (1, 2, 3, 4)), "neck.linear")
    for half in "AB"
]
STATISTICS = ["stem.1", "stage1.block.norm", "stage4.block.norm", "neck.norm"]


@pytest.mark.parametrize(
    ("policy", "epoch", "names"),
    [
        ("scratch", 0, EVERYTHING),
        ("linear_probe", 0, HEAD),
        ("last_stage", 0, STAGE_4 + NECK + HEAD),
        ("full", 0, EVERYTHING),
        (
            "full_frozen_bn",
            0,
            [name for name in EVERYTHING if not name.startswith(tuple(f"{norm}." for norm in STATISTICS))],
        ),
        ("bn_only", 0, [name for name in EVERYTHING if "norm" in name or name.startswith(("stem.1", "head"))]),
        ("bias_only", 0, [name for name in EVERYTHING if name.endswith("bias") or name.startswith("head")]),
        ("lp_ft", 0, HEAD),
        ("lp_ft", 4, EVERYTHING),
        ("gradual_unfreeze", 1, STAGE_4 + NECK + HEAD),
        ("discriminative", 0, EVERYTHING),
        ("surgical_1", 0, STAGE_1 + HEAD),
        ("progressive_freeze", 7, STAGE_4 + NECK + HEAD),
        ("lora", 0, ADAPTERS + HEAD),
    ],
)
def test_what_requires_gradients(policy: str, epoch: int, names: list[str]) -> None:
    network, _ = applied(policy, epoch)
    assert training_parameters(network) == names


@pytest.mark.parametrize("before", ["train", "eval"])
@pytest.mark.parametrize("policy", POLICIES)
def test_applying_again_undoes_train_and_eval(policy: str, before: str) -> None:
    network, plan = applied(policy)
    flags, modes = training_parameters(network), awake(network)
    getattr(network, before)()
    network.requires_grad_(before == "train")
    apply(network, plan)
    assert (training_parameters(network), awake(network)) == (flags, modes)


# Traps: each of these passes with the guard in `apply` or `parameter_groups`, and fails without it.


@pytest.mark.parametrize("policy", ["linear_probe", "last_stage", "bias_only", "full_frozen_bn", "lora"])
def test_statistics_of_frozen_batchnorm_do_not_drift_while_the_head_trains(policy: str) -> None:
    network, plan = applied(policy)
    frozen = [norm for norm in STATISTICS if norm not in awake(network)]
    before = {name: value.clone() for name, value in network.stages.named_buffers()}
    optimizer = torch.optim.SGD(parameter_groups(network, plan, 0.1, 0.01), momentum=0.9)
    for _ in range(3):
        step(network, optimizer)
    after = dict(network.stages.named_buffers())
    assert len(frozen) >= 2
    for norm in frozen:
        for statistic in ("running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(before[f"{norm}.{statistic}"], after[f"{norm}.{statistic}"])


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("optimizer_type", [torch.optim.SGD, torch.optim.AdamW])
def test_what_is_frozen_in_mid_training_stays_even_in_an_optimizer_that_still_holds_it(
    optimizer_type: type[torch.optim.Optimizer], set_to_none: bool
) -> None:
    network, full = applied("full")
    groups = parameter_groups(network, full, 0.1, 0.1)
    options = {"momentum": 0.9} if optimizer_type is torch.optim.SGD else {}
    optimizer = optimizer_type(groups, **options)  # type: ignore[arg-type]
    step(network, optimizer)
    probe = plan_of(network, "last_stage")
    apply(network, probe)
    frozen, training = state(network, probe, frozen=True), state(network, probe, frozen=False)
    for _ in range(2):
        step(network, optimizer, set_to_none=set_to_none)
    assert same(frozen, state(network, probe, frozen=True))
    assert not same(training, state(network, probe, frozen=False))


def test_rates_and_decay_of_each_group() -> None:
    network, plan = applied("full")
    names = {id(parameter): name for name, parameter in network.stages.named_parameters()}
    groups = [
        ([names[id(parameter)] for parameter in group["params"]], group["lr"], group["weight_decay"])
        for group in parameter_groups(network, plan, 1e-3, 0.05)
    ]
    body = [name for name in EVERYTHING if not name.startswith("head")]
    several = [name for name in body if name.endswith(("conv.weight", "linear.weight", "stem.0.weight"))]
    # LayerNorm over one dimension, BatchNorm and biases all have one dimension.
    assert groups == [
        (several, 1e-3 * 0.3, 0.05),
        ([name for name in body if name not in several], 1e-3 * 0.3, 0.0),
        (["head.linear.weight"], 1e-3, 0.05),
        (["head.linear.bias"], 1e-3, 0.0),
    ]


def test_biases_of_attention_and_recurrent_layers_are_biases() -> None:
    network = stand_in()
    network.stages["stage1"].add_module("attention", nn.MultiheadAttention(2, 1))
    network.stages["stage1"].add_module("recurrent", nn.GRU(2, 2))
    apply(network, plan_of(network, "bias_only"))
    names = [name for name in training_parameters(network) if name.startswith(("stage1.attention", "stage1.recurrent"))]
    assert names == [
        "stage1.attention.in_proj_bias",
        "stage1.attention.out_proj.bias",
        "stage1.recurrent.bias_ih_l0",
        "stage1.recurrent.bias_hh_l0",
    ]


@given(st.lists(st.booleans(), min_size=1, max_size=9))
def test_a_frozen_prefix_ends_before_the_first_stage_that_trains(trained: list[bool]) -> None:
    plan = tuple(ALL if all_ else FROZEN for all_ in trained)
    assert frozen_prefix(plan) == (trained.index(True) if True in trained else len(trained))


def test_a_plan_that_does_not_fit_names_all_faults() -> None:
    network = stand_in(stages=1, stem=False, neck=False)
    network.extra = nn.Linear(1, 1)
    network.stages["head"].add_module("tied", network.stages["stage1"].block.conv)
    message = (
        "expected a plan of 2 stages (stage1, head), got 1; expected every parameter in a stage, got 2 in none; "
        "expected every parameter in one stage, got 2 in two; "
        "correct the policy's plan or the architecture's stages"
    )
    with pytest.raises(FashiontlError, match=f"^{re.escape(message)}$"):
        apply(network, (ALL,))


def test_a_plan_of_adapters_needs_a_network_that_has_some() -> None:
    network = stand_in()
    message = (
        "expected a network with adapters, got one that fashiontl.freezing.lora.prepare has not seen; "
        "correct the policy's plan or the architecture's stages"
    )
    with pytest.raises(FashiontlError, match=f"^{re.escape(message)}$"):
        apply(network, plan_of(network, "lora"))
