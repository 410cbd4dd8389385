"""From what a gate measured to its verdict: a pure function, so that a replay says the same. No torch.

What cannot be judged never passes: each cell that was asked for has a finding, and each finding a word.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from statistics import median

from fashiontl.core.errors import FashiontlError
from fashiontl.core.metrics import METRICS
from fashiontl.core.stats import percentile
from fashiontl.gate.accuracy import judge_answers
from fashiontl.gate.asked import TIMED
from fashiontl.gate.comparison import trimmed_interval
from fashiontl.gate.counts import judge_counts
from fashiontl.gate.limits import LIMITS, TAIL, Limit, limit_of
from fashiontl.gate.raw import SCHEMA, Arm, Epoch, Failure, Raw, Series
from fashiontl.gate.sequential import ALPHA, LOOKS, decide_all, epoch_faults, evidence_of, thresholds
from fashiontl.gate.verdict import EXIT_CODES, Change, Explained, Finding, Verdict, Word, change_of
from fashiontl.gate.waivers import WHOLE, Waiver

_TWICE = "is there twice, and which is meant is unknown"


def judge(raw: Raw, waivers: Sequence[Waiver] = (), explained: Sequence[Explained] = (), *, today: date) -> Verdict:
    """Judge a gate.

    Args:
        raw: what it measured.
        waivers: all that were found, expired ones too.
        explained: why cells got slower, where that was looked into.
        today: decides which waivers count.

    Raises:
        FashiontlError: the measurements are of another schema.
    """
    if raw.schema != SCHEMA:
        raise FashiontlError(
            f"expected measurements of schema {SCHEMA}, got {raw.schema}; judge them with the version that took them"
        )
    findings = [*_failures(raw), *_timed(raw), *_counts(raw), *_accuracy(raw)]
    findings += _absent(raw, findings)
    order = {cell: index for index, cell in enumerate((*raw.cells, *raw.removed))}
    metrics = {metric: index for index, metric in enumerate((WHOLE, *METRICS))}
    findings.sort(key=lambda f: (order.get(f.cell, len(order)), metrics.get(f.metric, len(metrics)), f.advisory))
    findings = [waived(finding, waivers, today) for finding in findings]
    compared = any(not finding.advisory and finding.word not in {"MISSING", "CRASHED"} for finding in findings)
    word = worst(findings)
    # A crash is the reason why nothing was compared; whatever else is left, waived or not, is no comparison.
    if not compared and word != "CRASHED":
        word = "MISSING"
    less = list(_less(raw))
    # `--inconclusive=warn` lets pass what is not known, and not what is not there.
    if less and word in {"PASS", "IMPROVED", "INCONCLUSIVE"}:
        word = "MISSING"
    notes = [*less, *_notes(raw), *unused(findings, waivers, today)]
    if not compared:
        step = "; name a base that has these cells" if raw.new and not raw.failures else ""
        notes.insert(0, f"no cell was measured in both arms: nothing was compared, so nothing passed{step}")
    largest = tuple(sorted(explained, key=lambda one: one.base_seconds - one.head_seconds))
    return Verdict(word, EXIT_CODES[word], tuple(findings), largest, tuple(notes), raw)


def worst(findings: Sequence[Finding]) -> Word:
    """The first word in the order of exit codes that any finding has that counts."""
    words = {finding.word for finding in findings if finding.decides}
    return next((word for word in EXIT_CODES if word in words), "PASS")


def _failures(raw: Raw) -> list[Finding]:
    """Cells that one of the arms does not have, or could not measure."""
    found = [
        Finding(cell, WHOLE, "MISSING", "the base has this cell and the head does not; waive it if that is meant")
        for cell in raw.removed
    ]
    for failure in raw.failures:
        if _is_new(failure, raw) or (failure.kind == "missing" and failure.cell in raw.removed):
            continue
        word: Word = "MISSING" if failure.kind == "missing" else "CRASHED"
        found.append(Finding(failure.cell, WHOLE, word, f"{failure.kind} in the {failure.arm}: {failure.reason}"))
    return found


def _is_new(failure: Failure, raw: Raw) -> bool:
    return failure.cell in raw.new and failure.arm == "base" and failure.kind == "missing"


def _less(raw: Raw) -> Iterator[str]:
    """Why this cannot be all that was asked for, whatever its findings are."""
    asked = raw.asked
    if raw.interrupted:
        yield "it was interrupted before it had all that it was asked for; run it again"
    if asked is None:
        yield (
            "what was asked for is not stated, as in a file of an earlier version: whether "
            "cells, metrics or trials are missing cannot be told, so nothing passed; run the gate again"
        )
        return
    if not asked.cells or not asked.metrics:
        yield "it was asked for no cell, or for no metric: nothing can pass"
    if asked.thresholds != thresholds():
        yield "it was taken to find other changes than this version does; judge it with the version that took it"
    for arm, commit, tree in (("base", asked.base, raw.base), ("head", asked.head, raw.head)):
        if commit != tree.commit:
            yield f"expected commit {commit} as the {arm}, as it was asked for, got {tree.commit}; run the gate again"
    if strangers := [cell for cell in (*raw.cells, *raw.removed) if cell not in asked.cells]:
        yield f"expected the cells that were asked for, got {', '.join(strangers)} as well; run the gate again"
    # A statement that was shortened would otherwise hide a number that another cell lacks.
    taken = [(each.cell, each.metric) for each in raw.series] + [(each.cell, each.metric) for each in raw.counts]
    taken += [(answers.cell, "accuracy") for answers in raw.answers]
    metrics = dict.fromkeys(metric for cell, metric in taken if cell not in raw.new)
    if more := [metric for metric in metrics if metric not in asked.metrics]:
        yield f"expected the metrics that were asked for, got {', '.join(more)} as well; run the gate again"


def _absent(raw: Raw, findings: Sequence[Finding]) -> list[Finding]:
    """Cells that were asked for and have nothing, and metrics that were asked for and that they lack.

    Where it is not known what was asked for, that is what the other cells have.
    """
    failed = {finding.cell for finding in findings if finding.metric == WHOLE}
    told = {(found.cell, found.metric) for found in findings if not found.advisory}
    told |= {(untold.cell, untold.metric) for untold in raw.untold}
    timed = {series.metric for series in raw.series}
    metrics = raw.asked.metrics if raw.asked else [metric for metric in LIMITS if metric in timed]
    found = []
    for cell in dict.fromkeys((*raw.cells, *(raw.asked.cells if raw.asked else ()))):
        if cell in failed or cell in raw.new:
            continue
        lacking = [metric for metric in metrics if (cell, metric) not in told]
        # Counts do not stand in for times.
        times = [metric for metric in metrics if metric in TIMED]
        if not any(each.cell == cell for each in findings) or (times and set(times) <= set(lacking)):
            found.append(Finding(cell, WHOLE, "MISSING", "was asked for and has no measurements; see the notes"))
        else:
            reason = "was asked for and is not here; see the notes"
            found += [Finding(cell, metric, "MISSING", reason) for metric in lacking]
    return found


def _timed(raw: Raw) -> list[Finding]:
    """Series by the sequential rule, and their tails beside them."""
    found, sound = [], []
    slices = raw.asked.slices if raw.asked else 0
    seen: set[tuple[str, str]] = set()
    for series in raw.series:
        if series.cell in raw.new:
            continue
        limit = limit_of(series.cell, series.metric)
        faults = epoch_faults(series.epochs)
        if limit is None or limit.kind != "timed":
            faults.append("is no timed metric that the gate judges")
        if (series.cell, series.metric) in seen:
            faults.append(_TWICE)
        if (fewest := min((len(epoch.base) for epoch in series.epochs), default=slices)) < slices:
            faults.append(f"expected {slices} slices of each arm in an epoch or more, got {fewest}")
        seen.add((series.cell, series.metric))
        if faults or limit is None:
            found.append(Finding(series.cell, series.metric, "CRASHED", "; ".join(faults)))
        else:
            sound.append((series, limit))
    decisions = decide_all([(evidence_of(series.epochs), limit) for series, limit in sound])
    for (series, limit), decision in zip(sound, decisions, strict=True):
        base, head = _in_unit(series, "base"), _in_unit(series, "head")
        # What looked faster and was not confirmed: the epochs that would tell were asked for, and are not here.
        unconfirmed = decision.word == "PASS" and decision.action != "stop"
        word: Word = "INCONCLUSIVE" if unconfirmed else decision.word
        found.append(
            Finding(
                series.cell, series.metric, word, decision.reason, base, head, decision.change,
                decision.epochs, decision.needed,
            )
        )  # fmt: skip
        if limit.metric == TAIL.metric:
            found += _tail(series, TAIL)
    return found


def _in_unit(series: Series, arm: Arm) -> float:
    """Median of the epochs' medians, in the metric's unit."""
    slices = ((epoch.base if arm == "base" else epoch.head) for epoch in series.epochs)
    seconds = median(map(median, slices))
    return seconds if METRICS[series.metric].unit == "s" else series.images / seconds


def _tail(series: Series, limit: Limit) -> list[Finding]:
    """A high percentile of the slices, compared epoch by epoch; it is shown and decides nothing."""
    assert limit.percentile is not None
    epochs = [epoch for epoch in series.epochs if epoch.stage == "screen"]
    if len(epochs) < LOOKS[0]:
        return []
    changes = [_tail_change(epoch, limit.percentile) for epoch in epochs]
    bounds = trimmed_interval(changes, 1 - 2 * ALPHA)
    word: Word = "INCONCLUSIVE"
    if bounds.low > math.log1p(limit.tolerated):
        word = "SUSPECT"
    elif bounds.high < math.log1p(limit.detect):
        word = "PASS"
    base = median(percentile(epoch.base, limit.percentile) for epoch in epochs)
    head = median(percentile(epoch.head, limit.percentile) for epoch in epochs)
    change = Change(math.expm1(bounds.estimate), math.expm1(bounds.low), math.expm1(bounds.high))
    reason = f"{limit.percentile:g}th percentile of the slices, for information"
    return [
        Finding(series.cell, limit.metric, word, reason, base, head, change, (len(epochs), 0), advisory=True)
    ]  # fmt: skip


def _tail_change(epoch: Epoch, q: float) -> float:
    return math.log(percentile(epoch.head, q)) - math.log(percentile(epoch.base, q))


def _counts(raw: Raw) -> list[Finding]:
    found = []
    seen: set[tuple[str, str]] = set()
    crashed = {failure.cell for failure in raw.failures if failure.kind != "missing"}
    for counts in raw.counts:
        # What an arm that crashed did not count is no finding beside the crash.
        if counts.cell in raw.new or (counts.cell in crashed and not (counts.base and counts.head)):
            continue
        limit = limit_of(counts.cell, counts.metric)
        if (counts.cell, counts.metric) in seen:
            found.append(Finding(counts.cell, counts.metric, "CRASHED", _TWICE))
        elif limit is None or limit.kind not in {"exact", "size"}:
            found.append(Finding(counts.cell, counts.metric, "CRASHED", "is no number that the gate judges"))
        else:
            found.append(judge_counts(counts, limit, raw.asked.processes.get(counts.cell, 0) if raw.asked else 0))
        seen.add((counts.cell, counts.metric))
    return found


def _accuracy(raw: Raw) -> list[Finding]:
    old = [answers for answers in raw.answers if answers.cell not in raw.new]
    often = Counter(answers.cell for answers in old)
    found = judge_answers(
        [answers for answers in old if often[answers.cell] == 1],
        LIMITS["accuracy"],
        raw.asked.seeds if raw.asked else 0,
    )
    twice = [Finding(cell, "accuracy", "CRASHED", _TWICE) for cell, count in often.items() if count > 1]
    return found + twice


def waived(finding: Finding, waivers: Sequence[Waiver], today: date) -> Finding:
    """The finding with the waiver that covers it; what is harmless needs none."""
    if not finding.is_bad or finding.advisory:
        return finding
    size = change_of(finding)
    covering = next((waiver for waiver in waivers if waiver.covers(finding.cell, finding.metric, size, today)), None)
    return finding if covering is None else replace(finding, waiver=str(covering))


def unused(findings: Sequence[Finding], waivers: Sequence[Waiver], today: date) -> list[str]:
    """Waivers of findings that they do not cover: they have expired, or more has changed than they allow."""
    open_ones = [finding for finding in findings if finding.is_bad and finding.decides]
    notes = []
    for waiver in waivers:
        about = [found for found in open_ones if waiver.matches(found.cell, found.metric)]
        if about and waiver.expires < today:
            notes.append(
                f"waiver {waiver.id} of {waiver.owner} expired on {waiver.expires} and no longer counts: "
                f"{waiver.reason}"
            )
        elif about:
            most = max(map(change_of, about))
            notes.append(
                f"waiver {waiver.id} of {waiver.owner} does not count: expected a change of {waiver.ceiling:g} "
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
    return [*notes, *raw.doubts]
