"""The phase that takes turns with another process: an arm's side of an epoch of the gate."""

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fashiontl.core.errors import FashiontlError
from fashiontl.runner.messages import PhaseResult, Progress, SlicesJob
from fashiontl.runner.phases.identity import strangers
from fashiontl.runner.phases.timed_pass import timed_pass
from fashiontl.runner.workload import Workload
from fashiontl.timing.loops import DeviceTimer, WarmUp, no_garbage_collection, warmed_blocks

_Call = Callable[[], object]

_TRAINING = "train_throughput"
# Time budgets of a measurement that a warm-up may take: the process then lives on through many slices.
_WARM_UPS = 2


def slices(job: SlicesJob, progress: Progress) -> PhaseResult:
    """Build what is timed, warm it up and time slices of it, one at each command, and sleep in between.

    Metrics are `latency`, with one image a call, and
    `inference_throughput` and `train_throughput`, with as many as the settings say. Under a policy that changes over
    the epochs, training steps are those of the last one. A command is answered by a line of JSON: the first by how the
    warm-up went, the second by the `seconds` a call of one slice, and whether the machine was `throttled` meanwhile.

    Returns:
        Nothing, when the pipe is closed.

    Raises:
        FashiontlError: something was imported from the other tree.
    """
    calls = _Calls(Workload.of(job))
    taken: dict[str, Callable[[], float]] = {}
    with (
        Path(job.commands).open(encoding="utf-8") as commands,
        timed_pass(calls.work) as timer,
        no_garbage_collection(),
    ):
        for line in commands:
            command, metric = line.split()
            call = calls.of(metric)
            with torch.inference_mode(metric != _TRAINING):
                if command == "warm":
                    taken[metric], warm_up = _warmed(call, timer, _WARM_UPS * calls.work.settings.seconds)
                    _refuse_strangers(Path(job.other))
                    answer: dict[str, Any] = {"steady": warm_up.steady, "drift": warm_up.drift, "noise": warm_up.noise}
                else:
                    timer.throttled()  # what happened before is forgotten
                    answer = {"seconds": taken[metric](), "throttled": timer.throttled()}
            progress(json.dumps(answer))
    return PhaseResult()


class _Calls:
    """What is timed under a metric's name, as the phases `inference` and `step` make it."""

    def __init__(self, work: Workload) -> None:
        self.work = work
        self._made: dict[str, _Call] = {}

    def of(self, metric: str) -> _Call:
        if metric not in self._made:
            self._made[metric] = self._step if metric == _TRAINING else self._inference(metric)
        return self._made[metric]

    def _inference(self, metric: str) -> _Call:
        model, work = self._model, self.work
        with torch.inference_mode():
            count = 1 if metric == "latency" else work.settings.throughput_batch
            images = work.deployed_images(count)
        return lambda: model(images)

    @cached_property
    def _model(self) -> Callable[..., object]:
        return self.work.variant.compiled(self.work.deployed(self.work.networks()))

    @cached_property
    def _step(self) -> _Call:
        # The last epoch trains most in all policies but those that freeze on the way.
        return self.work.training_step(self.work.starts(), self.work.settings.epochs - 1)


def _warmed(call: _Call, timer: DeviceTimer, seconds: float) -> tuple[Callable[[], float], WarmUp]:
    # What comes with a first call, compiling above all, does not use up the time in which calls become steady.
    call()
    timer.synchronize()
    return warmed_blocks(call, timer, seconds)


def _refuse_strangers(other: Path) -> None:
    if found := strangers(other):
        raise FashiontlError(
            f"expected the arm to import its own tree, got {', '.join(found[:3])}; take the other tree out of "
            "PYTHONPATH, and import nothing by an absolute path"
        )
