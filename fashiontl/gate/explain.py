"""Why a cell got slower: profiles of both arms, in processes of their own, operator by operator. No torch."""

import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

from fashiontl.core.case import Case, Settings
from fashiontl.gate.arm import Arm
from fashiontl.gate.raw import Arm as Name
from fashiontl.gate.result import Explained
from fashiontl.gate.untimed import in_turn
from fashiontl.matrix.options import as_timed
from fashiontl.profiling.operators import OTHERS, Operator, Profile, difference, from_dict
from fashiontl.runner.messages import PROFILE, Progress

# A single profile is of two steps, and any of its rows may have met a pause of the machine.
_PROFILES = 3
_NAMED = 3
# Of the whole growth; what is less is noise, or a consequence.
_LEAST_SHARE = 0.05


def explain(
    arms: Mapping[Name, Arm], case: Case, metrics: Sequence[str], settings: Settings, progress: Progress
) -> tuple[list[Explained], list[str]]:
    """Profile training steps of a case in both arms, and name what grew.

    For `latency` and `inference_throughput` only what the forward pass of the step does counts.

    Returns:
        For each metric at most three operators, the largest growth first; and why nothing can be said.
    """
    profiles: dict[Name, list[Profile]] = {"base": [], "head": []}
    with tempfile.TemporaryDirectory(prefix="fashiontl-") as traces:
        for turn in range(_PROFILES):
            for arm in in_turn(turn):
                progress(f"{case.id}: profiling {arm}, {turn + 1} of {_PROFILES}")
                outcome = arms[arm].run(PROFILE, as_timed(case), settings, progress, traces=traces)
                if outcome.status != "ok" or outcome.result is None:
                    return [], [f"{case.id}: the {arm} could not be profiled: {outcome.reason}"]
                profiles[arm].append(from_dict(outcome.result.provenance["profile"]))
    before, after = typical(profiles["base"]), typical(profiles["head"])
    found = [growth(case.id, metric, _seen_by(metric, before), _seen_by(metric, after)) for metric in metrics]
    warnings = [
        f"{case.id}, {metric}: slower, but no operator is under the profiler"
        for metric, explained in zip(metrics, found, strict=True)
        if not explained
    ]
    return [one for explained in found for one in explained], warnings


def typical(profiles: Sequence[Profile]) -> Profile:
    """The first of several profiles of the same, with the median of each operator's self time."""
    rows: dict[tuple[str, str, str], list[Operator]] = defaultdict(list)
    for profile in profiles:
        for row in profile.operators:
            rows[row.name, row.module, row.phase].append(row)
    operators = []
    for found in rows.values():
        # Where a profile lacks it, it was too small for a row.
        absent = [0.0] * (len(profiles) - len(found))
        cpu = median([*(row.self_cpu_s for row in found), *absent])
        device = median([*(row.self_device_s for row in found), *absent])
        operators.append(replace(found[0], self_cpu_s=cpu, self_device_s=device))
    return replace(profiles[0], operators=tuple(operators))


def growth(cell: str, metric: str, before: Profile, after: Profile) -> list[Explained]:
    """The operators whose self time grew most, with what they are of all growth; forward and backward together."""
    seconds: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for change in difference(before, after):
        row = seconds[change.operator, change.module]
        row[0] += change.before_s
        row[1] += change.after_s
    whole = sum(max(0.0, after_s - before_s) for before_s, after_s in seconds.values())
    found = [
        Explained(cell, metric, operator, module, before_s, after_s, (after_s - before_s) / whole)
        for (operator, module), (before_s, after_s) in seconds.items()
        if operator != OTHERS and after_s - before_s > _LEAST_SHARE * whole
    ]
    return sorted(found, key=lambda one: -one.share)[:_NAMED]


def _seen_by(metric: str, profile: Profile) -> Profile:
    if metric == "train_throughput":
        return profile
    return replace(profile, operators=tuple(row for row in profile.operators if row.phase == "forward"))
