"""Which cells of a matrix share what is timed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from fashiontl.core.case import PRESETS, Case
from fashiontl.runner.estimate import Work
from fashiontl.runner.subjects import INFERENCE, TRAINING, Subject, subjects_of

STAGES = ("stem", "stage1", "stage2", "stage3", "stage4", "neck", "head")
WORK = Work(1e8, 50.0, dict.fromkeys(STAGES, 1e5), True)
SETTINGS = PRESETS["quick"]


def subjects(*cases: Case, work: Work | None = WORK, settings: Any = SETTINGS) -> list[Subject]:
    return subjects_of(cases, settings, lambda case: work)


def cells(found: Sequence[Subject], metrics: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Ids of the cells of each subject with these metrics."""
    return [each.cells for each in found if each.metrics == metrics]


def ids(*cases: Case) -> tuple[str, ...]:
    return tuple(case.id for case in cases)


FULL, SCRATCH = Case("resnet18", "full"), Case("resnet18", "scratch")
PROBE = Case("resnet18", "linear_probe")
DISCRIMINATIVE = Case("resnet18", "discriminative")


def test_inference_is_shared_by_all_policies_and_a_step_by_those_that_train_the_same() -> None:
    every = [SCRATCH, PROBE, FULL, DISCRIMINATIVE, Case("resnet18", "lora"), Case("resnet18", "bn_only")]
    found = subjects(*every)
    assert cells(found, INFERENCE) == [ids(*every)]
    assert cells(found, TRAINING) == [ids(SCRATCH, FULL, DISCRIMINATIVE), *(ids(every[i]) for i in (1, 4, 5))]
    assert all(each.case.weights == "none" for each in found), "weights that would have to be trained first"
    assert found[0].case == replace(FULL, weights="none")
    assert [each.case.policy for each in found[1:]] == ["scratch", "linear_probe", "lora", "bn_only"]
    assert len({each.key for each in found}) == len(found)


def test_policies_that_change_on_the_way_are_steps_of_their_own() -> None:
    every = [FULL, *(Case("resnet18", policy) for policy in ("gradual_unfreeze", "lp_ft"))]
    assert len(cells(subjects(*every), TRAINING)) == 3
    # Gradual unfreezing that has one epoch trains the head alone, in it.
    once = subjects(PROBE, every[1], settings=replace(SETTINGS, epochs=1))
    assert cells(once, TRAINING) == [ids(PROBE, every[1])]


def test_subjects_come_in_the_order_in_which_they_are_needed() -> None:
    other = Case("vgg11", "full")
    found = subjects(FULL, other, PROBE)
    assert [(each.case.architecture, each.metrics) for each in found] == [
        ("resnet18", INFERENCE), ("resnet18", TRAINING), ("vgg11", INFERENCE), ("vgg11", TRAINING),
        ("resnet18", TRAINING),
    ]  # fmt: skip


@pytest.mark.parametrize("weights", ["imagenet", "IMAGENET1K_V2", "mine.pt"])
def test_weights_of_a_file_are_apart_from_a_random_start(weights: str) -> None:
    own = replace(FULL, weights=weights)
    found = subjects(FULL, own, replace(PROBE, weights=weights))
    assert cells(found, INFERENCE) == [ids(FULL), ids(own, replace(PROBE, weights=weights))]
    assert cells(found, TRAINING) == [ids(FULL), ids(own), ids(replace(PROBE, weights=weights))]
    assert found[2].case.weights == weights


@pytest.mark.parametrize(
    "variant",
    [
        {"precision": "bf16"},
        {"memory_format": "channels_last"},
        {"execution": "compile"},
        {"image_size": 64},
        {"batch": 8},
        {"device": "cuda"},
        {"task": "fashion10"},
    ],
)
def test_what_runs_in_another_way_is_apart(variant: dict[str, Any]) -> None:
    own = replace(FULL, **variant)
    found = subjects(FULL, own)
    assert [each.cells for each in found] == [ids(FULL)] * 2 + [ids(own)] * 2


def test_a_hybrid_and_what_could_not_be_counted_share_no_step() -> None:
    hybrids = [Case("mean:resnet18+vgg11", policy) for policy in ("scratch", "full", "discriminative")]
    for found in (subjects(*hybrids), subjects(SCRATCH, FULL, DISCRIMINATIVE, work=None)):
        assert [len(each) for each in cells(found, INFERENCE)] == [3]
        assert [len(each) for each in cells(found, TRAINING)] == [1, 1, 1]


def test_a_policy_without_a_plan_for_a_network_is_apart() -> None:
    # There are no three stages before the head, and none is called stage4.
    bare = Work(1e8, 50.0, dict.fromkeys(("stem", "stage1", "head"), 1e5), False)
    last = [Case("resnet18", policy) for policy in ("last_3", "surgical_4")]
    assert len(cells(subjects(FULL, *last, work=bare), TRAINING)) == 3


def test_keys_are_the_same_in_each_run() -> None:
    first, second = (subjects(FULL, PROBE) for _ in range(2))
    assert [each.key for each in first] == [each.key for each in second]
    assert first[0].key == "resnet18-full-cpu-none: inference"
    # The optimiser's arithmetic is another.
    naive = subjects(FULL, settings=replace(SETTINGS, recipe="naive_sgd"))
    assert naive[1].key != first[1].key
    # What a learning rate is changes no time.
    assert subjects(FULL, settings=replace(SETTINGS, lr=0.5))[1].key == first[1].key
