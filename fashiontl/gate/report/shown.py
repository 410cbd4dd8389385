"""What all reports say in the same words: names, numbers, changes, which finding is the worst, and what to do next."""

import math
import re
from collections.abc import Callable, Iterable, Sequence

from fashiontl.core.case import Case, default_weights
from fashiontl.core.errors import FashiontlError
from fashiontl.core.escape import to_line
from fashiontl.core.metrics import METRICS, Metric
from fashiontl.gate.limits import TAIL
from fashiontl.gate.raw import Tree
from fashiontl.gate.verdict import EXIT_CODES, Finding, Verdict, Word, change_of
from fashiontl.gate.waivers import LARGEST
from fashiontl.matrix.options import case_of_id

UNKNOWN = "—"

_ORDER: dict[Word, int] = {word: place for place, word in enumerate(EXIT_CODES)}
_OPTIONS = {
    "architecture": "--arch", "policy": "--policy", "device": "--device", "task": "--task",
    "precision": "--precision", "memory_format": "--memory-format", "execution": "--execution",
    "image_size": "--image-size", "batch": "--batch",
}  # fmt: skip
# Decimals that still tell two numbers apart; 17 digits tell apart any two.
_MOST_DECIMALS = 17


def counted(count: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "run"), counted(2, "run")
    ('1 run', '2 runs')
    """
    return f"{count} {what}{'s' * (count != 1)}"


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Findings that decide before those that do not, then in the order of their words; ties as they are."""
    return sorted(findings, key=lambda finding: (not finding.decides, _ORDER[finding.word]))


def word_of(finding: Finding) -> str:
    """The verdict, and why it does not decide where it does not."""
    return finding.word + ", waived" * bool(finding.waiver) + ", advisory" * finding.advisory


def label_of(finding: Finding) -> str:
    """A metric as people call it, with the unit in which it is shown."""
    metric = METRICS.get(finding.metric)
    if metric is None:
        return "whole cell" if finding.metric == "*" else to_line(finding.metric)
    if finding.advisory and finding.metric == TAIL.metric and TAIL.percentile is not None:
        return metric.label.replace(" (", f" p{TAIL.percentile:g} (")
    return metric.label


def numbers(finding: Finding) -> tuple[str, str]:
    """Base and head in the unit that is shown, with as many decimals as it takes to tell them apart."""
    metric = METRICS.get(finding.metric)
    known = [value for value in (finding.base, finding.head) if value is not None]
    if metric is None or not known:
        return UNKNOWN, UNKNOWN
    places = _places(known, metric)
    base, head = (
        UNKNOWN if value is None else f"{value * metric.scale:.{places}f}" for value in (finding.base, finding.head)
    )
    return base, head


def _places(values: Sequence[float], metric: Metric) -> int:
    scaled = [value * metric.scale for value in values]
    sizes = [abs(value) for value in scaled if value]
    places = max(0, metric.digits - 1 - math.floor(math.log10(min(sizes)))) if sizes else 0
    while len({f"{value:.{places}f}" for value in scaled}) < len(set(scaled)) and places < _MOST_DECIMALS:
        places += 1
    return min(places, _MOST_DECIMALS)


def change_text(finding: Finding) -> str:
    """The change with its interval; positive is worse."""
    change = finding.change
    if change is None:
        return "equal" if finding.base is not None and finding.base == finding.head else UNKNOWN
    unit, places = ("points", 2) if finding.metric == "accuracy" else ("%", 1)
    if change.low == change.high:
        return f"{_signed(change.estimate, places)} {unit}"
    return (
        f"{_signed(change.estimate, places)} {unit} ({_signed(change.low, places)} to {_signed(change.high, places)})"
    )


def _signed(fraction: float, places: int) -> str:
    if not math.isfinite(fraction):
        return UNKNOWN
    text = f"{100 * fraction:+.{places}f}"
    # A change too small for the decimals is still a change.
    return text if fraction == 0 or float(text) else f"{100 * fraction:+.1g}"


def headline(verdict: Verdict) -> str:
    """How it ended, in one sentence."""
    deciding = [finding for finding in verdict.findings if finding.decides]
    tally = [
        f"{sum(finding.word == word for finding in deciding)} {word}"
        for word in EXIT_CODES
        if any(finding.word == word for finding in deciding)
    ]
    aside = [
        f"{count} {kind}"
        for kind, count in (
            ("waived", sum(bool(finding.waiver) for finding in verdict.findings)),
            ("advisory", sum(finding.advisory for finding in verdict.findings)),
        )
        if count
    ]
    return f"{verdict.word}, exit code {verdict.exit_code}: {', '.join([*tally, *aside]) or 'nothing was compared'}"


def tree_text(tree: Tree) -> str:
    """What an arm ran."""
    commit = tree.commit[:12] if tree.commit else "no commit"
    return f"{to_line(tree.ref)} ({to_line(commit)}{', with changes' if tree.dirty else ''})"


def next_steps(verdict: Verdict) -> list[tuple[str, str]]:
    """What to do about each word that decides, the worst first: a sentence, and a command or nothing."""
    by_word: dict[Word, list[Finding]] = {}
    for finding in verdict.findings:
        if finding.decides:
            by_word.setdefault(finding.word, []).append(finding)
    return [_STEPS[word](by_word[word], verdict) for word in EXIT_CODES if word in by_word and word in _STEPS]


def _waive(findings: Sequence[Finding]) -> str:
    first = findings[0]
    # Rounded up, so that it covers the change.
    ceiling = math.ceil(10 * min(change_of(first), LARGEST)) / 10
    what = f"--cell {_quoted(first.cell)} --metric {_quoted(first.metric)} --ceiling {ceiling:g}"
    return f"fashiontl waive {what} --owner YOU --reason WHY --expires YYYY-MM-DD"


def _alone(findings: Sequence[Finding], verdict: Verdict) -> tuple[str, str]:
    command = f"pytest bench/ {_axes(findings)}".rstrip()
    if {failure.arm for failure in verdict.raw.failures if failure.kind != "missing"} == {"base"}:
        base = _quoted(verdict.raw.base.commit or "REF")
        return "name a base that runs, or see this one alone", f"git switch --detach {base} && {command}"
    return "see it alone", command


def _more_time(findings: Sequence[Finding], _: Verdict) -> tuple[str, str]:
    needed = [finding.needed for finding in findings if finding.needed is not None]
    epochs = f"about {counted(max(needed), 'epoch')} would decide it; " if needed else ""
    return f"{epochs}give the gate more time or a quieter machine, or let it pass visibly", "--inconclusive=warn"


_STEPS: dict[Word, Callable[[Sequence[Finding], Verdict], tuple[str, str]]] = {
    "CRASHED": _alone,
    "MISSING": lambda findings, _: ("bring it back or, if it is meant", _waive(findings)),
    "REGRESSED": lambda findings, _: ("if it is meant", _waive(findings)),
    "NO_BASELINE": lambda *_: ("name a base that has these numbers", "fashiontl gate --base REF"),
    "INCONCLUSIVE": _more_time,
}


def _axes(findings: Sequence[Finding]) -> str:
    """Options that name the cells; nothing where an id is not understood, which is all cells."""
    try:
        cases = [case_of_id(finding.cell) for finding in findings]
    except FashiontlError:
        return ""
    # Without a device, every one that is here would be measured.
    default = Case("", "", device="")
    options = []
    for axis, option in _OPTIONS.items():
        values = list(dict.fromkeys(str(getattr(case, axis)) for case in cases))
        if values != [str(getattr(default, axis))]:
            options.append(f"{option} {_quoted(','.join(values))}")
    if any(case.weights != default_weights(case.policy, case.task) for case in cases):
        options.append(f"--weights {_quoted(','.join(dict.fromkeys(case.weights for case in cases)))}")
    return " ".join(options)


def _quoted(text: str) -> str:
    """Text as one word of a shell, on one line."""
    text = to_line(text)
    return text if re.fullmatch(r"[\w@%+=:,./-]+", text) else "'" + text.replace("'", "'\"'\"'") + "'"
