"""Short slices of a call: what one live process times each time that it is its turn.

A machine's speed changes from second to second, so that a few calls now and a few ten seconds later say more than
twice as many now (docs/evidence/slices.md). Between slices the process sleeps while others run, which leaves its data
out of the caches: the first calls of a slice are not counted.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fashiontl.timing.loops import BLOCK_SECONDS, DeviceTimer, Sample, Take, WarmUp, steady_calls

# Calls of a slice that are not counted last this long, or one call: after it caches hold what they will hold.
_COLD_SECONDS = 0.02
# A call of this length spends little of itself on what is not in the caches yet, and needs none before it.
_LONG = 0.1
# Counted samples of a slice last this long, or one call: more of the same moment say little that is new. Single calls
# are worth more, for the distribution of their times, but not more than this.
_COUNTED_SECONDS = 0.05
_FEWEST = 3
_SINGLE_SECONDS = 0.15
# Of slow calls so many warm a process up; the first sets up what all later ones use.
_FEWEST_WARM = 2


@dataclass(frozen=True)
class Slice:
    """What one slice gave.

    Attributes:
        values: seconds a call, of each call or block.
        device: the same in the device's own time; empty where it has none.
        parts: seconds of each part of a call, by its name.
        throttled: whether the machine was slowed down meanwhile.
    """

    values: tuple[float, ...]
    device: tuple[float, ...] = ()
    parts: dict[str, tuple[float, ...]] = field(default_factory=dict)
    throttled: bool = False


class Slicer:
    """Takes slices of one call, after it was warmed up.

    Args:
        take: times a number of calls as one sample.
        timer: of the device.
        single: whether each call is a sample of its own, and not a block of calls.
        samples: how many of them a slice should have, if they are single.
        parts: names of a sample's parts.
        brief: whether a slice is one sample.
    """

    def __init__(
        self,
        take: Take,
        timer: DeviceTimer,
        *,
        single: bool = False,
        samples: int = 1,
        parts: Sequence[str] = (),
        brief: bool = False,
    ) -> None:
        self._take = take
        self._timer = timer
        self._single = single
        self._samples = samples
        self._parts = tuple(parts)
        self._brief = brief
        self._call = 0.0

    def warm(self, seconds: float) -> WarmUp:
        """Make calls until they are steady, for about `seconds` at most, and at least a few."""
        self._take(1)
        (second, *_) = self._take(1)
        if _FEWEST_WARM * second >= seconds:
            self._call = second
            return WarmUp(_FEWEST_WARM, True, 0.0, 0.0)
        found, window = steady_calls(self._take, self._timer.clock, seconds)
        self._call = statistics.median(sample[0] for sample in window)
        return found

    def take(self) -> Slice:
        """Take one slice."""
        call = max(self._call, 1e-9)
        uncounted = 0 if call >= _LONG else math.ceil(_COLD_SECONDS / call)
        calls = 1 if self._single else math.ceil(BLOCK_SECONDS / call)
        if self._brief:
            count = 1
        elif self._single:
            # As many as are asked for, within a limit of time, and never fewer than the fewest.
            count = max(_FEWEST, min(max(self._samples, _FEWEST), math.ceil(_SINGLE_SECONDS / call)))
        else:
            count = math.ceil(_COUNTED_SECONDS / (calls * call))
        self._timer.throttled()  # what happened before is forgotten
        if uncounted:
            self._take(uncounted)
        samples = [self._take(calls) for _ in range(count)]
        columns = list(zip(*samples, strict=True))
        return Slice(
            values=columns[0],
            device=columns[1] if len(columns) > 1 and not self._parts else (),
            parts=dict(zip(self._parts, columns[1:], strict=False)) if self._parts else {},
            throttled=self._timer.throttled(),
        )


def parts_of(parts: Mapping[str, Callable[[], object]], timer: DeviceTimer) -> Take:
    """Samples of calls that consist of parts, one after the other, and of each part.

    Events in the device's queue separate the parts. Without them (on the CPU, where a call has finished when it
    returns) the clock does.
    """
    event = timer.event or timer.clock
    elapsed = timer.elapsed or (lambda before, after: after - before)

    def take(calls: int) -> Sample:
        rows = []
        timer.synchronize()
        started = timer.clock()
        for _ in range(calls):
            events = [event()]
            for part in parts.values():
                part()
                events.append(event())
            rows.append(events)
        timer.synchronize()
        each = (timer.clock() - started) / calls
        shares = [[elapsed(before, after) for before, after in itertools.pairwise(row)] for row in rows]
        return (each, *(statistics.fmean(part) for part in zip(*shares, strict=True)))

    return take
