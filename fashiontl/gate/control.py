"""The control kernel: the same work after each slice of either arm, in neither arm's code. No torch.

If it takes longer after one arm's slices than after the other's, the two were not treated alike, and neither number
means anything. It is a sum of passes, which wait for a core as slices do: on two cores under a load of 3.5 its ratio
between the arms varied by 1.2 % from epoch to epoch where that of the slices varied by 4 %, and rose by 55 % when one
arm left two threads running for 12 ms. The median of the same passes varied by 0.3 % and did not see those threads.
"""

import hashlib
import time
from collections.abc import Callable

_PASSES = 6
# 0.4 ms of arithmetic in a core's own cache, and 0.3 ms of memory traffic beyond it, on a server of 2023.
_HASHED = bytes(range(256)) * 2**11
_COPIED = bytes(range(256)) * 2**13
_COPY = bytearray(len(_COPIED))


def control(clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one run, some milliseconds.

    Args:
        clock: seconds, monotonic.
    """
    # What a slice leaves in the caches is its own affair: a pass that is not timed clears it away.
    _work()
    begun = clock()
    for _ in range(_PASSES):
        _work()
    return clock() - begun


def _work() -> None:
    hashlib.sha256(_HASHED).digest()
    _COPY[:] = _COPIED
