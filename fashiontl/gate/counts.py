"""Judging numbers that are not timed: equal or not, and sizes on which processes do not quite agree. No torch."""

import math
from statistics import median

import msgspec

from fashiontl.core.metrics import METRICS
from fashiontl.core.stats import Interval
from fashiontl.gate.limits import Limit, on_cuda
from fashiontl.gate.raw import Counts
from fashiontl.gate.result import Finding, Verdict


def judge_counts(counts: Counts, limit: Limit, processes: int = 0) -> Finding:
    """The finding of one cell and metric; `processes` of each arm were asked for."""
    if error := _error(counts, limit):
        # What only the head tells has nothing to be compared with.
        verdict: Verdict = "CRASHED" if counts.base and counts.head else "MISSING" if counts.base else "NO_BASELINE"
        return Finding(counts.cell, counts.metric, verdict, error)
    few, most = sorted((len(counts.base), len(counts.head)))
    if few < most:
        reason = f"expected as many processes of both arms, got {len(counts.base)} and {len(counts.head)}"
        return Finding(counts.cell, counts.metric, "MISSING", reason)
    if few < (wanted := max(limit.repeats, processes)):
        # A number that may not change and did needs no more processes.
        if limit.kind == "exact" and (found := _exact(counts)).verdict == "REGRESSED":
            return found
        return _finding(counts, "INCONCLUSIVE", f"expected {wanted} processes of each arm or more, got {few}")
    if limit.kind == "exact":
        return _exact(counts)
    repeat = len(set(counts.base)) == len(set(counts.head)) == 1
    return _exact(counts) if repeat and on_cuda(counts.cell) else _size(counts, limit)


def _error(counts: Counts, limit: Limit) -> str:
    for arm, values in (("base", counts.base), ("head", counts.head)):
        if not values:
            return f"the {arm} has no value"
        # A network may have nothing to train; a process without memory was not measured.
        if not all(math.isfinite(value) and (value > 0 or (value == 0 and limit.kind == "exact")) for value in values):
            return f"expected numbers above 0, got {', '.join(f'{value:g}' for value in values)} of the {arm}"
    return ""


def _exact(counts: Counts) -> Finding:
    """Any change is a finding; which way decides the verdict only where one way is better."""
    before = counts.base[0]
    if {*counts.base, *counts.head} == {before}:
        return msgspec.structs.replace(_finding(counts, "PASS", "equal"), change=None)
    if len(set(counts.base)) > 1:
        return _finding(counts, "INCONCLUSIVE", f"processes of the base disagree: {_range(counts.base)}")
    reason = f"changed from {before:,.15g} to {_range(counts.head)}, where any change is a finding"
    better = METRICS[counts.metric].better
    if better != "equal" and max(counts.head) < before:
        return _finding(counts, "IMPROVED", reason)
    return _finding(counts, "REGRESSED", reason)


def _size(counts: Counts, limit: Limit) -> Finding:
    """Every process of one arm beside every process of the other: no distribution is assumed, clusters least of all."""
    base, head = counts.base, counts.head
    low, high = min(head) - max(base), max(head) - min(base)
    tolerated = _allowed(limit, limit.tolerated, max(base))
    detect = _allowed(limit, limit.detect, min(base))
    shown = f"{_mebibytes(*base)} to {_mebibytes(*head)} MiB"
    if low > tolerated:
        return _finding(counts, "REGRESSED", f"{shown}: every process grew by more than {_mebibytes(tolerated)} MiB")
    if -high > _allowed(limit, limit.tolerated, max(head)):
        return _finding(counts, "IMPROVED", f"{shown}: every process shrank by more than {_mebibytes(tolerated)} MiB")
    if high < detect:
        return _finding(counts, "PASS", f"{shown}: no process grew by {_mebibytes(detect)} MiB")
    reason = f"{shown}: some processes grew by more than {_mebibytes(tolerated)} MiB, others did not"
    return _finding(counts, "INCONCLUSIVE", reason)


def _allowed(limit: Limit, share: float, size: float) -> float:
    """Bytes; the floor grows with the share, so that the two limits stay apart for small sizes too."""
    return max(share * size, limit.floor * share / limit.tolerated)


def _finding(counts: Counts, verdict: Verdict, reason: str) -> Finding:
    base, head = median(counts.base), median(counts.head)
    change = None
    if min(counts.base) > 0:
        # Relative to the base, and all that pairs of processes say; unknown where the base is nothing.
        low, high = min(counts.head) / max(counts.base), max(counts.head) / min(counts.base)
        change = Interval(head / base - 1, low - 1, high - 1)
    return Finding(counts.cell, counts.metric, verdict, reason, base, head, change)


def _range(values: tuple[float, ...]) -> str:
    low, high = min(values), max(values)
    return f"{low:,.15g}" if low == high else f"{low:,.15g} to {high:,.15g}"


def _mebibytes(*values: float) -> str:
    low, high = min(values) / 2**20, max(values) / 2**20
    return f"{low:.1f}" if low == high else f"{low:.1f}…{high:.1f}"
