"""The one rule that says when a timed comparison is decided: online, in replay and in simulations. No torch.

Trials are looked at after 6, 10, 16 and 24 of them. What looks like a change for the worse, or for the better, is
measured again, and only the fresh trials decide. A cell passes if the upper bound of its change is below the change
that must be detected.
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
from fashiontl.gate.raw import Trial
from fashiontl.gate.result import Verdict

LOOKS = (6, 10, 16, 24)
CONFIRMATION = 16
# Of a false PASS at a change that must be found, all looks together; of a suspicion, and of all confirmations together.
ALPHA = 0.05
# A path meets four tests for PASS at most: four looks, or three and the confirmation.
PASS_LEVEL = ALPHA / len(LOOKS)
# Stop early where so many times the budget would be needed. One trial out of line among the first six, or ten, often
# says so by mistake: stopping at once left four times as many unchanged cells undecided at a spread of 5 %.
HOPELESS = 2
# The same work in the same process after either arm's turns takes the same time, or the arms were not treated alike.
REFERENCE = math.log1p(0.01)
# Seconds of a slice. No clock tells what is shorter, and nothing that is longer has ended; ratios within are numbers.
_SHORTEST, _LONGEST = 1e-12, 1e9

Action = Literal["screen", "confirm", "stop"]


@dataclass(frozen=True)
class Evidence:
    """Each trial's natural logarithm of head over base, in the order of time, and the same of the reference kernel."""

    screen: tuple[float, ...] = ()
    confirm: tuple[float, ...] = ()
    screen_reference: tuple[float, ...] = ()
    confirm_reference: tuple[float, ...] = ()


@dataclass(frozen=True)
class Decision:
    """What the trials so far say.

    Attributes:
        action: what to take next: trials of the screen, of the confirmation, or no more.
        change: positive is slower; None before the first look.
        trials: how many it rests on: of the screen, and of the confirmation.
        needed: for INCONCLUSIVE, how many of a kind would probably decide it; None when unknown.
        suspect: what the screen suspects: `slower`, `faster` or nothing.
        chance: the confirmation's p-value, None without one.
    """

    verdict: Verdict
    reason: str
    action: Action
    change: Interval | None = None
    trials: tuple[int, int] = (0, 0)
    needed: int | None = None
    suspect: Literal["slower", "faster", ""] = ""
    chance: float | None = None


def thresholds() -> dict[str, object]:
    """All numbers that decide a verdict, as JSON has them: with others, other trials would have been taken."""
    on_cuda = {metric: limit_of("-cuda", metric) for metric in LIMITS}
    return {
        "looks": list(LOOKS),
        "confirmation": CONFIRMATION,
        "alpha": ALPHA,
        "hopeless": HOPELESS,
        "reference": REFERENCE,
        "limits": {metric: asdict(limit) for metric, limit in LIMITS.items()},
        "on_cuda": {metric: asdict(limit) for metric, limit in on_cuda.items() if limit != LIMITS[metric] and limit},
    }


def trial_change(base: Sequence[float], head: Sequence[float]) -> float:
    """How much slower the head was in a trial: the median over rounds ABBA of log(head / base).

    A median over neighbours instead lies between two clusters when one of them finds cold caches: between processes its
    spread was twice as wide.
    """
    return median(round_changes(base, head))


def evidence_of(trials: Sequence[Trial]) -> Evidence:
    """What trials come down to."""
    found: dict[str, list[float]] = {"screen": [], "confirm": [], "screen_reference": [], "confirm_reference": []}
    for trial in trials:
        found[trial.stage].append(trial_change(trial.base, trial.head))
        found[f"{trial.stage}_reference"].append(trial_change(trial.reference_base, trial.reference_head))
    return Evidence(**{name: tuple(changes) for name, changes in found.items()})


def trial_errors(trials: Sequence[Trial]) -> list[str]:
    """Why trials cannot be judged: there are none, or their slices are no measurement."""
    errors = [] if trials else ["expected trials, got none"]
    for number, trial in enumerate(trials, 1):
        slices = (trial.base, trial.head, trial.reference_base, trial.reference_head)
        lengths = [len(times) for times in slices]
        if len(set(lengths)) > 1 or not trial.base:
            errors.append(
                f"trial {number}: expected as many slices of each kind, got {', '.join(map(str, lengths))}"
            )  # fmt: skip
        if not all(_SHORTEST < seconds < _LONGEST for seconds in itertools.chain(*slices)):
            errors.append(f"trial {number}: expected seconds above 0, at least {_SHORTEST:g} and up to {_LONGEST:g}")
    return errors


def next_action(trials: Sequence[Trial], limit: Limit, budget: int = LOOKS[-1]) -> Action:
    """What to take next after any number of a cell's and metric's trials; arguments as of `decide`."""
    if not trials:
        return "screen" if budget >= LOOKS[0] else "stop"
    return "stop" if trial_errors(trials) else decide(evidence_of(trials), limit, budget=budget).action


def decide(evidence: Evidence, limit: Limit, *, level: float = ALPHA, budget: int = LOOKS[-1]) -> Decision:
    """Judge one cell and metric by its trials so far.

    Only the first trials up to a look count, and the first look that decides does, however many came after it: so the
    same trials give the same answer while they are taken and ever after. Swapping the arms exchanges `REGRESSED` and
    `IMPROVED`.

    Args:
        evidence: of its trials.
        limit: of the metric; timed.
        level: at which the confirmation is tested: Holm's, see `decide_all`.
        budget: the most trials of the screen that there is time for; it moves `action` alone.
    """
    tolerated, taken = math.log1p(limit.tolerated), len(evidence.screen)
    last = Decision("INCONCLUSIVE", f"expected {LOOKS[0]} trials or more, got {taken}", "screen", trials=(taken, 0))
    for look in LOOKS:
        if look > taken:
            break
        changes, undecided = evidence.screen[:look], Decision("INCONCLUSIVE", "", "screen", trials=(look, 0))
        contaminated = _contaminated(evidence.screen_reference[:look], undecided)
        if contaminated is None:
            flag = trimmed_interval(changes, 1 - 2 * ALPHA)
            if flag.low > tolerated or flag.high < -tolerated:
                return _confirm(evidence, look, limit, level)
        last = contaminated or _pass_or_not(changes, limit, undecided, "trials")
        if last.verdict == "PASS":
            return last
    following = next((look for look in LOOKS if look > last.trials[0]), None)
    hopeless = last.trials[0] > LOOKS[0] and last.needed is not None and last.needed > HOPELESS * budget
    if following is None or following > budget or hopeless:
        return replace(last, action="stop")
    return last


def decide_all(cases: Sequence[tuple[Evidence, Limit]]) -> list[Decision]:
    """Judge all timed comparisons of a gate; those that were confirmed share alpha by Holm's step-down.

    Only suspects count among the hypotheses, since other trials made them suspects than are tested. Suspicions of
    either direction are a family of their own, so that many improvements hide no regression.
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
    """Judge a suspect by its fresh trials; without them, only what the bounds of the screen say."""
    tolerated, detect = math.log1p(limit.tolerated), math.log1p(limit.detect)
    screen = trimmed_interval(evidence.screen[:look], 1 - 2 * PASS_LEVEL)
    slower = screen.estimate > 0
    suspect: Literal["slower", "faster"] = "slower" if slower else "faster"
    taken = min(len(evidence.confirm), CONFIRMATION)
    if taken < CONFIRMATION:
        change = relative(screen)
        verdict: Verdict = "PASS" if not slower and screen.high < detect else "INCONCLUSIVE"
        reason = f"{_text(change)} in {look} trials; {taken} of {CONFIRMATION} fresh ones to confirm it were taken"
        return Decision(verdict, reason, "confirm", change, (look, taken), CONFIRMATION, suspect)
    changes = evidence.confirm[:CONFIRMATION]
    chance = chance_above(changes if slower else [-value for value in changes], tolerated)
    undecided = Decision("INCONCLUSIVE", "", "stop", trials=(look, CONFIRMATION), suspect=suspect, chance=chance)
    if contaminated := _contaminated(evidence.confirm_reference[:CONFIRMATION], undecided):
        return contaminated
    bounds = trimmed_interval(changes, 1 - 2 * level)
    if bounds.low > tolerated if slower else bounds.high < -tolerated:
        change = relative(bounds)
        reason = f"{_text(change)} in {CONFIRMATION} fresh trials, beyond {_percent(limit.tolerated)}"
        return replace(undecided, verdict="REGRESSED" if slower else "IMPROVED", reason=reason, change=change)
    return _pass_or_not(changes, limit, undecided, f"fresh trials of what looked {suspect}")


def _contaminated(reference: Sequence[float], undecided: Decision) -> Decision | None:
    """No verdict where the reference kernel was not within its limit after both arms' turns; None where it was."""
    bounds = trimmed_interval(reference)
    if bounds.low >= -REFERENCE and bounds.high <= REFERENCE:
        return None
    reason = (
        f"contaminated: the reference kernel changed by {_text(relative(bounds))} between the arms' turns in "
        f"{len(reference)} trials, expected within ±{_percent(math.expm1(REFERENCE))}; give the gate a quiet machine"
    )
    # What lies wholly beyond will hardly come back; what is only wide gets narrower.
    if bounds.low > REFERENCE or bounds.high < -REFERENCE:
        return replace(undecided, reason=reason, action="stop")
    return replace(undecided, reason=reason, needed=values_needed(reference, REFERENCE, 0.95))


def _pass_or_not(changes: Sequence[float], limit: Limit, undecided: Decision, trials: str) -> Decision:
    """PASS where the change is surely less than must be detected; else how many trials would probably decide."""
    tolerated, detect = math.log1p(limit.tolerated), math.log1p(limit.detect)
    bounds = trimmed_interval(changes, 1 - 2 * PASS_LEVEL)
    change = relative(bounds)
    said = f"{_text(change)} in {len(changes)} {trials}"
    if bounds.high < detect:
        reason = f"{said}, less than {_percent(limit.detect)}"
        return replace(undecided, verdict="PASS", reason=reason, action="stop", change=change)
    counts = (
        values_needed(changes, detect - bounds.estimate, 1 - 2 * PASS_LEVEL),
        values_needed(changes, abs(bounds.estimate) - tolerated, 1 - 2 * ALPHA),
    )
    needed = min((count for count in counts if count is not None), default=None)
    hope = "no number of trials is known to" if needed is None else f"about {needed} trials would"
    return replace(undecided, reason=f"{said} settles nothing; {hope}", change=change, needed=needed)


def relative(bounds: Interval) -> Interval:
    """Logarithms of head over base as relative changes."""
    return Interval(math.expm1(bounds.estimate), math.expm1(bounds.low), math.expm1(bounds.high))


def _text(change: Interval) -> str:
    return f"{100 * change.estimate:+.1f} % ({100 * change.low:+.1f} to {100 * change.high:+.1f})"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:g} %"
