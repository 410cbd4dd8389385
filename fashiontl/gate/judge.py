"""From what a gate measured to its verdict: a pure function, so that a replay says the same. No torch.

What cannot be judged never passes: each cell that was asked for has a finding, and each finding a verdict.
"""

import math
from collections.abc import Iterator, Sequence
from datetime import date
from statistics import median
from typing import TypeVar

from msgspec.structs import replace

from fashiontl.core.errors import FashiontlError
from fashiontl.core.metrics import METRICS
from fashiontl.core.stats import percentile
from fashiontl.gate.accuracy import judge_answers
from fashiontl.gate.comparison import trimmed_interval
from fashiontl.gate.counts import judge_counts
from fashiontl.gate.limits import COUNTED, LIMITS, TAIL, TIMED, Limit, limit_of
from fashiontl.gate.raw import SCHEMA, Answers, Asked, Counts, Raw, Series
from fashiontl.gate.result import EXIT_CODES, NO_TIME, Finding, GateResult, Verdict, change_of
from fashiontl.gate.sequential import ALPHA, LOOKS, decide_all, evidence_of, relative, thresholds, trial_errors
from fashiontl.gate.waivers import WHOLE, Waiver

_Measured = TypeVar("_Measured", Series, Counts)


def judge(raw: Raw, waivers: Sequence[Waiver] = (), *, today: date) -> GateResult:
    """Judge a gate by the waivers that count today; `waivers` has expired ones too.

    Raises:
        FashiontlError: the measurements are of another schema.
    """
    if raw.schema != SCHEMA:
        raise FashiontlError(
            f"expected measurements of schema {SCHEMA}, got {raw.schema}; judge them with the version that took them"
        )
    # Where it is not known what was asked for, that is what there is.
    timed = {series.metric for series in raw.series}
    asked = raw.asked or Asked(
        cells=raw.cells, metrics=tuple(metric for metric in LIMITS if metric in timed), processes={}, slices=0, seeds=0,
        settings={}, base=raw.base.commit, head=raw.head.commit, thresholds={},
    )  # fmt: skip
    findings = [*_failures(raw), *_timed(raw, asked), *_counts(raw, asked), *_accuracy(raw, asked)]
    findings += _absent(raw, asked, findings)
    order = {cell: index for index, cell in enumerate((*raw.cells, *raw.removed))}
    metrics = {metric: index for index, metric in enumerate((WHOLE, *METRICS))}
    findings.sort(key=lambda f: (order.get(f.cell, len(order)), metrics.get(f.metric, len(metrics)), f.advisory))
    for index, finding in enumerate(findings):
        covering = (each for each in waivers if each.covers(finding.cell, finding.metric, change_of(finding), today))
        # What is harmless needs none.
        if finding.is_bad and not finding.advisory and (waiver := next(covering, None)):
            findings[index] = replace(finding, waiver=str(waiver))
    compared = any(not finding.advisory and finding.verdict not in {"MISSING", "CRASHED"} for finding in findings)
    deciding = {finding.verdict for finding in findings if finding.decides}
    verdict: Verdict = next((verdict for verdict in EXIT_CODES if verdict in deciding), "PASS")
    # A crash is the reason why nothing was compared; whatever else is left, waived or not, is no comparison.
    if not compared and verdict != "CRASHED":
        verdict = "MISSING"
    less = list(_less(raw))
    # `--inconclusive=warn` lets pass what is not known, and not what is not there.
    if less and verdict in {"PASS", "IMPROVED", "INCONCLUSIVE"}:
        verdict = "MISSING"
    notes = [*less, *_notes(raw), *_unused(findings, waivers, today)]
    if not compared:
        step = "; name a base that has these cells" if raw.new and not raw.failures else ""
        notes.insert(0, f"no cell was measured in both arms: nothing was compared, so nothing passed{step}")
    return GateResult(verdict, EXIT_CODES[verdict], tuple(findings), (), tuple(notes), raw)


def _failures(raw: Raw) -> list[Finding]:
    """Cells that one of the arms does not have, or could not measure."""
    found = [
        Finding(cell, WHOLE, "MISSING", "the base has this cell and the head does not; waive it if that is intended")
        for cell in raw.removed
    ]
    for failure in raw.failures:
        missing = failure.kind == "missing"
        is_new = failure.cell in raw.new and failure.arm == "base"
        if not (missing and (is_new or failure.cell in raw.removed)):
            reason = f"{failure.kind} in the {failure.arm}: {failure.reason}"
            found.append(Finding(failure.cell, WHOLE, "MISSING" if missing else "CRASHED", reason))
    return found


def _less(raw: Raw) -> Iterator[str]:
    """Why this cannot be all that was asked for, whatever its findings are."""
    asked = raw.asked
    if raw.interrupted:
        yield "it was interrupted before it had all that it was asked for; run it again"
    if asked is None:
        yield (
            "what was asked for is not stated, as in a file of an earlier version: whether "
            "cells, metrics or trials are missing is unknown, so nothing passed; run the gate again"
        )
        return
    if not asked.cells or not asked.metrics or not asked.processes.keys() >= {*asked.cells}:
        yield "it was asked for no cell, for no metric, or for no processes of a cell: nothing can pass"
    if asked.thresholds != thresholds():
        yield "it was taken to find other changes than this version does; judge it with the version that took it"
    for arm, commit, tree in (("base", asked.base, raw.base), ("head", asked.head, raw.head)):
        if commit != tree.commit:
            yield f"expected commit {commit} as the {arm}, as it was asked for, got {tree.commit}; run the gate again"
    if unasked := [cell for cell in (*raw.cells, *raw.removed) if cell not in asked.cells]:
        yield f"expected the cells that were asked for, got {', '.join(unasked)} as well; run the gate again"
    # A statement that was shortened would otherwise hide a number that another cell lacks.
    taken = [(each.cell, each.metric) for each in raw.series] + [(each.cell, each.metric) for each in raw.counts]
    taken += [(answers.cell, "accuracy") for answers in raw.answers]
    metrics = dict.fromkeys(metric for cell, metric in taken if cell not in raw.new)
    if more := [metric for metric in metrics if metric not in asked.metrics]:
        yield f"expected the metrics that were asked for, got {', '.join(more)} as well; run the gate again"


def _absent(raw: Raw, asked: Asked, findings: Sequence[Finding]) -> list[Finding]:
    """Cells that were asked for and have nothing, and metrics that were asked for and that they lack."""
    failed = {finding.cell for finding in findings if finding.metric == WHOLE}
    reported = {(found.cell, found.metric) for found in findings if not found.advisory}
    reported |= {(unavailable.cell, unavailable.metric) for unavailable in raw.unavailable}
    found = []
    # What there was no time for is not lost: the next step is more time.
    is_over = 0 < raw.budget <= raw.seconds
    why = f"the budget of {raw.budget:g} s (--budget) {NO_TIME}" if is_over else ""
    for cell in dict.fromkeys((*raw.cells, *asked.cells)):
        if cell in failed or cell in raw.new:
            continue
        lacking = [metric for metric in asked.metrics if (cell, metric) not in reported]
        # Counts do not stand in for times.
        times = [metric for metric in asked.metrics if metric in TIMED]
        if not any(each.cell == cell for each in findings) or (times and set(times) <= set(lacking)):
            found.append(Finding(cell, WHOLE, "MISSING", why or "was asked for and has no measurements; see the notes"))
        else:
            reason = why or "was asked for and is not here; see the notes"
            found += [Finding(cell, metric, "MISSING", reason) for metric in lacking]
    return found


def _timed(raw: Raw, asked: Asked) -> list[Finding]:
    """Series by the sequential rule, and their tails beside them."""
    found = []
    sound: list[tuple[Series, Limit]] = []
    for series, error in _each_once(raw, raw.series, TIMED):
        limit = limit_of(series.cell, series.metric)
        errors = [*trial_errors(series.trials), *([error] if error else [])]
        if (fewest := min((len(trial.base) for trial in series.trials), default=asked.slices)) < asked.slices:
            errors.append(f"expected {asked.slices} slices of each arm in a trial or more, got {fewest}")
        if errors or limit is None:
            found.append(Finding(series.cell, series.metric, "CRASHED", "; ".join(errors)))
        else:
            sound.append((series, limit))
    decisions = decide_all([(evidence_of(series.trials), limit) for series, limit in sound])
    for (series, limit), decision in zip(sound, decisions, strict=True):
        base, head = (median(map(median, arm)) for arm in zip(*((t.base, t.head) for t in series.trials), strict=True))
        if METRICS[series.metric].unit != "s":
            base, head = series.images / base, series.images / head
        # What looked faster and was not confirmed: the trials that would tell were asked for, and are not here.
        unconfirmed = decision.verdict == "PASS" and decision.action != "stop"
        verdict: Verdict = "INCONCLUSIVE" if unconfirmed else decision.verdict
        found.append(
            Finding(
                series.cell, series.metric, verdict, decision.reason, base, head, decision.change,
                decision.trials, decision.needed,
            )
        )  # fmt: skip
        if limit.metric == TAIL.metric:
            found += _tail(series)
    return found


def _each_once(raw: Raw, measured: Sequence[_Measured], metrics: Sequence[str]) -> Iterator[tuple[_Measured, str]]:
    """What was measured of cells that are not new, and why it cannot be judged; empty where it can."""
    seen = set()
    for each in measured:
        if each.cell in raw.new:
            continue
        error = "" if each.metric in metrics else "is no metric that the gate judges so"
        if (each.cell, each.metric) in seen:
            error = "is there twice, and which one counts is unknown"
        seen.add((each.cell, each.metric))
        yield each, error


def _tail(series: Series) -> list[Finding]:
    """A high percentile of the slices, compared trial by trial; it is shown and decides nothing."""
    assert TAIL.percentile is not None
    trials = [trial for trial in series.trials if trial.stage == "screen"]
    if len(trials) < LOOKS[0]:
        return []
    bases, heads = ([percentile(arm, TAIL.percentile) for arm in arms]
                    for arms in zip(*((trial.base, trial.head) for trial in trials), strict=True))  # fmt: skip
    changes = [math.log(head) - math.log(base) for base, head in zip(bases, heads, strict=True)]
    bounds = trimmed_interval(changes, 1 - 2 * ALPHA)
    verdict: Verdict = "INCONCLUSIVE"
    if bounds.low > math.log1p(TAIL.tolerated):
        verdict = "SUSPECT"
    elif bounds.high < math.log1p(TAIL.detect):
        verdict = "PASS"
    reason, taken = f"{TAIL.percentile:g}th percentile of the slices, for information", (len(trials), 0)
    return [
        Finding(series.cell, TAIL.metric, verdict, reason, median(bases), median(heads), relative(bounds), taken,
                advisory=True)
    ]  # fmt: skip


def _counts(raw: Raw, asked: Asked) -> list[Finding]:
    found = []
    crashed = {failure.cell for failure in raw.failures if failure.kind != "missing"}
    # What an arm that crashed did not count is no finding beside the crash.
    counted = [each for each in raw.counts if each.cell not in crashed or (each.base and each.head)]
    for counts, error in _each_once(raw, counted, COUNTED):
        limit = limit_of(counts.cell, counts.metric)
        if error or limit is None:
            found.append(Finding(counts.cell, counts.metric, "CRASHED", error))
        else:
            found.append(judge_counts(counts, limit, asked.processes.get(counts.cell, 0)))
    return found


def _accuracy(raw: Raw, asked: Asked) -> list[Finding]:
    by_cell: dict[str, list[Answers]] = {}
    for answers in raw.answers:
        if answers.cell not in raw.new:
            by_cell.setdefault(answers.cell, []).append(answers)
    once = [answers[0] for answers in by_cell.values() if len(answers) == 1]
    found = judge_answers(once, LIMITS["accuracy"], asked.seeds)
    reason = "is there twice, and which one counts is unknown"
    return found + [Finding(c, "accuracy", "CRASHED", reason) for c, answers in by_cell.items() if len(answers) > 1]


def _unused(findings: Sequence[Finding], waivers: Sequence[Waiver], today: date) -> list[str]:
    """Waivers of findings that they do not cover: they have expired, or more has changed than they allow."""
    open_ones = [finding for finding in findings if finding.is_bad and finding.decides]
    notes = []
    for waiver in waivers:
        about = [found for found in open_ones if waiver.matches(found.cell, found.metric)]
        if about and today > waiver.expires:
            notes.append(
                f"waiver {waiver.path.stem} of {waiver.owner} expired on {waiver.expires} and no longer counts: "
                f"{waiver.reason}"
            )
        elif about:
            most = max(map(change_of, about))
            notes.append(
                f"waiver {waiver.path.stem} of {waiver.owner} does not count: expected a change of {waiver.ceiling:g} "
                f"{'points' if waiver.metric == 'accuracy' else '%'} at most, got up to {most:.3g}"
            )
    return notes


def _notes(raw: Raw) -> list[str]:
    notes = [f"new, so with nothing to compare with: {cell}" for cell in raw.new]
    if raw.base.protocol != raw.head.protocol:
        notes.append(
            f"the base measures by protocol {raw.base.protocol}, the head by {raw.head.protocol}: a difference may be "
            "that of measuring"
        )
    if raw.base.commit is not None and raw.base.commit == raw.head.commit and not (raw.base.dirty or raw.head.dirty):
        notes.append(f"both arms are commit {raw.base.commit[:12]}")
    notes += [
        f"the {arm}, {tree.ref}, differs from its commit" for arm, tree in (("base", raw.base), ("head", raw.head))
        if tree.dirty
    ]  # fmt: skip
    return [*notes, *raw.warnings]
