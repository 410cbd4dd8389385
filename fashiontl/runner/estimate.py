"""How long cases take: predicted from their arithmetic and settings, and corrected by those that were measured. Pure.

The constants lie between the two-core CPUs of the committed runs. How much faster or slower a machine is, is a factor
that is learned as cases finish.
"""

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fashiontl.core.case import Case, Settings
from fashiontl.data import find_task
from fashiontl.freezing import POLICIES
from fashiontl.matrix.options import SOURCE_TASKS
from fashiontl.models.registry import members
from fashiontl.timing.sweep import CPU_LARGEST

# FLOP/s of a case's arithmetic and bytes/s of its weights, by whether it runs on the CPU.
_FLOPS = {True: 1.4e11, False: 1e13}
_BYTES = {True: 1.8e10, False: 5e11}
# Seconds an operator takes whatever its size: of a forward pass, of it for each image, and of a backward pass.
_OPERATOR, _OPERATOR_IMAGE, _OPERATOR_BACK = 2.2e-5, {True: 1.4e-6, False: 1e-8}, 3.5e-4
# How often a step's backward pass and update read or write each weight, against once forwards.
_WEIGHT_PASSES = 8
# The first case tests the machine; each phase is a process that builds its network and loads data.
_START, _PHASE = 3.0, 0.3
# Of what is timed: slices of a process, what one takes beyond its call, and what a process takes before, in seconds and
# calls.
_SLICES, _SLICE, _WARM_UP, _WARM_CALLS = 8, 0.08, 1.0, 4
# Of a loop of the sweep: how many time budgets it takes with its warm-up, and the fewest calls.
_BUDGETS, _CALLS = 1.3, 12
# Of a profile: steps, and seconds an operator in reading its events.
_PROFILED, _EVENTS = 3, 3e-3
# Of torch.compile, in each phase that runs compiled code: seconds, and for each operator.
_COMPILE, _COMPILE_OPERATOR = 10.0, 0.1
_TEST_BATCH = 200
# What `fashiontl.training.recipes` gives a probe more of.
_PROBE = 8
# Images a class where settings take all, by where they come from; of images of one's own nobody knows.
_TRAINING = {"embedded": 600, "original": 6000}
_TESTING = {"embedded": 200, "original": 1000}

_STAGES = ("stem", "stage1", "stage2", "stage3", "stage4", "neck", "head")

# A remaining case is likely to take between its prediction divided and multiplied by this: where cases of its network
# have finished, where only others have, and where none has.
_WIDE = (1.2, 1.5, 3.0)
_LEAST_FACTOR = 1e-2
# Of what is predicted for the cases that have not begun, when the one that runs has taken much longer than predicted.
_LEAST_LEFT = 0.2


@dataclass(frozen=True)
class Work:
    """What one image's forward pass computes; the defaults are a guess for a network that could not be counted.

    Attributes:
        parameters: of each stage, in the stages' order.
        normalised: whether there are normalisation layers for policies to train.
    """

    flops: float = 1e8
    operators: float = 150
    parameters: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(_STAGES, 1.5e6))
    normalised: bool = True


@dataclass(frozen=True)
class Cost:
    """Predicted seconds: of time budgets and processes, which any machine takes, and of arithmetic."""

    fixed: float
    work: float


# Of a case that will fail at once.
_FAILURE = Cost(_PHASE, _PHASE)


@dataclass(frozen=True)
class _Backward:
    """What a plan does, as shares of all: stages that the backward pass reaches, that train, and their parameters."""

    reached: float = 1.0
    trained: float = 1.0
    parameters: float = 1.0


@dataclass(frozen=True)
class _Pace:
    """Seconds of a network on the reference machine."""

    work: Work
    is_cpu: bool

    def forward(self, images: int, share: float = 1.0) -> float:
        """A forward pass of a share of the network."""
        each = _OPERATOR + images * _OPERATOR_IMAGE[self.is_cpu]
        arithmetic = images * self.work.flops / _FLOPS[self.is_cpu]
        return share * (arithmetic + self.work.operators * each + self._weights)

    def backward(self, images: int, what: "_Backward") -> float:
        """The backward pass and the update."""
        arithmetic = 2 * images * self.work.flops / _FLOPS[self.is_cpu]
        layers = (what.reached + what.trained) / 2 * (arithmetic + self.work.operators * _OPERATOR_BACK)
        return layers + _WEIGHT_PASSES * what.parameters * self._weights

    def step(self, images: int, what: "_Backward") -> float:
        """A training step."""
        return self.forward(images) + self.backward(images, what)

    @property
    def _weights(self) -> float:
        return 4 * sum(self.work.parameters.values()) / _BYTES[self.is_cpu]


def cost(case: Case, settings: Settings, work: Work, *, pretrained: bool) -> Cost:
    """Predict a case; `pretrained` says whether the backbone that it starts from is there, or another case makes it."""
    is_cpu = case.device == "cpu"
    pace, classes = _Pace(work, is_cpu), len(find_task(case.task).class_names)
    phases, seconds = 0, 0.0
    if case.weights in SOURCE_TASKS:
        phases += 1
        seconds += 0.0 if pretrained else _pretraining(case, settings, pace)
    if settings.accuracy:
        phases += 1
        seconds += settings.seeds * _training(case, settings, pace, classes)
    batch = case.batch or settings.throughput_batch
    # Each group of epochs with one plan is timed.
    periods = list(dict.fromkeys(_plan(case, work, epoch, settings.epochs) for epoch in range(settings.epochs)))
    # Inference is shared by all policies of a network, which nobody knows here, and so are some steps.
    calls = [pace.forward(1), pace.forward(batch), *(pace.step(batch, period) for period in periods)]
    slices = _SLICES * settings.processes
    fixed = slices * len(calls) * _SLICE + settings.processes * _WARM_UP
    seconds += sum((slices + _WARM_CALLS * settings.processes) * call for call in calls)
    phases += 2
    if settings.sweep:
        phases += 1
        largest = min(settings.sweep, CPU_LARGEST) if is_cpu else settings.sweep
        sizes = [2**power for power in range(int(math.log2(largest)) + 1)]
        fixed += 2 * len(sizes) * _BUDGETS * 0.2 * settings.seconds
        seconds += _CALLS * sum(pace.forward(size) + pace.step(size, periods[-1]) for size in sizes)
    if settings.profile:
        phases += 1
        seconds += _PROFILED * pace.step(batch, periods[0]) + _EVENTS * work.operators
    if case.execution != "eager":
        seconds += (2 + bool(settings.sweep)) * (_COMPILE + _COMPILE_OPERATOR * work.operators)
    return Cost(fixed + _PHASE * phases, seconds)


def _pretraining(case: Case, settings: Settings, pace: _Pace) -> float:
    classes = len(find_task(SOURCE_TASKS[case.weights]).class_names)
    images = classes * (settings.pretrain_per_class or _TRAINING[settings.data])
    batch = settings.pretrain_batch_size
    steps = settings.pretrain_epochs * math.ceil(images / batch)
    return settings.backbones * (steps * pace.step(batch, _Backward()) + _testing(classes, settings, pace))


def _training(case: Case, settings: Settings, pace: _Pace, classes: int) -> float:
    """Training with one seed, and its test; what comes before the first stage that trains is computed once."""
    images = classes * (find_task(case.task).per_class or settings.train_per_class or _TRAINING[settings.data])
    batch = settings.batch_size
    epochs = settings.epochs * (_PROBE if case.policy == "linear_probe" else 1)
    plans = [_plan(case, pace.work, epoch * settings.epochs // epochs, settings.epochs) for epoch in range(epochs)]
    run = 1.0 if settings.augment else max(plan.reached for plan in plans)
    seconds = pace.forward(images, 1 - run)
    seconds += math.ceil(images / batch) * sum(pace.forward(batch, run) + pace.backward(batch, plan) for plan in plans)
    validation = settings.validation_per_class * classes
    return seconds + epochs * pace.forward(validation) * bool(validation) + _testing(classes, settings, pace)


def _testing(classes: int, settings: Settings, pace: _Pace) -> float:
    images = classes * (settings.test_per_class or _TESTING[settings.data])
    return math.ceil(images / _TEST_BATCH) * pace.forward(min(images, _TEST_BATCH))


def _plan(case: Case, work: Work, epoch: int, epochs: int) -> _Backward:
    plan = POLICIES[case.policy].plan(tuple(work.parameters), epoch, epochs)
    trains = [stage.trains != "none" and (work.normalised or stage.trains != "normalisation") for stage in plan]
    whole = [stage.trains == "all" for stage in plan]
    parameters = list(work.parameters.values())
    return _Backward(
        (len(plan) - trains.index(True)) / len(plan) if any(trains) else 0.0,
        sum(whole) / len(plan),
        sum(itertools.compress(parameters, whole)) / sum(parameters),
    )


def has_backbone(cache: Path, case: Case, settings: Settings) -> bool:
    """Whether the backbones that a case starts from seem to be in the cache, by the facts that are kept beside each."""
    wanted = {
        "source": case.weights, "device": case.device.partition(":")[0], "per_class": settings.pretrain_per_class,
        "epochs": settings.pretrain_epochs, "batch_size": settings.pretrain_batch_size,
    }  # fmt: skip
    found = set()
    for path in cache.glob(f"{case.weights}-*.json"):
        try:
            recipe = json.loads(path.read_text())["recipe"]
            if {name: recipe[name] for name in wanted} == wanted:
                found.add((recipe["architecture"], recipe.get("seed", 0)))
        except (OSError, ValueError, LookupError, TypeError):
            continue
    names = members(case.architecture) or (case.architecture,)
    return found >= {(name, seed) for name in names for seed in range(settings.backbones)}


def costs(
    cases: Sequence[Case], settings: Settings, works: Mapping[str, Work], cache: Path, *, had: Sequence[Case] = ()
) -> dict[str, Cost]:
    """Predict cases in the order in which they run, by their ids: the first that needs a backbone makes it.

    Args:
        cases: in their order.
        settings: how they are run.
        works: by the case's id; one that is missing could not be counted.
        cache: folder of the backbones.
        had: cases that have made theirs.
    """
    made = {_backbone(case) for case in had}
    found = {}
    for case in cases:
        pretrained = _backbone(case) in made or has_backbone(cache, case, settings)
        try:
            found[case.id] = cost(case, settings, works.get(case.id, Work()), pretrained=pretrained)
        except Exception:  # a policy that has no plan for a network, or one of the user's own: its case will say so
            found[case.id] = _FAILURE
        if case.weights in SOURCE_TASKS:
            made.add(_backbone(case))
    return found


def _backbone(case: Case) -> tuple[str, str, str]:
    return case.weights, case.architecture, case.device


def cheapest_first(cases: Sequence[Case], predicted: Mapping[str, Cost]) -> list[Case]:
    """Cases by what all of an architecture take, which stay together in their order, as do devices and tasks."""
    groups: dict[tuple[str, str], dict[str, list[Case]]] = {}
    for case in cases:
        groups.setdefault((case.device, case.task), {}).setdefault(case.architecture, []).append(case)

    def total(group: list[Case]) -> float:
        return sum(predicted[case.id].fixed + predicted[case.id].work for case in group)

    return [case for group in groups.values() for each in sorted(group.values(), key=total) for case in each]


@dataclass(frozen=True)
class Range:
    """Seconds: the best guess, and between what they are likely to be."""

    low: float
    expected: float
    high: float


class Estimate:
    """What is left of a session's cases, given their predicted costs by id."""

    def __init__(self, cases: Sequence[Case], predicted: Mapping[str, Cost]) -> None:
        self._left = list(cases)
        self._predicted = predicted
        # Seconds of work that finished cases took and that were predicted for them, by architecture.
        self._taken: dict[str, list[tuple[float, float]]] = defaultdict(list)
        # Of a device that is not here all cases are skipped, which takes no time.
        self._skipping: dict[str, bool] = {}

    def finish(self, case_id: str, status: str, seconds: float) -> None:
        """A case has its record; only one that is ok says how long others take."""
        case = next(case for case in self._left if case.id == case_id)
        self._left.remove(case)
        self._skipping[case.device] = status == "skipped" and self._skipping.get(case.device, True)
        if status == "ok":
            cost, start = self._predicted[case_id], 0.0 if self._taken else _START
            # Whatever a clock says, a prediction is not off by more than this.
            work = max(seconds - start - cost.fixed, 0.1 * seconds, _LEAST_FACTOR * cost.work)
            self._taken[case.architecture].append((work, cost.work))

    def left(self, running: str = "", elapsed: float = 0.0) -> Range:
        """Seconds from now until the last case has finished; one may have been running for some seconds."""
        machine = _factor([pair for pairs in self._taken.values() for pair in pairs])
        beyond = 0.0
        total, low, high = (0.0 if self._taken else _START,) * 3
        for case in self._left:
            if self._skipping.get(case.device, False):
                continue
            cost, known = self._predicted[case.id], self._taken.get(case.architecture)
            seconds = cost.fixed + (_factor(known) if known else machine) * cost.work
            if case.id == running:
                # The first case of a session times all of its group.
                beyond = 0.0 if self._taken else max(0.0, elapsed - seconds)
                seconds -= min(elapsed, seconds)
            # What is known: the same network on this machine, the machine, or neither.
            wide = _WIDE[0 if known else 1 if self._taken else 2]
            total, low, high = total + seconds, low + seconds / wide, high + seconds * wide
        return Range(*(max(each - beyond, _LEAST_LEFT * each) for each in (low, total, high)))


def _factor(pairs: Sequence[tuple[float, float]]) -> float:
    """By which factor work takes longer than predicted."""
    return sum(taken for taken, _ in pairs) / sum(predicted for _, predicted in pairs) if pairs else 1.0
