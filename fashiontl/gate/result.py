"""What a gate says: a verdict for each cell and metric, one for all, and an exit code. No torch."""

from typing import Literal

from msgspec import Struct

from fashiontl.core.metrics import METRICS
from fashiontl.core.stats import Interval
from fashiontl.gate.raw import Raw
from fashiontl.gate.waivers import ALL, WHOLE

Verdict = Literal["PASS", "REGRESSED", "IMPROVED", "SUSPECT", "INCONCLUSIVE", "NO_BASELINE", "MISSING", "CRASHED"]

# 2 is bad input, as of every command. The first of these verdicts that any cell has decides the exit code.
EXIT_CODES: dict[Verdict, int] = {
    "CRASHED": 12,
    "MISSING": 12,
    "REGRESSED": 1,
    "NO_BASELINE": 11,
    "SUSPECT": 10,
    "INCONCLUSIVE": 10,
    "IMPROVED": 0,
    "PASS": 0,
}

# In the reason of a finding that the gate's budget was too short for: more time is the next step, not a waiver.
NO_TIME = "left no time for it"


class Finding(Struct, frozen=True):
    """The verdict of one cell and metric.

    Attributes:
        metric: a key of `fashiontl.core.metrics.METRICS`; `*` where the whole cell is missing or crashed.
        reason: one sentence with the numbers that decided.
        base: the base arm's number in the metric's base unit (median of the trials' medians); None when unknown.
        change: of the head from the base, with the interval on which the verdict rests: relative (0.05 is 5 % worse),
            or absolute for accuracy (a fraction). Positive is worse, whichever way is better for the metric. None where
            the comparison is exact and equal, or nothing was measured.
        trials: how many it rests on: of the screen, and of the confirmation.
        needed: for INCONCLUSIVE, trials that would probably decide it; None when unknown.
        advisory: whether it is shown but never decides.
        waiver: owner, reason and expiry of the waiver that covers it; empty without one.
    """

    cell: str
    metric: str
    verdict: Verdict
    reason: str
    base: float | None = None
    head: float | None = None
    change: Interval | None = None
    trials: tuple[int, int] = (0, 0)
    needed: int | None = None
    advisory: bool = False
    waiver: str = ""

    @property
    def decides(self) -> bool:
        """Whether it has a say in the exit code."""
        return not (self.advisory or self.waiver)

    @property
    def is_bad(self) -> bool:
        """Whether its verdict is one that fails a gate."""
        return EXIT_CODES[self.verdict] != 0


class Explained(Struct, frozen=True):
    """Why a cell got slower: an operator or kernel whose self time, in seconds a call, grew.

    Attributes:
        module: in which it ran, such as `stage2.0.conv1`; empty when in none.
        share: of the whole growth.
    """

    cell: str
    metric: str
    operator: str
    module: str
    base_seconds: float
    head_seconds: float
    share: float


class GateResult(Struct, frozen=True):
    """A judged gate.

    Attributes:
        verdict: of the whole: the first in `EXIT_CODES` that any finding has that is neither advisory nor waived.
        findings: cell by cell, in the order in which they were asked for.
        explained: for what regressed, the largest growth first.
        notes: what else a reader must know: expired waivers, new cells, a dirty tree, warnings about the machine.
    """

    verdict: Verdict
    exit_code: int
    findings: tuple[Finding, ...]
    explained: tuple[Explained, ...]
    notes: tuple[str, ...]
    raw: Raw


def change_of(finding: Finding) -> float:
    """The largest change that a finding may stand for, in per cent, of accuracy in points: what a waiver must cover.

    What was not compared, since it is gone, crashed or was not measured, may have changed by all of it.
    """
    change = finding.change
    if change is None or finding.metric == WHOLE:
        return ALL
    metric = METRICS.get(finding.metric)
    either = metric is not None and metric.better == "equal"
    return 100 * (max(abs(change.low), abs(change.high)) if either else change.high)
