"""The time left: the committed runs, cell after cell, as if they were measured again."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fashiontl.core.case import PRESETS, Case, Settings
from fashiontl.models.registry import members
from fashiontl.records import Record, read_file
from fashiontl.runner.estimate import Cost, Estimate, Range, Work, cheapest_first, cost, costs, has_backbone

# What `fashiontl.runner.phases.count` says of them at 32 pixels.
WORKS = {name: Work(*values) for name, values in json.loads(Path(__file__).with_name("works.json").read_text()).items()}
RUNS = {
    path.name[:16]: path for path in sorted((Path(__file__).parent.parent / "results" / "runs").glob("*/*.jsonl"))
    if path.read_bytes().count(b"\n") >= 4
}  # fmt: skip
QUICK = PRESETS["quick"]
NOWHERE = Path("nowhere")


def work_of(architecture: str) -> Work:
    works = [WORKS[name] for name in members(architecture) or (architecture,)]
    largest = max(works, key=lambda work: len(work.parameters))
    parameters = dict(largest.parameters)
    for work in works:
        if work is not largest:
            for name, value in zip(reversed(parameters), reversed(list(work.parameters.values())), strict=False):
                parameters[name] += value
    flops, operators = (sum(getattr(work, name) for work in works) for name in ("flops", "operators"))
    return Work(flops, operators, parameters, any(work.normalised for work in works))


@cache
def records(run: str) -> list[Record]:
    found, faults = read_file(RUNS[run])
    assert not faults
    return list(found)


def predicted(run: str) -> dict[str, Cost]:
    """Costs of a run's cells, as they were before it; which backbones were there then, their records say."""
    first = {found.case.architecture: found for found in reversed(records(run)) if "pretraining" in found.provenance}
    made = [found.case for found in first.values() if _was_cached(found.provenance["pretraining"])]
    cases = [found.case for found in records(run)]
    works = {case.id: work_of(case.architecture) for case in cases}
    return costs(cases, records(run)[0].settings, works, NOWHERE, had=made)


def _was_cached(pretraining: dict[str, Any]) -> bool:
    return all(facts["cached"] for facts in pretraining.get("members", {"": pretraining}).values())


def replay(run: str, *, cheap: bool) -> list[tuple[float, Range]]:
    """What was left after each cell but the last, in seconds, and what was predicted then; as shares of all."""
    expected = predicted(run)
    cases = [found.case for found in records(run)]
    took = {found.id: found.values("wall_time")[0] for found in records(run)}
    # Of testing the machine itself, a record's time has nothing.
    machine, left = 3.0, sum(took.values())
    estimate, answers = Estimate(cases, expected), []
    for case in cheapest_first(cases, expected) if cheap else cases:
        estimate.finish(case.id, "ok", machine + took[case.id])
        machine = 0.0
        left -= took[case.id]
        answers.append((left, estimate.left()))
    return answers[:-1]


@pytest.mark.parametrize("run", RUNS)
def test_from_the_third_cell_on_the_whole_time_is_right_within_a_factor_of_1_5(run: str) -> None:
    total = sum(found.values("wall_time")[0] for found in records(run))
    for cheap in (False, True):
        factors = [(total - left + guess.expected) / total for left, guess in replay(run, cheap=cheap)[1:]]
        assert 1 / 1.5 <= min(factors) <= max(factors) <= 1.5, cheap


def test_the_range_holds_what_was_left() -> None:
    answers = [answer for run in RUNS for cheap in (False, True) for answer in replay(run, cheap=cheap)]
    within = [guess.low <= left <= guess.high for left, guess in answers]
    assert len(within) > 200
    assert sum(within) / len(within) > 0.9


def case(architecture: str = "resnet18", policy: str = "full", **fields: Any) -> Case:
    return Case(architecture, policy, **{"weights": "none", **fields})


def seconds(case: Case, *, pretrained: bool = True, **changes: Any) -> float:
    found = cost(case, replace(QUICK, **changes), work_of(case.architecture), pretrained=pretrained)
    return found.fixed + found.work


def test_what_settings_cost() -> None:
    assert seconds(case("vgg11")) > 2 * seconds(case("resnet18"))
    assert (
        seconds(case(), accuracy=False) < seconds(case(), seeds=1) < seconds(case(), seeds=3) < seconds(case(), seeds=5)
    )
    speed = seconds(case(), accuracy=False)
    two, twenty, forty = (seconds(case(), epochs=epochs) for epochs in (2, 20, 40))
    assert (forty - twenty) / (twenty - two) == pytest.approx(20 / 18)
    assert seconds(case(), accuracy=False, sweep=64) > speed
    assert seconds(case(), accuracy=False, profile=False) < speed
    assert seconds(case(), accuracy=False, seconds=4.0) > 4 * speed
    assert seconds(case(execution="compile")) > seconds(case()) + 10
    probe, last, full = (seconds(case(policy=policy), seeds=1) for policy in ("linear_probe", "last_stage", "full"))
    assert probe < last < full
    # It has no layers of normalisation, so that its head alone trains.
    assert seconds(case("vgg11", "bn_only")) < seconds(case("vgg11", "last_stage"))


def test_the_first_case_that_needs_a_backbone_makes_it(tmp_path: Path) -> None:
    cases = [case(policy=policy, weights="fashion6") for policy in ("scratch", "linear_probe", "last_stage", "full")]
    works = {each.id: WORKS["resnet18"] for each in cases}
    found = costs(cases, QUICK, works, tmp_path)
    scratch, probe, last, full = (found[each.id].work for each in cases)
    assert probe > 2 * max(scratch, last, full)
    facts = {
        "source": "fashion6", "architecture": "resnet18", "device": "cpu", "per_class": 250, "epochs": 3,
        "batch_size": 50,
    }  # fmt: skip
    (tmp_path / "fashion6-resnet18-0123.json").write_text(json.dumps({"recipe": facts}))
    (tmp_path / "fashion6-broken.json").write_text("{")
    (tmp_path / "fashion6-other.json").write_text("[1]")
    assert has_backbone(tmp_path, cases[1], QUICK)
    assert not has_backbone(tmp_path, cases[1], replace(QUICK, pretrain_epochs=4))
    several = replace(QUICK, seeds=3, pretrain_seeds=2)
    assert not has_backbone(tmp_path, cases[1], several)
    assert has_backbone(tmp_path, cases[1], replace(several, accuracy=False)), "speed is measured with the first"
    (tmp_path / "fashion6-resnet18-4567.json").write_text(json.dumps({"recipe": facts | {"seed": 1}}))
    assert has_backbone(tmp_path, cases[1], several)
    assert not has_backbone(tmp_path, case("mean:resnet18+vgg11", weights="fashion6"), QUICK)
    assert costs(cases, QUICK, works, tmp_path)[cases[1].id].work < probe / 2


def test_cheap_architectures_come_first_among_those_of_a_device_and_a_task() -> None:
    axes = [(device, task) for device in ("cpu", "cuda") for task in ("fashion4", "fashion10")]
    cases = [
        case(name, policy, device=device, task=task)
        for device, task in axes
        for name in ("vgg11", "resnet18")
        for policy in ("full", "scratch")
    ]
    dear = {"vgg11": Cost(1.0, 9.0), "resnet18": Cost(4.0, 2.0)}
    found = cheapest_first(cases, {each.id: dear[each.architecture] for each in cases})
    assert [(each.device, each.task) for each in found] == [pair for pair in axes for _ in range(4)]
    assert [each.architecture for each in found] == ["resnet18", "resnet18", "vgg11", "vgg11"] * 4


CASES = [case(policy=policy) for policy in ("full", "scratch", "bn_only")]


def estimate(*cases: Case) -> Estimate:
    """Of cases that take 10 s each, and 3 s more for the first."""
    return Estimate(cases, {each.id: Cost(4.0, 6.0) for each in cases})


def test_what_is_left() -> None:
    running = estimate(*CASES)
    assert running.left().expected == pytest.approx(33)
    assert running.left(CASES[0].id, 5.0).expected == pytest.approx(28)
    running.finish(CASES[0].id, "ok", 13.0)
    assert running.left().expected == pytest.approx(20)
    # It takes longer than predicted: the next case's time is still left.
    assert running.left(CASES[1].id, 500.0).expected == pytest.approx(10)
    running.finish(CASES[1].id, "ok", 16.0)
    assert 10 < running.left().expected < 16
    running.finish(CASES[2].id, "crashed", 1.0)
    assert running.left() == Range(0.0, 0.0, 0.0)


def test_a_crash_or_a_skip_says_nothing_of_other_cases_but_an_absent_device_takes_no_time() -> None:
    running = estimate(*CASES)
    running.finish(CASES[0].id, "crashed", 0.1)
    assert running.left().expected == pytest.approx(23)
    absent = [case(policy=policy, device="cuda") for policy in ("full", "scratch")]
    running = estimate(*absent, CASES[0])
    running.finish(absent[0].id, "skipped", 0.01)
    assert running.left().expected == pytest.approx(13)


def test_what_has_no_plan_or_could_not_be_counted_breaks_no_estimate() -> None:
    short = Work(parameters={"stage1": 1.0, "head": 1.0})
    cases = [case(policy="last_3"), case()]
    found = costs(cases, QUICK, {each.id: short for each in cases}, NOWHERE)
    assert found[cases[0].id].work < found[cases[1].id].work
    assert costs([case()], Settings(), {}, NOWHERE)[case().id].work > 0
