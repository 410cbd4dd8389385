"""Whether a machine was now in one state and now in another, and how fast it was in each. No I/O."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from fashiontl.core.metrics import METRICS, Measurement
from fashiontl.core.slices import series_of

# Fewer slices show no states: a gap between four values and four is chance in more than one of a hundred cases.
_LEAST = 16
# A state holds at least this share of the slices. An outlier or two are none, nor is the tail of a skewed spread.
_SHARE = 0.2
# Between the states nothing lies: the gap is at least this share of the distance of their means ...
_GAP = 0.6
# ... which is at least this, as a logarithm: smaller steps are within what is asked of an estimate.
_DISTANCE = 0.1


@dataclass(frozen=True)
class States:
    """Two states of a machine.

    Attributes:
        slow: whether each slice was taken in the slow one.
        fast_log: mean log seconds in the fast one: the machine undisturbed.
        slow_log: mean log seconds in the slow one.
    """

    slow: tuple[bool, ...]
    fast_log: float
    slow_log: float


def states(logs: Sequence[float], processes: Sequence[int] = ()) -> States | None:
    """The two states that slices fall into; None where they do not clearly.

    The split is that of two means in one dimension, which is found by trying all (Fisher, On Grouping for Maximum
    Homogeneity, Journal of the American Statistical Association 53, 1958). It is taken only where nothing lies between
    the two, which is stricter than Ashman's D > 2 for mixtures (Ashman, Bird and Zepf, Astronomical Journal 108, 1994):
    of 100 series of a single state, whether normal, skewed or with heavy tails, fewer than one is split.

    Args:
        logs: natural logarithm of each slice's seconds.
        processes: which process took each; if given, half of them or more must have been in both states, since one that
            is slow throughout is a matter of its memory's layout and not of the machine.
    """
    ordered = sorted(logs)
    count = len(ordered)
    if count < _LEAST:
        return None
    total, below = sum(ordered), 0.0
    best, cut = 0.0, 0
    for index in range(1, count):
        below += ordered[index - 1]
        # Between groups, the sum of squares is this but for a constant factor.
        distance = (total - below) / (count - index) - below / index
        if (explained := index * (count - index) * distance**2) > best:
            best, cut = explained, index
    if not _SHARE * count <= cut <= (1 - _SHARE) * count:
        return None
    fast, slow = fmean(ordered[:cut]), fmean(ordered[cut:])
    if slow - fast < _DISTANCE or ordered[cut] - ordered[cut - 1] < _GAP * (slow - fast):
        return None
    found = tuple(log >= ordered[cut] for log in logs)
    if processes:
        seen = set(zip(processes, found, strict=True))
        both = sum((process, True) in seen and (process, False) in seen for process in set(processes))
        if 2 * both < len(set(processes)):
            return None
    return States(found, fast, slow)


def undisturbed_speed(measurement: Measurement) -> float | None:
    """What a measurement would be had the machine always been in its fast state, in the measurement's unit.

    None where its slices, with those that are marked, do not fall into two states, or it has none. The mean over all
    slices that are not marked stays the number: the machine was in both states, and a user's will be too.
    """
    if measurement.slices is None or measurement.metric not in METRICS:
        return None
    series = series_of(measurement, disturbed=True)
    sign = -1 if METRICS[measurement.metric].better == "higher" else 1
    found = states([sign * log for log in series.logs], series.processes)
    return math.exp(sign * found.fast_log) if found else None
