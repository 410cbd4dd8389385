"""Which slowdown a gate detects on a machine, and in which time: the sequential rule, run on simulated trials."""

import math
import random
from dataclasses import dataclass
from statistics import fmean, stdev

from fashiontl.core.escape import to_line
from fashiontl.gate.limits import Limit, limit_of
from fashiontl.gate.raw import Raw
from fashiontl.gate.sequential import CONFIRMATION, LOOKS, Evidence, decide, evidence_of, trial_errors

# A slowdown counts as detected if this share of gates reports it.
POWER = 0.9
SLOWDOWNS = (0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.10, 0.12, 0.15, 0.20, 0.30, 0.50, 1.00)
# A share of 90 % of them has a standard error of 2 %.
_GATES = 200
_WIDTHS = [24, 20, None, None, None, None, None]


@dataclass(frozen=True)
class Simulated:
    """Shares of the simulated gates that report a slowdown and that pass, and the mean number of trials they take."""

    detected: float
    passed: float
    trials: float


@dataclass(frozen=True)
class Row:
    """What a gate can detect in one cell and metric.

    Attributes:
        std: standard deviation of the trials' log(head / base).
        taken: trials from which it is computed.
        smallest: the smallest of `SLOWDOWNS` that nine gates of ten report; None where that is none of them.
        unchanged: gates of unchanged code.
        slower: gates of the smallest slowdown that must be detected (5 %).
        seconds: that a trial takes.
    """

    cell: str
    metric: str
    std: float
    taken: int
    smallest: float | None
    unchanged: Simulated
    slower: Simulated
    seconds: float


def simulate(std: float, slowdown: float, limit: Limit) -> Simulated:
    """Run the rule of `fashiontl.gate.sequential` on trials with normal noise; the noise is the same for each slowdown.

    Args:
        std: standard deviation of log(head / base).
        slowdown: true median of log(head / base).
        limit: of the metric.
    """
    draw = random.Random(0)
    steady = (0.0,) * LOOKS[-1]
    decisions = []
    for _ in range(_GATES):
        screen, confirm = (
            tuple(slowdown + std * draw.gauss() for _ in range(count)) for count in (LOOKS[-1], CONFIRMATION)
        )
        decisions.append(decide(Evidence(screen, confirm, steady, steady), limit))
    verdicts = [decision.verdict for decision in decisions]
    detected, passed = (verdicts.count(verdict) / _GATES for verdict in ("REGRESSED", "PASS"))
    return Simulated(detected, passed, fmean(sum(decision.trials) for decision in decisions))


def plan(raw: Raw) -> list[Row]:
    """What gates like this one can detect, cell by cell; what cannot be judged is left out.

    A gate of any two commits will do, since a change shifts all trials of a series alike. How long single trials took
    is not kept: each gets its share of the whole gate's time.
    """
    taken = sum(len(series.trials) for series in raw.series)
    rows = []
    for series in raw.series:
        limit = limit_of(series.cell, series.metric)
        if limit is None or limit.kind != "timed" or trial_errors(series.trials):
            continue
        evidence = evidence_of(series.trials)
        stds = [stdev(changes) for changes in (evidence.screen, evidence.confirm) if len(changes) > 1]
        if not stds:
            continue
        std = max(stds)
        smallest = next((each for each in SLOWDOWNS if simulate(std, math.log1p(each), limit).detected >= POWER), None)
        unchanged, slower = (simulate(std, math.log1p(each), limit) for each in (0.0, limit.detect))
        seconds = raw.seconds / taken
        rows.append(
            Row(series.cell, series.metric, std, len(series.trials), smallest, unchanged, slower, seconds)
        )  # fmt: skip
    return rows


def plan_text(rows: list[Row]) -> str:
    """A plan as a table for a terminal, within 110 columns."""
    from tabulate import tabulate

    header = ["cell", "metric", "std (trials)", "detected from", "5 % detected", "0 % passes", "time"]
    lines = [
        [
            to_line(row.cell),
            to_line(row.metric),
            f"{100 * row.std:.1f} % ({row.taken})",
            "more" if row.smallest is None else f"{100 * row.smallest:g} %",
            f"{100 * row.slower.detected:.0f} %",
            f"{100 * row.unchanged.passed:.0f} %",
            f"{row.unchanged.trials * row.seconds / 60:.1f} to {row.slower.trials * row.seconds / 60:.1f} min",
        ]
        for row in rows
    ]
    table = tabulate(lines, header, tablefmt="simple", disable_numparse=True, maxcolwidths=_WIDTHS)
    return f"""{table}

{_GATES} gates are simulated with the standard deviation between trials (pairs of fresh processes) that was
measured here. "Detected from" is the smallest slowdown that {100 * POWER:g} % of them report; the time is that of
unchanged code, and of code that is 5 % slower."""
