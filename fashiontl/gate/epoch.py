"""One epoch: two fresh processes take turns, and the control kernel runs after each slice. No torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from fashiontl.gate.raw import Arm, Epoch, Stage

# Twelve of each arm: six times ABBA.
SLICES = 24


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
    """Warm two processes up, one after the other, and let them take turns: ABBA, six times.

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
    for arm in (first, second, second, first) * (SLICES // 4):
        each, slowed = processes[arm].slice(metric)
        seconds[arm].append(each)
        controls[arm].append(control())
        throttled += slowed
    epoch = Epoch(
        stage,
        first,
        base=tuple(seconds["base"]),
        head=tuple(seconds["head"]),
        control_base=tuple(controls["base"]),
        control_head=tuple(controls["head"]),
    )
    return Taken(epoch, all(steady), throttled)
