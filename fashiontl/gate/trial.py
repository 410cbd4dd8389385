"""One trial: two fresh processes take turns, and the reference kernel runs after each slice. No torch.

If the reference kernel takes longer after one arm's slices than after the other's, the two were not treated alike, and
neither number means anything. It is a sum of passes, which wait for a core as slices do: on two cores under a load of
3.5 its ratio between the arms varied by 1.2 % from trial to trial where that of the slices varied by 4 %, and rose by
55 % when one arm left two threads running for 12 ms. The median of the same passes varied by 0.3 % and did not see
those threads.
"""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from statistics import stdev

from fashiontl.gate.arm import Turns
from fashiontl.gate.comparison import round_changes
from fashiontl.gate.raw import Arm as Name
from fashiontl.gate.raw import Stage, Trial

# Rounds ABBA of a trial. A fresh pair of processes takes seconds to start, so it pays to take turns until their own
# spread adds little to that between pairs, which only more trials can lessen: the standard error of the rounds' mean.
# Six rounds left 1.5 to 1.7 % on a shared box, where pairs spread by 2.0 %.
LEAST_ROUNDS, MOST_ROUNDS = 6, 16
_PRECISE = 0.005

_PASSES = 6
# 0.4 ms of arithmetic in a core's own cache, and 0.3 ms of memory traffic beyond it, on a server of 2023.
_HASHED = bytes(range(256)) * 2**11
_COPIED = bytes(range(256)) * 2**13
_COPY = bytearray(len(_COPIED))


def reference_kernel(clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one run, some milliseconds, by a monotonic clock."""
    # What a slice leaves in the caches is its own affair: a pass that is not timed clears it away.
    _work()
    started = clock()
    for _ in range(_PASSES):
        _work()
    return clock() - started


def _work() -> None:
    hashlib.sha256(_HASHED).digest()
    _COPY[:] = _COPIED


def take_trial(
    processes: Mapping[Name, Turns], metric: str, stage: Stage, first: Name, kernel: Callable[[], float]
) -> tuple[Trial, bool, int]:
    """Warm two processes up, one after the other, and let them take turns: ABBA, six times or more.

    The arm `first` begins, with its warm-up too.

    Returns:
        The trial, whether both arms were steady when its slices began, and how many slices were throttled.

    Raises:
        fashiontl.gate.arm.StoppedError: one of the processes ended.
    """
    second: Name = "head" if first == "base" else "base"
    steady = [processes[arm].warm(metric) for arm in (first, second)]
    seconds: dict[Name, list[float]] = {"base": [], "head": []}
    references: dict[Name, list[float]] = {"base": [], "head": []}
    throttled = 0
    for taken in range(1, MOST_ROUNDS + 1):
        for arm in (first, second, second, first):
            each, slowed = processes[arm].slice(metric)
            seconds[arm].append(each)
            references[arm].append(kernel())
            throttled += slowed
        changes = round_changes(seconds["base"], seconds["head"])
        if taken >= LEAST_ROUNDS and stdev(changes) / math.sqrt(len(changes)) <= _PRECISE:
            break
    base, head = (tuple(seconds[arm]) for arm in ("base", "head"))
    reference_base, reference_head = (tuple(references[arm]) for arm in ("base", "head"))
    return Trial(stage, first, base, head, reference_base, reference_head), all(steady), throttled
