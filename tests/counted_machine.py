"""A device whose time is counted, for the tests of timing."""

from collections.abc import Callable

from fashiontl.timing.loops import DeviceTimer


class Machine:
    """A device whose time is counted, not waited for: calls are queued, and only a wait lets them pass."""

    def __init__(self, cost: Callable[[int], float], throttled: Callable[[float], bool] = lambda now: False) -> None:
        self.now = 0.0
        self.calls = 0
        self.queued = 0.0
        self.waits = 0
        self.asked = 0
        self._cost = cost
        self._throttled = throttled

    def clock(self) -> float:
        return self.now

    def call(self) -> None:
        self.queued += self._cost(self.calls)
        self.calls += 1

    def synchronize(self) -> None:
        self.now += self.queued
        self.queued = 0.0
        self.waits += 1

    def throttled(self) -> bool:
        self.asked += 1
        return self._throttled(self.now)

    @property
    def timer(self) -> DeviceTimer:
        return DeviceTimer(self.synchronize, throttled=self.throttled, clock=self.clock)

    @property
    def with_events(self) -> DeviceTimer:
        """With events in the queue, which the device passes when all before them has run."""
        return DeviceTimer(
            self.synchronize,
            event=lambda: self.now + self.queued,
            elapsed=lambda before, after: after - before,
            clock=self.clock,
        )
