"""The one rule that says when a timed comparison is decided: online, in replay and in simulations. No torch.

Epochs are looked at after 6, 10, 16 and 24 of them. What looks like a change for the worse, or for the better, is
taken anew, and only the new epochs decide. What is surely less than the change that must be found passes.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Literal

from fashiontl.core.stats import Interval
from fashiontl.gate.comparison import chance_above, holm_levels, round_changes, trimmed_interval, values_needed
from fashiontl.gate.limits import LIMITS, Limit, limit_of
from fashiontl.gate.raw import Epoch
from fashiontl.gate.verdict import Change, Word

LOOKS = (6, 10, 16, 24)
CONFIRMATION = 16
# Of a false PASS at a change that must be found, all looks together; of a suspicion, and of all confirmations together.
ALPHA = 0.05
# A path meets four tests for PASS at most: four looks, or three and the confirmation.
PASS_LEVEL = ALPHA / len(LOOKS)
# Stop early where so many times the budget would be needed. One epoch out of line among the first six, or ten, often
# says so by mistake: stopping at once left four times as many unchanged cells undecided at a spread of 5 %.
HOPELESS = 2
# The same work in the same process after either arm's turns takes the same time, or the arms were not treated alike.
CONTROL = math.log1p(0.01)
# Seconds of a slice. No clock tells what is shorter, and nothing that is longer has ended; ratios within are numbers.
_SHORTEST, _LONGEST = 1e-12, 1e9

Action = Literal["screen", "confirm", "stop"]


@dataclass(frozen=True)
class Evidence:
    """What the epochs of one cell and metric come down to: natural logarithms of head over base, one an epoch.

    Attributes:
        screen: of the epochs that look for suspects, in the order of time.
        confirm: of the fresh ones of a suspect.
        screen_control: of the control kernel in the former.
        confirm_control: of the control kernel in the latter.
    """

    screen: tuple[float, ...] = ()
    confirm: tuple[float, ...] = ()
    screen_control: tuple[float, ...] = ()
    confirm_control: tuple[float, ...] = ()


@dataclass(frozen=True)
class Decision:
    """What the epochs so far say.

    Attributes:
        word: `PASS`, `REGRESSED`, `IMPROVED` or `INCONCLUSIVE`.
        reason: one sentence with the numbers that decided.
        action: what to take next: epochs of the screen, of the confirmation, or no more.
        change: positive is slower; None before the first look.
        epochs: how many it rests on: of the screen, and of the confirmation.
        needed: for INCONCLUSIVE, how many of a kind would probably decide it; None when unknown.
        suspect: what the screen suspects: `slower`, `faster` or nothing.
        chance: the confirmation's p-value, None without one.
    """

    word: Word
    reason: str
    action: Action
    change: Change | None = None
    epochs: tuple[int, int] = (0, 0)
    needed: int | None = None
    suspect: Literal["slower", "faster", ""] = ""
    chance: float | None = None


def thresholds() -> dict[str, object]:
    """All numbers that decide a verdict, as JSON has them: with others, other epochs would have been taken."""
    on_cuda = {metric: limit_of("-cuda", metric) for metric in LIMITS}
    return {
        "looks": list(LOOKS),
        "confirmation": CONFIRMATION,
        "alpha": ALPHA,
        "hopeless": HOPELESS,
        "control": CONTROL,
        "limits": {metric: asdict(limit) for metric, limit in LIMITS.items()},
        "on_cuda": {metric: asdict(limit) for metric, limit in on_cuda.items() if limit != LIMITS[metric] and limit},
    }


def epoch_change(base: Sequence[float], head: Sequence[float]) -> float:
    """How much slower the head was in an epoch: the median over rounds ABBA of log(head / base).

    A median over neighbours instead halts between two heaps when one of them finds cold caches: between processes its
    spread was twice as wide.

    Args:
        base: seconds of its slices, positive.
        head: as many.
    """
    return median(round_changes(base, head))


def evidence_of(epochs: Sequence[Epoch]) -> Evidence:
    """Each epoch's change and its control's."""
    stages = {stage: [epoch for epoch in epochs if epoch.stage == stage] for stage in ("screen", "confirm")}
    changes = {stage: tuple(epoch_change(epoch.base, epoch.head) for epoch in found) for stage, found in stages.items()}
    controls = {
        stage: tuple(epoch_change(epoch.control_base, epoch.control_head) for epoch in found)
        for stage, found in stages.items()
    }
    return Evidence(changes["screen"], changes["confirm"], controls["screen"], controls["confirm"])


def epoch_faults(epochs: Sequence[Epoch]) -> list[str]:
    """Why epochs cannot be judged: empty, of unequal length, or with times that are none."""
    faults = [] if epochs else ["expected epochs, got none"]
    for number, epoch in enumerate(epochs, 1):
        faults += [f"epoch {number}: {fault}" for fault in slice_faults(epoch)]
        if epoch.stage not in {"screen", "confirm"}:
            faults.append(f"epoch {number}: expected the stage screen or confirm, got {epoch.stage!r}")
    return faults


def slice_faults(epoch: Epoch) -> list[str]:
    """Why the slices of one epoch are no measurement."""
    slices = (epoch.base, epoch.head, epoch.control_base, epoch.control_head)
    lengths = [len(times) for times in slices]
    faults = []
    if len(set(lengths)) > 1 or not epoch.base:
        faults.append(f"expected as many slices of each kind, got {', '.join(map(str, lengths))}")
    if not all(_SHORTEST < seconds < _LONGEST for seconds in itertools.chain(*slices)):
        faults.append(f"expected seconds above 0, at least {_SHORTEST:g} and up to {_LONGEST:g}")
    return faults


def next_action(epochs: Sequence[Epoch], limit: Limit, budget: int = LOOKS[-1]) -> Action:
    """What to take next of a cell and metric, after any number of its epochs.

    Args:
        epochs: so far, in the order of time.
        limit: of the metric.
        budget: the most epochs of the screen that there is time for.
    """
    if not epochs:
        return "screen" if budget >= LOOKS[0] else "stop"
    return "stop" if epoch_faults(epochs) else decide(evidence_of(epochs), limit, budget=budget).action


def decide(evidence: Evidence, limit: Limit, *, level: float = ALPHA, budget: int = LOOKS[-1]) -> Decision:
    """Judge one cell and metric by its epochs so far.

    Only the first epochs up to a look count, and the first look that decides does, however many came after it: so the
    same epochs give the same answer while they are taken and ever after. Swapping the arms exchanges `REGRESSED` and
    `IMPROVED`.

    Args:
        evidence: of its epochs.
        limit: of the metric; timed.
        level: at which the confirmation is tested: Holm's, see `decide_all`.
        budget: the most epochs of the screen that there is time for; it moves `action` alone.
    """
    tolerated, detect = math.log1p(limit.tolerated), math.log1p(limit.detect)
    last = None
    for look in LOOKS:
        if look > len(evidence.screen):
            break
        changes, control = evidence.screen[:look], evidence.screen_control[:look]
        if not _calm(control):
            last = _unsettled(control, Decision("INCONCLUSIVE", "", "screen", epochs=(look, 0)), len(control))
            continue
        flag = trimmed_interval(changes, 1 - 2 * ALPHA)
        if flag.low > tolerated or flag.high < -tolerated:
            return _confirm(evidence, look, limit, level)
        bounds = trimmed_interval(changes, 1 - 2 * PASS_LEVEL)
        change = _relative(bounds)
        if bounds.high < detect:
            return Decision("PASS", f"{_text(change)}, less than {_percent(limit.detect)}", "stop", change, (look, 0))
        needed = _needed(changes, bounds.estimate, tolerated, detect)
        reason = f"{_text(change)} after {look} epochs tells neither a change nor its absence; {_hope(needed)}"
        last = Decision("INCONCLUSIVE", reason, "screen", change, (look, 0), needed)
    if last is None:
        taken = len(evidence.screen)
        action: Action = "screen" if budget >= LOOKS[0] else "stop"
        return Decision("INCONCLUSIVE", f"expected {LOOKS[0]} epochs or more, got {taken}", action, epochs=(taken, 0))
    following = next((look for look in LOOKS if look > last.epochs[0]), None)
    hopeless = last.epochs[0] > LOOKS[0] and last.needed is not None and last.needed > HOPELESS * budget
    if following is None or following > budget or hopeless:
        return replace(last, action="stop")
    return last


def decide_all(cases: Sequence[tuple[Evidence, Limit]]) -> list[Decision]:
    """Judge all timed comparisons of a gate; those that were confirmed share alpha by Holm's step-down.

    Only suspects count among the hypotheses, since other epochs made them suspects than are tested. Suspicions of
    either direction are a family of their own, so that many improvements hide no regression.

    Args:
        cases: evidence and limits of each.
    """
    decisions = [decide(evidence, limit) for evidence, limit in cases]
    for suspect in ("slower", "faster"):
        found = [
            (index, decision.chance)
            for index, decision in enumerate(decisions)
            if decision.suspect == suspect and decision.chance is not None
        ]
        for (index, _), level in zip(found, holm_levels([chance for _, chance in found], ALPHA), strict=True):
            evidence, limit = cases[index]
            decisions[index] = decide(evidence, limit, level=level)
    return decisions


def _confirm(evidence: Evidence, look: int, limit: Limit, level: float) -> Decision:
    """Judge a suspect by its fresh epochs; without them, only what the screen says surely."""
    tolerated, detect = math.log1p(limit.tolerated), math.log1p(limit.detect)
    screen = trimmed_interval(evidence.screen[:look], 1 - 2 * PASS_LEVEL)
    slower = screen.estimate > 0
    suspect: Literal["slower", "faster"] = "slower" if slower else "faster"
    taken = min(len(evidence.confirm), CONFIRMATION)
    if taken < CONFIRMATION:
        change = _relative(screen)
        word: Word = "PASS" if not slower and screen.high < detect else "INCONCLUSIVE"
        reason = f"{_text(change)} in {look} epochs; {taken} of {CONFIRMATION} fresh ones to confirm it were taken"
        return Decision(word, reason, "confirm", change, (look, taken), CONFIRMATION, suspect)
    changes, control = evidence.confirm[:CONFIRMATION], evidence.confirm_control[:CONFIRMATION]
    chance = chance_above(changes if slower else [-value for value in changes], tolerated)
    undecided = Decision("INCONCLUSIVE", "", "stop", epochs=(look, CONFIRMATION), suspect=suspect, chance=chance)
    if not _calm(control):
        return _unsettled(control, undecided, CONFIRMATION)
    bounds = trimmed_interval(changes, 1 - 2 * level)
    change = _relative(bounds)
    beyond = f"{_text(change)} in {CONFIRMATION} fresh epochs, beyond {_percent(limit.tolerated)}"
    if slower and bounds.low > tolerated:
        return replace(undecided, word="REGRESSED", reason=beyond, change=change)
    if not slower and bounds.high < -tolerated:
        return replace(undecided, word="IMPROVED", reason=beyond, change=change)
    bounds = trimmed_interval(changes, 1 - 2 * PASS_LEVEL)
    change = _relative(bounds)
    if bounds.high < detect:
        reason = f"looked {suspect}, but {_text(change)} in {CONFIRMATION} fresh epochs is less than "
        return replace(undecided, word="PASS", reason=reason + _percent(limit.detect), change=change)
    needed = _needed(changes, bounds.estimate, tolerated, detect)
    reason = f"looked {suspect}, and {_text(change)} in {CONFIRMATION} fresh epochs does not settle it; {_hope(needed)}"
    return replace(undecided, reason=reason, change=change, needed=needed)


def _calm(control: Sequence[float]) -> bool:
    """Whether the control kernel surely took the same time after both arms' turns."""
    bounds = trimmed_interval(control)
    return bounds.low >= -CONTROL and bounds.high <= CONTROL


def _unsettled(control: Sequence[float], undecided: Decision, taken: int) -> Decision:
    """Nothing is said about a cell while its control is not calm."""
    bounds = trimmed_interval(control)
    reason = (
        f"contaminated: the control kernel changed by {_text(_relative(bounds))} between the arms' turns in {taken} "
        f"epochs, expected within ±{_percent(math.expm1(CONTROL))}; give the gate a quiet machine"
    )
    # What lies wholly beyond will hardly come back; what is only wide gets narrower.
    gone = bounds.low > CONTROL or bounds.high < -CONTROL
    return replace(
        undecided,
        reason=reason,
        action="stop" if gone else undecided.action,
        needed=None if gone else values_needed(control, CONTROL, 0.95),
    )


def _needed(changes: Sequence[float], estimate: float, tolerated: float, detect: float) -> int | None:
    """How many epochs of the same spread around the same change would decide it."""
    found = [
        values_needed(changes, detect - estimate, 1 - 2 * PASS_LEVEL),
        values_needed(changes, abs(estimate) - tolerated, 1 - 2 * ALPHA),
    ]
    return min((count for count in found if count is not None), default=None)


def _relative(bounds: Interval) -> Change:
    return Change(math.expm1(bounds.estimate), math.expm1(bounds.low), math.expm1(bounds.high))


def _text(change: Change) -> str:
    return f"{100 * change.estimate:+.1f} % ({100 * change.low:+.1f} to {100 * change.high:+.1f})"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:g} %"


def _hope(needed: int | None) -> str:
    return "no number of epochs is known to" if needed is None else f"about {needed} epochs would"
