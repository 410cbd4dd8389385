"""One epoch: two fresh processes take turns, and the control kernel runs after each slice. No torch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import stdev
from typing import Protocol

from fashiontl.gate.comparison import round_changes
from fashiontl.gate.raw import Arm, Epoch, Stage

# Rounds ABBA of an epoch. A fresh pair of processes takes seconds to start, so it pays to take turns until their own
# spread adds little to that between pairs, which only more epochs can lessen: the standard error of the rounds' mean.
# Six rounds left 1.5 to 1.7 % on a shared box, where pairs spread by 2.0 %.
LEAST_ROUNDS, MOST_ROUNDS = 6, 16
_PRECISE = 0.005


class Process(Protocol):
    """A process of an arm, as `fashiontl.gate.arm.Turns` is one."""

    def warm(self, metric: str) -> bool:
        """Build and warm up what a metric times; whether it became steady."""

    def slice(self, metric: str) -> tuple[float, bool]:
        """Seconds a call of one slice, and whether the machine was throttled meanwhile."""


@dataclass(frozen=True)
class Taken:
    """An epoch, and what there is to doubt of it.

    Attributes:
        epoch: its slices.
        steady: whether both arms were when the slices began.
        throttled: slices meanwhile the machine was slowed down.
    """

    epoch: Epoch
    steady: bool
    throttled: int


def take_epoch(
    processes: Mapping[Arm, Process], metric: str, stage: Stage, first: Arm, control: Callable[[], float]
) -> Taken:
    """Warm two processes up, one after the other, and let them take turns: ABBA, six times or more.

    Args:
        processes: of both arms, fresh.
        metric: what they time.
        stage: of the gate.
        first: the arm that begins, with its warm-up too.
        control: seconds of one run of the control kernel.

    Raises:
        fashiontl.gate.arm.StoppedError: one of the processes ended.
    """
    second: Arm = "head" if first == "base" else "base"
    steady = [processes[arm].warm(metric) for arm in (first, second)]
    seconds: dict[Arm, list[float]] = {"base": [], "head": []}
    controls: dict[Arm, list[float]] = {"base": [], "head": []}
    throttled = 0
    for taken in range(1, MOST_ROUNDS + 1):
        for arm in (first, second, second, first):
            each, slowed = processes[arm].slice(metric)
            seconds[arm].append(each)
            controls[arm].append(control())
            throttled += slowed
        if taken >= LEAST_ROUNDS and _precise(seconds["base"], seconds["head"]):
            break
    epoch = Epoch(
        stage,
        first,
        base=tuple(seconds["base"]),
        head=tuple(seconds["head"]),
        control_base=tuple(controls["base"]),
        control_head=tuple(controls["head"]),
    )
    return Taken(epoch, all(steady), throttled)


def _precise(base: list[float], head: list[float]) -> bool:
    changes = round_changes(base, head)
    return stdev(changes) / math.sqrt(len(changes)) <= _PRECISE
