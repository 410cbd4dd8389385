"""What fresh processes of both arms count, and what they answer after training with the same seeds. No torch."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from fashiontl.core.case import Case, Settings
from fashiontl.gate.arm import Arm, failure_kind
from fashiontl.gate.limits import COUNTED, LIMITS, processes_of
from fashiontl.gate.raw import Answers, Counts, Failure, SeedPair
from fashiontl.gate.raw import Arm as Name
from fashiontl.matrix.options import SOURCE_TASKS, as_timed
from fashiontl.runner.client import Outcome
from fashiontl.runner.messages import INFERENCE, PRETRAIN, STEP, TRAIN, Progress, Training

_PHASES = (INFERENCE, STEP)
# Only what is counted is kept, so the timing loops of these phases end as soon as they may.
_SECONDS, _SAMPLES, _HALF_WIDTH = 0.02, 6, 1.0


def seeds_of(settings: Settings) -> int:
    """Seeds that are trained where the first one's answers differ."""
    return max(settings.seeds, LIMITS["accuracy"].repeats)


def count(
    arms: Mapping[Name, Arm], case: Case, settings: Settings, progress: Progress, is_over: Callable[[], bool]
) -> tuple[list[Counts], list[Failure]]:
    """Parameters, FLOPs and peak memory of a case, from as many processes of each arm as the limits ask for.

    `is_over` tells whether there is no time for another process of each arm.

    Returns:
        One entry a metric that any arm tells, and a failure for each arm that could not be run; nothing more is run
        then.
    """
    brief = replace(settings, seconds=_SECONDS, samples=_SAMPLES, half_width=_HALF_WIDTH)
    repeats = processes_of(case.id)
    values: dict[str, dict[Name, list[float]]] = defaultdict(lambda: {"base": [], "head": []})
    failures: list[Failure] = []
    for repeat in range(repeats):
        for arm in in_turn(repeat):
            for phase in _PHASES:
                progress(f"{case.id}: {phase.name} of {arm}, {repeat + 1} of {repeats}")
                outcome = arms[arm].run(phase, as_timed(case), brief, progress)
                if outcome.status != "ok" or outcome.result is None:
                    failures.append(_failure(case, arm, outcome))
                    break
                for measured in outcome.result.measurements:
                    if measured.metric in COUNTED:
                        values[measured.metric][arm].append(measured.values[0])
        if failures or is_over():
            break
    return [
        Counts(case.id, metric, tuple(found["base"]), tuple(found["head"])) for metric, found in values.items()
    ], failures


def train(
    arms: Mapping[Name, Arm], case: Case, settings: Settings, progress: Progress
) -> tuple[Answers | None, list[Failure]]:
    """Train and test a case in both arms with the same seeds: the first, and if anything differs, as many as judge it.

    Backbones that are trained here first are the base's in both arms, so that they start from the same weights.

    Returns:
        None with a failure for each arm that could not be run, or was not given the base's images.
    """
    more: dict[str, Any] = {}
    if case.weights in SOURCE_TASKS:
        outcome = arms["base"].run(PRETRAIN, case, settings, progress)
        if outcome.status != "ok" or outcome.result is None:
            return None, [_failure(case, "base", outcome)]
        more["checkpoints"] = outcome.result.checkpoints
    seeds = seeds_of(settings)
    pairs: tuple[SeedPair, ...] = ()
    tested = 0
    for number in (1, seeds):
        found: dict[Name, Outcome[Training]] = {}
        for arm in in_turn(0):
            progress(f"{case.id}: training {arm} with {number} of {seeds} seeds")
            found[arm] = arms[arm].run(TRAIN, case, replace(settings, seeds=number), progress, **more)
        failures = [_failure(case, arm, outcome) for arm, outcome in found.items() if outcome.status != "ok"]
        base, head = found["base"].result, found["head"].result
        if failures or base is None or head is None:
            return None, failures
        images, others = (result.provenance["data"]["sha256"] for result in (base, head))
        if images != others:
            reason = (
                f"expected the images of the base, SHA-256 {images[:12]}, got {others[:12]}: answers to other images "
                "cannot be paired"
            )
            return None, [Failure(case.id, "head", "crashed", reason)]
        tested = len(base.right[0])
        weights = zip(base.provenance["trained"], head.provenance["trained"], strict=True)
        values = zip(weights, base.right, head.right, base.answers, head.answers, strict=True)
        pairs = tuple(
            SeedPair(seed, _digest(before), _digest(after), *others)
            for seed, ((before, after), *others) in zip(range(number), values, strict=False)
        )
        if all((one.weights_base, one.answers_base) == (one.weights_head, one.answers_head) for one in pairs):
            break
    return Answers(case.id, pairs, tested), []


def _digest(trained: str | Mapping[str, str]) -> str:
    """One SHA-256 for one network, or for those of a hybrid's members."""
    if isinstance(trained, str):
        return trained
    return hashlib.sha256(json.dumps(trained, sort_keys=True).encode()).hexdigest()


def in_turn(repeat: int) -> tuple[Name, Name]:
    """The arms in the order of a repeat: turns go ABBA, as in a trial."""
    return ("head", "base") if repeat % 2 else ("base", "head")


def _failure(case: Case, arm: Name, outcome: Outcome[Any]) -> Failure:
    return Failure(case.id, arm, failure_kind(outcome), outcome.reason)
