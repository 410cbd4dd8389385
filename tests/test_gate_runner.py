import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from fashiontl.core.case import PRESETS, Case
from fashiontl.core.errors import FashiontlError
from fashiontl.gate.arm import StoppedError
from fashiontl.gate.limits import Limit
from fashiontl.gate.raw import Arm, Failure, Raw, Tree, Trial
from fashiontl.gate.runner import Gate, Order
from fashiontl.runner.client import Outcome
from fashiontl.runner.messages import DeviceFacts, Phase, PhaseResult, Pretraining, Training, VariantSupport

SETTINGS = replace(PRESETS["smoke"], seconds=1.0)
ONE, TWO = Case("resnet18", "full", weights="none"), Case("vgg11", "full", weights="none", batch=7)
TREES: dict[Arm, Tree] = {
    "base": Tree("base", "a" * 40, False, "fashiontl/__init__.py", 2),
    "head": Tree("working tree", "b" * 40, True, "fashiontl/__init__.py", 2),
}
METRICS = ("latency", "inference_throughput", "train_throughput")
INFERENCE = {"parameters": 5, "trainable_parameters": 4, "flops": 3.0, "inference_peak_memory": 100}
STEP = {"training_flops": 9.0, "training_peak_memory": 200}


def measured(values: Mapping[str, float]) -> PhaseResult:
    result = PhaseResult()
    result.measure_all(values)
    return result


class Lab:
    """Two arms that answer at once and note everything in one list; `trouble` is asked before each answer."""

    def __init__(self, trouble: Callable[[str], None] = lambda event: None, **lacks: Mapping[str, str]) -> None:
        self.events: list[str] = []
        self.trouble = trouble
        self.now = 0.0
        self.arms: dict[Arm, FakeArm] = {
            "base": FakeArm("base", self, lacks.get("base", {})),
            "head": FakeArm("head", self, lacks.get("head", {})),
        }

    def note(self, event: str) -> None:
        self.now += 1
        self.events.append(event)
        self.trouble(event)

    def gate(self, order: Order, rule: Any = None, draws: Sequence[Arm] = ("base", "head"), **more: Any) -> Gate:
        drawn = itertools.cycle(draws)
        more = {"rule": rule or until(1), "kernel": self.kernel, "draw": lambda: next(drawn)} | more
        return Gate(self.arms, TREES, order, clock=lambda: self.now, **more)

    def kernel(self) -> float:
        self.note("reference")
        return 0.25


class FakeArm:
    threads = 1
    variables: ClassVar = {"OMP_NUM_THREADS": "1"}

    def __init__(self, name: Arm, lab: Lab, lacks: Mapping[str, str]) -> None:
        self.name = name
        self.lab = lab
        self._lacks = lacks
        self.expanded: list[Case] = []
        self.answers: dict[str, Any] = {
            "inference": measured(INFERENCE), "step": measured(STEP), "device": DeviceFacts(),
            "variant": VariantSupport(),
        }  # fmt: skip

    def lacks(self, cases: Sequence[Case]) -> dict[str, str]:
        return {case.id: self._lacks[case.id] for case in cases if case.id in self._lacks}

    def expand(self, matrix: Mapping[str, Any]) -> list[Case]:
        assert matrix == {"axes": {}}
        return self.expanded

    def run(self, phase: Phase[Any, Any], case: Case, settings: Any, progress: Any, **more: Any) -> Outcome[Any]:
        progress("asked")
        try:
            self.lab.note(f"{self.name} {phase.name} {case.architecture}")
        except StoppedError as error:
            return Outcome(error.kind, error.reason)  # type: ignore[arg-type]
        self.asked = (settings, more)
        return Outcome("ok", "", self.answers[phase.name])

    def ask(self, phase: Phase[Any, Any], job: object) -> Outcome[Any]:
        assert isinstance(job, phase.job)
        return Outcome("ok", "", self.answers[phase.name])

    @contextmanager
    def turns(self, case: Case) -> Iterator["FakeTurns"]:
        self.lab.note(f"{self.name} begins {case.architecture}")
        try:
            yield FakeTurns(self)
        finally:
            self.lab.events.append(f"{self.name} ends {case.architecture}")


class FakeTurns:
    def __init__(self, arm: FakeArm) -> None:
        self._arm = arm
        self._slices = 0

    def warm(self, metric: str) -> bool:
        self._arm.lab.note(f"{self._arm.name} warm {metric}")
        return metric != "latency"

    def slice(self, metric: str) -> tuple[float, bool]:
        self._arm.lab.note(f"{self._arm.name} slice {metric}")
        self._slices += 1
        return (1.0 if self._arm.name == "base" else 2.0) * (1 + self._slices / 1000), self._slices == 1


def until(screen: int, confirm: Mapping[str, int] | None = None) -> Callable[[Sequence[Trial], Limit, int], str]:
    """A rule: so many trials of the screen, and of the confirmation of some metrics."""

    def rule(trials: Sequence[Trial], limit: Limit, budget: int) -> str:
        taken = [trial.stage for trial in trials]
        if taken.count("screen") < min(screen, budget):
            return "screen"
        return "confirm" if taken.count("confirm") < (confirm or {}).get(limit.metric, 0) else "stop"

    return rule


def order(*cases: Case, **more: Any) -> Order:
    return Order(cases or (ONE,), SETTINGS, **more)


def test_a_trial_is_abba_with_the_reference_kernel_after_each_slice() -> None:
    lab = Lab()
    raw = lab.gate(order(), draws=["head", "base", "base"]).measure()
    started = lab.events.index("base begins resnet18")
    turn = ["head slice latency", "reference", "base slice latency", "reference"]
    back = ["base slice latency", "reference", "head slice latency", "reference"]
    assert lab.events[started : started + 4] == [
        "base begins resnet18",
        "head begins resnet18",
        "head warm latency",
        "base warm latency",
    ]
    assert lab.events[started + 4 : started + 52] == [*turn, *back] * 6
    assert lab.events[started + 52 : started + 54] == [
        "base warm inference_throughput",
        "head warm inference_throughput",
    ]
    assert lab.events[-2:] == ["head ends resnet18", "base ends resnet18"]
    (latency, throughput, training) = raw.series
    assert [series.metric for series in raw.series] == list(METRICS)
    assert latency.trials == (
        Trial(
            "screen",
            "head",
            base=tuple(1.0 * (1 + number / 1000) for number in range(1, 13)),
            head=tuple(2.0 * (1 + number / 1000) for number in range(1, 13)),
            reference_base=(0.25,) * 12,
            reference_head=(0.25,) * 12,
        ),
    )
    assert (throughput.trials[0].first, training.trials[0].first) == ("base", "base")
    assert (latency.images, throughput.images) == (1, SETTINGS.throughput_batch)
    assert raw.warnings[-2:] == (
        f"{ONE.id}, latency: not steady after the warm-up in 1 of 1 trials",
        f"{ONE.id}, latency: the machine was throttled in 2 of 24 slices",
    )


def test_rounds_go_over_all_cells_and_suspects_are_confirmed_beside_them() -> None:
    lab = Lab()
    raw = lab.gate(order(ONE, TWO), until(2, {"latency": 1})).measure()
    begins = [event for event in lab.events if event.startswith("base begins")]
    assert begins == ["base begins resnet18", "base begins vgg11"] * 3
    third = [event for event in lab.events[lab.events.index(begins[0]) :] if "warm" in event][24:]
    assert third == ["base warm latency", "head warm latency", "head warm latency", "base warm latency"]
    stages = {(s.cell, s.metric): [trial.stage for trial in s.trials] for s in raw.series}
    for case in (ONE, TWO):
        assert stages[case.id, "latency"] == ["screen", "screen", "confirm"]
        assert stages[case.id, "train_throughput"] == ["screen", "screen"]
    assert {series.images for series in raw.series if series.cell == TWO.id} == {1, 7}


def test_an_order_may_be_limited_to_timed_metrics() -> None:
    lab = Lab()
    raw = lab.gate(order(timed=("train_throughput",)), until(2)).measure()
    assert [series.metric for series in raw.series] == ["train_throughput"]
    assert len(raw.series[0].trials) == 2
    assert raw.counts == ()
    assert {event for event in lab.events if "warm" in event} == {
        "base warm train_throughput",
        "head warm train_throughput",
    }


def test_counts_come_from_as_many_processes_as_the_limits_ask_for() -> None:
    lab = Lab()
    lab.arms["head"].answers["inference"] = measured(
        {"parameters": 6, "trainable_parameters": 4, "inference_peak_memory": 100}
    )
    raw = lab.gate(order(), until(0)).measure()
    turns = [f"{arm} {phase} resnet18" for arm in ("base", "head", "head", "base") for phase in ("inference", "step")]
    assert lab.events == turns * 3
    counts = {found.metric: (found.base, found.head) for found in raw.counts}
    assert counts == {
        "parameters": ((5.0,) * 6, (6.0,) * 6),
        "trainable_parameters": ((4.0,) * 6, (4.0,) * 6),
        "flops": ((3.0,) * 6, ()),
        "inference_peak_memory": ((100.0,) * 6, (100.0,) * 6),
        "training_flops": ((9.0,) * 6, (9.0,) * 6),
        "training_peak_memory": ((200.0,) * 6, (200.0,) * 6),
    }
    settings, _ = lab.arms["head"].asked
    assert (settings.seconds, settings.samples, settings.timeout) == (0.02, 6, SETTINGS.timeout)


def test_cells_of_one_tree_are_listed_and_not_run() -> None:
    new, gone = Case("alexnet", "full", weights="none"), Case("resnet34", "full", weights="none")
    lab = Lab(base={new.id: "unknown architecture"}, head={gone.id: "unknown architecture 'resnet34'"})
    lab.arms["base"].expanded = [gone, ONE]
    raw = lab.gate(order(new, ONE, matrix={"axes": {}})).measure()
    assert (raw.cells, raw.new, raw.removed) == ((new.id, ONE.id), (new.id,), (gone.id,))
    assert raw.failures == (Failure(gone.id, "head", "missing", "unknown architecture 'resnet34'"),)
    assert {series.cell for series in raw.series} == {ONE.id}
    assert not [event for event in lab.events if "alexnet" in event or "resnet34" in event]


def test_a_cell_of_neither_tree_is_bad_input() -> None:
    lab = Lab(base={ONE.id: "no such policy"}, head={ONE.id: "no such policy"})
    with pytest.raises(FashiontlError, match=f"expected cells that one of the trees has, got {ONE.id}: no such policy"):
        lab.gate(order()).measure()


def test_a_device_that_is_absent_is_bad_input() -> None:
    lab = Lab()
    lab.arms["head"].answers["device"] = DeviceFacts("no card")
    with pytest.raises(FashiontlError, match="expected a device that can be used, got cpu: no card; name others"):
        lab.gate(order()).measure()


@pytest.mark.parametrize("kind", ["crashed", "timeout", "oom"])
def test_a_failure_in_a_trial_ends_its_cell_alone(kind: Any) -> None:
    def trouble(event: str) -> None:
        if event == "head slice train_throughput":
            raise StoppedError("head", kind, "it fell over")

    lab = Lab(trouble)
    raw = lab.gate(order(ONE, TWO), until(2)).measure()
    assert raw.failures == tuple(Failure(case.id, "head", kind, "it fell over") for case in (ONE, TWO))
    taken = {(series.cell, series.metric): len(series.trials) for series in raw.series}
    assert taken == {(case.id, metric): 1 for case in (ONE, TWO) for metric in METRICS[:2]}
    assert lab.events.count("head ends resnet18") == 1, "both processes end all the same"


def test_a_failure_in_counting_is_told_of_both_arms() -> None:
    def trouble(event: str) -> None:
        if event.endswith("step resnet18"):
            raise StoppedError("base", "oom", "too large")

    lab = Lab(trouble)
    raw = lab.gate(order(ONE, TWO)).measure()
    assert [(failure.cell, failure.arm, failure.kind) for failure in raw.failures] == [
        (ONE.id, "base", "oom"),
        (ONE.id, "head", "oom"),
    ]
    assert {series.cell for series in raw.series} == {TWO.id}
    (parameters,) = [found for found in raw.counts if (found.cell, found.metric) == (ONE.id, "parameters")]
    assert (parameters.base, parameters.head) == ((5.0,), (5.0,)), "what was counted is kept"


def test_an_interrupt_keeps_what_was_measured() -> None:
    def trouble(event: str) -> None:
        if event and lab.events.count("head begins vgg11") == 2:
            raise KeyboardInterrupt

    lab = Lab(trouble)
    raw = lab.gate(order(ONE, TWO), until(6)).measure()
    taken = {(series.cell, series.metric): len(series.trials) for series in raw.series}
    assert taken == {(case.id, metric): 2 if case == ONE else 1 for case in (ONE, TWO) for metric in METRICS}
    assert any(warning.startswith("interrupted after ") for warning in raw.warnings)
    assert lab.events[-1] == "base ends vgg11"


def test_the_budget_ends_the_gate_and_says_so() -> None:
    # 24 ticks of the fakes' clock go into counting, and 152 into a trial: two begin, and each metric warms up twice
    # and has 24 slices and reference kernels.
    raw = Lab().gate(order(budget=24 + 152 * 2.5), lambda *unused: "screen").measure()
    assert {len(series.trials) for series in raw.series} == {3}, "what has begun is finished"
    assert "the budget of 404 s (--budget) was used up while timing" in raw.warnings
    assert raw.seconds >= raw.budget == 404.0


def test_the_rule_is_told_how_many_trials_there_is_time_for() -> None:
    asked: list[tuple[int, int]] = []

    def rule(trials: Sequence[Trial], limit: Limit, budget: int) -> str:
        assert limit.kind == "timed"
        asked.append((len(trials), budget))
        return "screen" if len(trials) < 3 else "stop"

    Lab().gate(order(budget=24 + 152 * 10.5), rule).measure()
    # In the end it is asked, too, whether it would go on if there were time.
    assert asked == [*[(0, 24)] * 3, *[(1, 10)] * 3, *[(2, 10)] * 3, *[(3, 10), (3, 24)] * 3]


def test_counting_ends_with_the_budget_too() -> None:
    # Two processes of an arm, and so four ticks, are one of the six repeats.
    raw = Lab().gate(order(ONE, TWO, budget=12.0)).measure()
    assert {(found.cell, len(found.base), len(found.head)) for found in raw.counts} == {(ONE.id, 3, 3)}
    assert not raw.series
    assert [warning for warning in raw.warnings if "budget" in warning] == [
        "the budget of 12 s (--budget) was used up while counting",
        "the budget of 12 s (--budget) was used up while timing",
    ]


def trained(images: str = "d" * 64, first: Any = "w0") -> Training:
    return Training(
        provenance={"data": {"sha256": images}, "trained": [first, "w1", "w2", "w3", "w4"]},
        right=["01", "11", "10", "01", "11"],
        answers=["a0", "a1", "a2", "a3", "a4"],
    )


def answering(head: Training, case: Case = ONE) -> tuple[Raw, Lab]:
    lab = Lab()
    lab.arms["base"].answers |= {"train": trained(), "pretrain": Pretraining(checkpoints={"resnet18": "base.pt"})}
    lab.arms["head"].answers |= {"train": head}
    return lab.gate(order(case, accuracy=True), until(0)).measure(), lab


def test_equal_answers_of_one_seed_are_enough() -> None:
    raw, lab = answering(trained())
    (answers,) = raw.answers
    (pair,) = answers.seeds
    assert (pair.seed, pair.weights_base, pair.right_head, pair.answers_head) == (0, "w0", "01", "a0")
    assert lab.events[-2:] == ["base train resnet18", "head train resnet18"]
    assert lab.arms["head"].asked[0].seeds == 1


def test_other_answers_take_five_seeds() -> None:
    raw, lab = answering(trained(first={"a": "x", "b": "y"}))
    (answers,) = raw.answers
    assert [pair.seed for pair in answers.seeds] == [0, 1, 2, 3, 4]
    assert len(answers.seeds[0].weights_head) == 64, "one digest of all members"
    assert answers.seeds[1].weights_head == "w1"
    assert lab.arms["base"].asked[0].seeds == 5


def test_answers_to_other_images_are_not_paired() -> None:
    raw, _ = answering(trained("e" * 64))
    assert raw.answers == ()
    (failure,) = raw.failures
    assert (failure.arm, failure.kind) == ("head", "crashed")
    assert "dddddddddddd, got eeeeeeeeeeee: answers to other images cannot be paired" in failure.reason


def test_both_arms_start_from_the_bases_backbone_and_speed_needs_none() -> None:
    case = Case("resnet18", "full")
    raw, lab = answering(trained(), case)
    assert case.weights == "fashion6"
    assert [event for event in lab.events if "pretrain" in event] == ["base pretrain resnet18"]
    assert lab.arms["head"].asked[1] == {"checkpoints": {"resnet18": "base.pt"}}
    assert (raw.cells, len(raw.answers)) == ((case.id,), 1)
