"""The stored mode: a run against earlier runs of the same machine. Only exact numbers can fail it. No torch."""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import date
from statistics import median

from fashiontl.core.metrics import METRICS
from fashiontl.gate.baselines import (
    FEWEST,
    MAKE_ONE,
    Baseline,
    counted,
    group,
    independent,
    is_sound,
    numbers_of,
)
from fashiontl.gate.comparison import prediction_interval
from fashiontl.gate.judge import unused, waived, worst
from fashiontl.gate.limits import LIMITS, Limit, limit_of
from fashiontl.gate.raw import SCHEMA, Counts, Raw, Tree
from fashiontl.gate.verdict import EXIT_CODES, Change, Finding, Verdict, Word
from fashiontl.gate.waivers import WHOLE, Waiver
from fashiontl.machine.environment import PROTOCOL
from fashiontl.records import Record, latest, meaning

# Each bound is one-sided: beyond the first an unchanged machine comes once in a hundred runs; below the second a
# slowdown that must be found stays once in twenty.
_SUSPECT = 0.98
_PASS = 0.90


def judge_stored(
    records: Iterable[Record],
    baselines: Collection[Baseline],
    waivers: Sequence[Waiver] = (),
    *,
    today: date,
    asked: Collection[str] | None = None,
) -> Verdict:
    """Compare a run with the baselines of its machine and settings, cell by cell and metric by metric.

    Parameters and FLOPs must equal those of the newest baseline. Everything else takes `FEWEST` independent runs, and
    the run's number beside the prediction interval of one more run of theirs, s sqrt(1 + 1/K) with Student's t, of
    logarithms (of accuracy as it is): SUSPECT beyond both its 99 % bound and what is tolerated, PASS where even the
    95 % bound on the change is below what must be found, INCONCLUSIVE otherwise.

    Args:
        records: of one run, in any order; one or more.
        baselines: of any machines; the run itself is no baseline of its own.
        waivers: all that were found, expired ones too.
        today: decides which waivers count.
        asked: ids of the cells that were asked for; None asks for all that any baseline has.

    Returns:
        A verdict whose raw numbers hold, as `counts`, one value a baseline and one of the run.
    """
    run = sorted(latest(records), key=lambda record: record.started)
    others = [baseline for baseline in baselines if baseline.run != run[0].run]
    counts: list[Counts] = []
    findings: list[Finding] = []
    for record in run:
        nothing = Finding(record.id, WHOLE, "MISSING", "neither the run nor a baseline has a number that is judged")
        findings += list(_judged(record, others, counts)) or [nothing]
    removed = [cell for cell in _expected(run, others) if asked is None or cell in asked]
    findings += [Finding(cell, WHOLE, "MISSING", "baselines have this cell, the run lacks it") for cell in removed]
    findings = [waived(finding, waivers, today) for finding in findings]
    word = worst(findings)
    notes = (*_about(run, others), *unused(findings, waivers, today))
    return Verdict(word, EXIT_CODES[word], tuple(findings), (), notes, _raw(run, others, removed, counts))


def _judged(record: Record, others: Sequence[Baseline], counts: list[Counts]) -> Iterator[Finding]:
    """The findings of one cell; what they were computed from is added to the counts."""
    if not is_sound(record):
        word: Word = "MISSING" if record.status == "skipped" else "CRASHED"
        yield Finding(record.id, WHOLE, word, f"{record.status}: {record.reason}")
        return
    alike = [each for each in _alike(record, others) if record.id in each.cells]
    if not alike:
        yield Finding(record.id, WHOLE, "NO_BASELINE", _why_none(record, others))
        return
    found = numbers_of(record)
    few: list[tuple[str, int]] = []
    for metric in LIMITS:
        limit = limit_of(record.id, metric)
        having = [each for each in alike if metric in each.cells[record.id]]
        if limit is None or not (having or metric in found):
            continue
        # The newest first. An exact number needs no spread, so one run is enough, and each of them tells.
        runs = sorted(having, key=_time, reverse=True) if limit.kind == "exact" else independent(having)
        before = [each.cells[record.id][metric] for each in runs]
        if metric in found:
            counts.append(Counts(record.id, metric, tuple(before), (found[metric],)))
        if metric not in found:
            yield Finding(record.id, metric, "MISSING", "baselines have this number, the run lacks it", median(before))
        elif limit.kind == "exact" and before:
            yield _exact(record.id, metric, before, found[metric])
        elif len(before) < FEWEST:
            few.append((metric, len(before)))
        else:
            yield _predicted(record.id, limit, before, found[metric])
    if few:
        yield Finding(record.id, WHOLE, "NO_BASELINE", _too_few(few))


def _time(baseline: Baseline) -> float:
    return baseline.time.timestamp()


def _alike(record: Record, others: Iterable[Baseline]) -> list[Baseline]:
    own = record.machine, meaning(record.settings)
    return [each for each in others if group(each) == own]


def _exact(cell: str, metric: str, before: Sequence[float], now: float) -> Finding:
    newest = before[0]
    word: Word = "PASS" if now == newest else "REGRESSED"
    reason = "equals the newest baseline" if now == newest else f"expected {newest:.17g} as before, got {now:.17g}"
    if len(set(before)) > 1:
        reason += "; earlier baselines differ from it"
    change = None if now == newest or not newest else Change(*[now / newest - 1] * 3)
    return Finding(cell, metric, word, reason, newest, now, change)


def _predicted(cell: str, limit: Limit, before: Sequence[float], now: float) -> Finding:
    """Judge a number that varies from run to run; positive changes are worse."""
    relative = limit.kind != "accuracy"
    if relative and min(now, *before) <= 0:
        return Finding(cell, limit.metric, "INCONCLUSIVE", "a number of 0 or less has no relative change", head=now)
    scale, back = (math.log, math.expm1) if relative else (float, float)
    sign = 1 if METRICS[limit.metric].better == "lower" else -1
    values = [sign * scale(value) for value in before]
    outer, inner = prediction_interval(values, _SUSPECT), prediction_interval(values, _PASS)
    off, bound = sign * scale(now) - outer.estimate, outer.high - outer.estimate
    worse, most = back(off), back(off + inner.high - inner.estimate)
    middle = math.exp(sign * outer.estimate) if relative else sign * outer.estimate
    tolerated = max(limit.tolerated, limit.floor / middle) if relative else limit.tolerated
    word: Word = "INCONCLUSIVE"
    reason = f"{{0}} could be {{1}}, where {{2}} must be found: {len(before)} runs scatter too much"
    if off > bound and worse > tolerated:
        word = "SUSPECT"
        reason = f"{{0}} is beyond {{3}}, the 99 % bound of one more run after {len(before)}, and {{4}}, the tolerated"
    elif most < limit.detect:
        word = "PASS"
        reason = f"{{0}} is at most {{1}}, where {{2}} must be found; {len(before)} runs"
    texts = (_text(change, relative) for change in (worse, most, limit.detect, back(bound), tolerated))
    change = Change(worse, back(off - bound), back(off + bound))
    return Finding(cell, limit.metric, word, reason.format(*texts), middle, now, change)


def _text(change: float, relative: bool) -> str:
    """A change: relative in per cent, of accuracy in points; positive is worse."""
    return f"{100 * change:+.1f} %" if relative else f"{100 * change:+.2f} points"


def _too_few(few: Sequence[tuple[str, int]]) -> str:
    least = min(count for _, count in few)
    names = ", ".join(metric for metric, _ in few)
    missing = counted(FEWEST - least, "more time")
    return f"{least} of {FEWEST} independent runs of {names}; {missing}, at least an hour apart: {MAKE_ONE}"


def _why_none(record: Record, others: Sequence[Baseline]) -> str:
    same = [each for each in others if each.machine == record.machine]
    if _alike(record, others):
        return f"no baseline has this cell; make one: {MAKE_ONE}"
    if same:
        return f"the baselines of this machine were measured with other settings; make one with these: {MAKE_ONE}"
    if others:
        names = ", ".join(sorted({each.machine for each in others}))
        return f"no baseline of {record.machine}, only of other machines ({names}); make one here: {MAKE_ONE}"
    return f"no baseline of {record.machine}; make one: {MAKE_ONE}"


def _expected(run: Sequence[Record], others: Sequence[Baseline]) -> list[str]:
    """Cells that baselines alike to the run's records have and the run lacks."""
    alike = [each for record in run for each in _alike(record, others)]
    own = {record.id for record in run}
    return [cell for cell in dict.fromkeys(cell for each in alike for cell in each.cells) if cell not in own]


def _about(run: Sequence[Record], others: Sequence[Baseline]) -> Iterator[str]:
    used = _used(run, others)
    if used:
        apart = counted(len(independent(used)), "independent one")
        yield f"compared with {_span(used)} of this machine, {apart}"
    if dirty := [each.run for each in used if each.dirty]:
        yield f"measured with changes that were not committed: {', '.join(dirty)}"
    yield "stored timings cannot fail: SUSPECT asks for `fashiontl gate --base REF` on this machine"
    yield from dict.fromkeys(doubt for record in run for doubt in record.warnings)


def _span(used: Sequence[Baseline]) -> str:
    return f"{counted(len(used), 'run')} from {used[0].time:%Y-%m-%d} to {used[-1].time:%Y-%m-%d}"


def _used(run: Sequence[Record], others: Sequence[Baseline]) -> list[Baseline]:
    alike = {each.run: each for record in run for each in _alike(record, others)}
    return sorted(alike.values(), key=_time)


def _raw(run: Sequence[Record], others: Sequence[Baseline], removed: Sequence[str], counts: Sequence[Counts]) -> Raw:
    first = run[0]
    used = _used(run, others)
    newest = used[-1] if used else None
    dirty = any(each.dirty for each in used)
    base = Tree(f"stored: {_span(used) if used else 'none'}", newest.commit if newest else None, dirty, "", PROTOCOL)
    head = Tree(f"run {first.run}", first.environment.git_sha, bool(first.environment.git_dirty), "", PROTOCOL)
    return Raw(
        schema=SCHEMA,
        started=first.started,
        seconds=sum(sum(record.values("wall_time")) for record in run),
        command=first.command,
        machine=", ".join(dict.fromkeys(record.machine for record in run)),
        environment=asdict(first.environment),
        base=base,
        head=head,
        cells=tuple(record.id for record in run),
        new=(),
        removed=tuple(removed),
        budget=0.0,
        series=(),
        counts=tuple(counts),
        answers=(),
        failures=(),
        doubts=tuple(dict.fromkeys(doubt for record in run for doubt in record.warnings)),
    )
