"""The table of policies, as pure functions."""

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashiontl.core.errors import FashiontlError, SkippedError
from fashiontl.freezing import POLICIES, Plan, StagePlan, unavailable_reason

NAMES = ("stem", "stage1", "stage2", "stage3", "stage4", "neck", "head")
FROZEN = StagePlan("none", "eval", 0.0)
HEAD = StagePlan("all", "batch", 1.0)
BACKBONE = StagePlan("all", "batch", 0.3)


@st.composite
def stage_names(draw: st.DrawFn, least: int = 4) -> tuple[str, ...]:
    stages = [f"stage{number + 1}" for number in range(draw(st.integers(least, 12)))]
    return (*["stem"] * draw(st.booleans()), *stages, *["neck"] * draw(st.booleans()), "head")


policies = st.sampled_from(sorted(POLICIES))
all_epochs = st.integers(1, 20)


def plans(policy: str, names: tuple[str, ...], epochs: int) -> list[Plan]:
    return [POLICIES[policy].plan(names, epoch, epochs) for epoch in range(epochs)]


def frozen(plan: Plan) -> list[bool]:
    return [stage.trains == "none" for stage in plan]


def test_every_policy_has_its_plans_in_this_file() -> None:
    changing = {"lp_ft", "gradual_unfreeze", "progressive_freeze"}
    assert set(POLICIES) == CONSTANT.keys() | changing, "add the new policy's plan to CONSTANT, or a test of its epochs"
    assert all(policy.name == name for name, policy in POLICIES.items())
    assert [name for name, policy in POLICIES.items() if not policy.needs_weights] == ["scratch"]
    assert all(policy.source for policy in POLICIES.values())
    assert len({policy.title for policy in POLICIES.values()}) == len(POLICIES)


CONSTANT = {
    "scratch": (HEAD,) * 7,
    "linear_probe": (*(FROZEN,) * 6, HEAD),
    "last_stage": (*(FROZEN,) * 4, HEAD, HEAD, HEAD),
    "last_2": (*(FROZEN,) * 3, HEAD, HEAD, HEAD, HEAD),
    "last_3": (FROZEN, FROZEN, HEAD, HEAD, HEAD, HEAD, HEAD),
    "full": (*(BACKBONE,) * 6, HEAD),
    "full_frozen_bn": (*(StagePlan("all", "eval", 0.3),) * 6, HEAD),
    "bn_only": (*(StagePlan("normalisation", "batch", 1.0),) * 6, HEAD),
    "bias_only": (*(StagePlan("bias", "affine_eval", 1.0),) * 6, HEAD),
    "lora": (*(StagePlan("adapters", "eval", 1.0),) * 6, HEAD),
    "discriminative": tuple(StagePlan("all", "batch", 0.75**depth) for depth in (5, 4, 3, 2, 1, 1, 0)),
    "surgical_1": (FROZEN, HEAD, FROZEN, FROZEN, FROZEN, FROZEN, HEAD),
    "surgical_2": (FROZEN, FROZEN, HEAD, FROZEN, FROZEN, FROZEN, HEAD),
    "surgical_3": (FROZEN, FROZEN, FROZEN, HEAD, FROZEN, FROZEN, HEAD),
    "surgical_4": (FROZEN, FROZEN, FROZEN, FROZEN, HEAD, HEAD, HEAD),
}


@pytest.mark.parametrize("policy", CONSTANT)
def test_a_policy_that_is_the_same_at_every_epoch(policy: str) -> None:
    assert plans(policy, NAMES, 3) == [CONSTANT[policy]] * 3


def test_lp_ft_probes_half_of_the_epochs_and_then_trains_all_at_one_lower_rate() -> None:
    probe, then = CONSTANT["linear_probe"], (BACKBONE,) * 7
    assert plans("lp_ft", NAMES, 5) == [probe, probe, then, then, then]
    assert plans("lp_ft", NAMES, 1) == [probe]


def test_gradual_unfreeze_thaws_one_stage_an_epoch_and_the_neck_with_the_last() -> None:
    kept = plans("gradual_unfreeze", NAMES, 7)
    assert [frozen(plan).count(True) for plan in kept] == [6, 4, 3, 2, 1, 0, 0]
    assert kept[0] == CONSTANT["linear_probe"]
    assert kept[2][3] == StagePlan("all", "batch", 0.75**2)
    assert kept[5] == kept[6] == CONSTANT["discriminative"]


def test_progressive_freeze_starts_full_and_ends_with_one_stage_and_the_head() -> None:
    kept = plans("progressive_freeze", NAMES, 5)
    assert [frozen(plan).count(True) for plan in kept] == [0, 1, 2, 3, 4]
    assert kept[0] == CONSTANT["full"]
    assert kept[4] == (*(FROZEN,) * 4, BACKBONE, BACKBONE, HEAD)


@given(policies, stage_names(), all_epochs)
def test_every_plan_has_a_stage_plan_for_each_stage_and_its_head_trains(
    policy: str, names: tuple[str, ...], epochs: int
) -> None:
    for plan in plans(policy, names, epochs):
        assert len(plan) == len(names)
        assert plan[-1].trains == "all"
        assert plan[-1].lr_scale == max(stage.lr_scale for stage in plan)
        assert all(stage.lr_scale >= 0 for stage in plan)
        assert all((stage.lr_scale == 0) == (stage.trains == "none") for stage in plan)
    assert plans(policy, names, epochs) == plans(policy, names, epochs), "not a pure function"


def test_a_network_that_lacks_a_stage_is_skipped_and_none_takes_its_place() -> None:
    names = ("stem", "stage1", "head")
    message = "expected at least 3 stages before the head, got 2 (stem, stage1, head); use full"
    with pytest.raises(SkippedError, match=f"^{re.escape(message)}$"):
        POLICIES["last_3"].plan(names, 0, 1)
    message = "expected a stage called stage4, got stem, stage1, head; choose a surgical policy of those"
    with pytest.raises(SkippedError, match=f"^{re.escape(message)}$"):
        POLICIES["surgical_4"].plan(names, 0, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            ("some", "train", 1.0),
            "stage plan: trains: expected one of none, all, normalisation, bias, adapters, got 'some'; "
            "normalisation: expected one of eval, affine_eval, batch, got 'train'",
        ),
        (("none", "eval", 0.1), "stage plan: lr_scale: expected 0 where nothing trains, got 0.1"),
        (
            ("all", "eval", 0.0),
            "stage plan: lr_scale: expected a finite number above 0 where something trains, got 0.0",
        ),
        (
            ("all", "eval", float("nan")),
            "stage plan: lr_scale: expected a finite number above 0 where something trains, got nan",
        ),
        (
            ("normalisation", "eval", -1.0),
            "stage plan: lr_scale: expected a finite number above 0 where something trains, got -1.0; "
            "normalisation: expected affine_eval or batch where normalisation trains, got 'eval'",
        ),
    ],
)
def test_a_stage_plan_that_makes_no_sense_names_all_faults(fields: tuple[str, str, float], message: str) -> None:
    with pytest.raises(FashiontlError, match=f"^{re.escape(message)}$"):
        StagePlan(*fields)  # type: ignore[arg-type]


def test_what_trains_adapters_says_that_it_needs_their_library() -> None:
    names = ("stem", "stage1", "stage2", "stage3", "stage4", "neck", "head")
    plans = {name: [policy.plan(names, epoch, 4) for epoch in range(4)] for name, policy in POLICIES.items()}
    adapting = {
        name for name, each in plans.items() if any(stage.trains == "adapters" for plan in each for stage in plan)
    }
    assert {name for name, policy in POLICIES.items() if policy.library == "peft"} == adapting


def test_a_library_is_absent_whatever_stands_in_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unavailable_reason("") is None
    assert unavailable_reason("torch") is None
    assert unavailable_reason("no_such_library") == "needs the library no_such_library; pip install no_such_library"
    monkeypatch.setitem(sys.modules, "peft", None)
    assert unavailable_reason("peft") == "needs the library peft; pip install 'fashiontl[lora]'"
