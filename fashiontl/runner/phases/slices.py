"""The phase of a process that stays alive and times a slice of a case at each command."""

import json
import statistics
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec
import torch

from fashiontl.core.errors import FashiontlError
from fashiontl.machine.disturbance import Usage
from fashiontl.models.weights.start import Start
from fashiontl.runner.messages import REFERENCE, PhaseResult, Progress, SlicesJob
from fashiontl.runner.phases.identity import strangers
from fashiontl.runner.phases.timed_pass import timed_pass
from fashiontl.runner.subjects import SECONDARY
from fashiontl.runner.workload import Workload, together
from fashiontl.timing.loops import DeviceTimer, WarmUp, calls_of, no_garbage_collection
from fashiontl.timing.reference import reference_calls
from fashiontl.timing.slices import Slice, Slicer, parts_of
from fashiontl.training.step import TrainingStep

TRAINING = {"train_throughput", "end_to_end_throughput"}
_REFERENCES = 3
_PARTS = ("data", "forward", "backward", "optimizer")
# A line that a process reports must be short.
_DIGITS = 6
_MOST_VALUES = 100


def slices(job: SlicesJob, progress: Progress) -> PhaseResult:
    """Build what is timed, warm it up and time slices of it, one at each command, and sleep in between.

    Metrics are `latency`, with one image a call, and `inference_throughput`, `train_throughput` and
    `end_to_end_throughput`, with as many as the settings say. A command is answered by a line of JSON: `warm METRIC` by
    how the warm-up went, `slice METRIC` by the fields of `fashiontl.timing.slices.Slice`, by `seconds`, the median of
    its values, and by what the process used. `slice reference` times the reference mix instead of a case.

    Returns:
        Nothing, when the pipe is closed.

    Raises:
        FashiontlError: something was imported from the other tree.
    """
    work = Workload.of(job)
    with (
        Path(job.commands).open(encoding="utf-8") as commands,
        timed_pass(work) as timer,
        no_garbage_collection(),
    ):
        timed = _Timed(work, timer, brief=job.brief)
        for line in commands:
            command, metric = line.split()
            if metric == REFERENCE:
                progress(json.dumps(timed.reference()))
                continue
            periods = timed.of(metric)
            with torch.inference_mode(metric not in TRAINING):
                if command == "warm":
                    answer = _warmed(periods, 0.0 if metric in SECONDARY else job.warm_up or work.settings.seconds)
                    if job.other:
                        _refuse_strangers(Path(job.other))
                else:
                    answer = _taken(periods)
            progress(json.dumps(answer))
    return PhaseResult()


class _Period:
    """What is timed of epochs with one plan: `enter` puts the networks into it."""

    def __init__(self, share: float, slicer: Slicer, enter: Callable[[], None] = lambda: None) -> None:
        self.share = share
        self.slicer = slicer
        self.enter = enter


class _Timed:
    """What is timed under a metric's name, as the phases `inference` and `step` make it."""

    def __init__(self, work: Workload, timer: DeviceTimer, *, brief: bool) -> None:
        self._work = work
        self._timer = timer
        self._brief = brief
        self._made: dict[str, list[_Period]] = {}
        self._epoch: int | None = None

    def of(self, metric: str) -> list[_Period]:
        """What is timed: one period, or several where the policy changes over the epochs."""
        if metric not in self._made:
            self._made[metric] = self._steps(metric) if metric in TRAINING else [_Period(1.0, self._inference(metric))]
        return self._made[metric]

    def reference(self) -> dict[str, Any]:
        """Seconds of the calls of the reference mix: the median of a few, after one that warms the caches."""
        taken = {}
        for name, call in self._reference.items():
            take = calls_of(call, self._timer)
            take(1)
            taken[name] = float(f"{statistics.median(take(1)[0] for _ in range(_REFERENCES)):.{_DIGITS}g}")
        return {"seconds": taken}

    @cached_property
    def _reference(self) -> dict[str, Callable[[], None]]:
        return reference_calls(self._work.device)

    def _inference(self, metric: str) -> Slicer:
        model, work, single = self._model, self._work, metric == "latency"
        with torch.inference_mode():
            images = work.deployed_images(1 if single else work.settings.throughput_batch)
        samples = min(_MOST_VALUES, -(-work.settings.samples // (8 * work.settings.processes)))
        take = calls_of(lambda: model(images), self._timer)
        return Slicer(take, self._timer, single=single and not self._brief, samples=samples, brief=self._brief)

    @cached_property
    def _model(self) -> Callable[..., object]:
        return self._work.variant.compiled(self._work.deployed(self._work.networks()))

    def _steps(self, metric: str) -> list[_Period]:
        found = []
        for (epoch, share), steps in self._training:
            if metric == "train_throughput":
                slicer = Slicer(calls_of(together(steps), self._timer), self._timer, brief=self._brief)
            else:
                parts = {
                    "data": together([partial(step.load, self._examples) for step in steps]),
                    "forward": together([step.forward for step in steps]),
                    "backward": together([step.backward for step in steps]),
                    "optimizer": together([step.update for step in steps]),
                }
                slicer = Slicer(parts_of(parts, self._timer), self._timer, parts=_PARTS, brief=self._brief)
            found.append(_Period(share, slicer, partial(self._enter, epoch)))
        return found

    def _enter(self, epoch: int) -> None:
        """Put all networks into an epoch's plan; their optimisers keep what they hold."""
        if epoch != self._epoch:
            for initial in self._starts:
                self._work.prepare(initial.network, epoch)
            self._epoch = epoch

    @cached_property
    def _starts(self) -> list[Start]:
        return self._work.starts()

    @cached_property
    def _training(self) -> list[tuple[tuple[int, float], list[TrainingStep]]]:
        spans = self._work.periods([initial.network for initial in self._starts])
        if self._brief:
            # The last epoch trains most in all policies but those that freeze on the way.
            spans = [(self._work.settings.epochs - 1, 1.0)]
        made = [(span, [self._work.step(initial, span[0]) for initial in self._starts]) for span in spans]
        self._epoch = spans[-1][0]
        return made

    @cached_property
    def _examples(self) -> Any:
        return self._work.examples()


def _warmed(periods: Sequence[_Period], seconds: float) -> dict[str, Any]:
    found: list[WarmUp] = []
    for period in periods:
        period.enter()
        found.append(period.slicer.warm(seconds))
    worst = max(found, key=lambda each: (not each.steady, each.drift))
    calls = sum(each.calls for each in found)
    return {"calls": calls, "steady": worst.steady, "drift": worst.drift, "noise": worst.noise}


def _taken(periods: Sequence[_Period]) -> dict[str, Any]:
    taken: list[Slice] = []
    before = Usage.now()
    for period in periods:
        period.enter()
        taken.append(period.slicer.take())
    shares = [period.share for period in periods]
    values = _mean(shares, [each.values for each in taken])
    answer = {
        "seconds": statistics.median(values),
        "values": values,
        "device": _mean(shares, [each.device for each in taken]),
        "parts": {part: _mean(shares, [each.parts[part] for each in taken]) for part in taken[0].parts},
        "usage": msgspec.to_builtins(Usage.now() - before),
        "throttled": any(each.throttled for each in taken),
    }
    if len(periods) > 1:
        answer["periods"] = [float(f"{statistics.median(each.values):.{_DIGITS}g}") for each in taken]
    return answer


def _mean(shares: Sequence[float], values: Sequence[Sequence[float]]) -> list[float]:
    """The mean over periods of their samples, the first of each, the second of each, and so on, in short digits."""
    rows = zip(*values, strict=False)
    means = [sum(share * value for share, value in zip(shares, row, strict=True)) for row in rows]
    return [float(f"{mean:.{_DIGITS}g}") for mean in means[:_MOST_VALUES]]


def _refuse_strangers(other: Path) -> None:
    if found := strangers(other):
        raise FashiontlError(
            f"expected the arm to import its own tree, got {', '.join(found[:3])}; take the other tree out of "
            "PYTHONPATH, and import nothing by an absolute path"
        )
