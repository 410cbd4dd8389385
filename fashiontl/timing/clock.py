"""A check of the clock that all timing uses."""

import time
from collections.abc import Callable

_SECONDS = 0.02
_TOLERANCE = 0.01


def _independent() -> float:
    """Seconds on a clock that nothing adjusts; only Linux and macOS have one, elsewhere the check proves less."""
    raw = getattr(time, "CLOCK_MONOTONIC_RAW", None)
    return time.monotonic() if raw is None else time.clock_gettime_ns(raw) / 1e9


def clock_ratio(clock: Callable[[], float] = time.perf_counter, reference: Callable[[], float] = _independent) -> float:
    """How long 20 ms of an independent clock are on the clock that the loops use, as a ratio of the two."""
    started, known = clock(), reference()
    while reference() < known + _SECONDS:
        pass
    return (clock() - started) / (reference() - known)


def clock_error(ratio: float) -> str | None:
    """What is wrong with a clock's ratio; None within 1 %."""
    if abs(ratio - 1) <= _TOLERANCE:
        return None
    return f"the clock that times cases runs at {ratio:.3g} of the speed of another clock of this machine"
