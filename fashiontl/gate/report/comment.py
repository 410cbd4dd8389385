"""A verdict as a comment on a pull request."""

from collections.abc import Iterable, Sequence
from itertools import chain

from fashiontl.core.escape import to_code, to_markdown
from fashiontl.gate.report.shown import (
    UNKNOWN,
    change_text,
    counted,
    headline,
    label_of,
    next_steps,
    numbers,
    tree_text,
    word_of,
    worst_first,
)
from fashiontl.gate.verdict import Explained, Finding, Verdict
from fashiontl.reports.leaderboard.markdown import TextColumn, folded, table
from fashiontl.reports.progress import duration

# By its first line the comment is found again, to be updated in place.
MARKER = "<!-- fashiontl gate -->"

# GitHub refuses comments of more than 65,536 letters. Rows of what did not pass, and of what did: the first that fits.
_MOST_LETTERS = 65_000
_MOST_ROWS = ((60, 200), (30, 30), (15, 0), (5, 0))
_LONGEST_TEXT = 240


def markdown(verdict: Verdict) -> str:
    """The verdict in GitHub's Markdown, short enough for a comment; `MARKER` is its first line."""
    pages = (_page(verdict, bad, good) for bad, good in _MOST_ROWS)
    return next((page for page in pages if len(page) <= _MOST_LETTERS), _page(verdict, 1, 0))


def _page(verdict: Verdict, most_bad: int, most_good: int) -> str:
    ordered = worst_first(verdict.findings)
    bad = [finding for finding in ordered if finding.is_bad or finding.word == "IMPROVED"]
    good = [finding for finding in ordered if finding.word == "PASS"]
    parts = [f"{MARKER}\n### fashiontl gate: {verdict.word}", to_markdown(headline(verdict))]
    if bad:
        parts += _limited(_findings(bad[:most_bad], why=True), len(bad) - most_bad)
    if verdict.explained:
        parts += ["**Why it got slower**", *_limited(_explained(verdict.explained[:20]), len(verdict.explained) - 20)]
    parts += _bullets("Notes", map(_text, verdict.notes), most_bad)
    steps = (f"{what}: {to_code(command, 2 * _LONGEST_TEXT)}" for what, command in next_steps(verdict))
    parts += _bullets("Next", steps, most_bad)
    if good:
        shown = _limited(_findings(good[:most_good]), len(good) - most_good) if most_good else []
        parts.append(folded(f"{len(good)} passed", *shown) if shown else f"{len(good)} passed")
    parts.append(folded("What was compared", _about(verdict)))
    return "\n\n".join(parts) + "\n"


def _findings(findings: Sequence[Finding], *, why: bool = False) -> str:
    pairs = [numbers(finding) for finding in findings]
    columns = [
        TextColumn("verdict", [to_markdown(word_of(finding)) for finding in findings]),
        TextColumn("cell", [_text(finding.cell) for finding in findings]),
        TextColumn("metric", [to_markdown(label_of(finding)) for finding in findings]),
        TextColumn("base", [base for base, _ in pairs], "right"),
        TextColumn("head", [head for _, head in pairs], "right"),
        TextColumn("change (+ is worse)", [change_text(finding) for finding in findings], "right"),
    ]
    if why:
        columns.append(TextColumn("why", [_text(_why(finding)) for finding in findings]))
    return table(columns)


def _why(finding: Finding) -> str:
    return "; ".join(filter(None, [finding.reason, finding.waiver]))


def _explained(operators: Sequence[Explained]) -> str:
    def milliseconds(seconds: Iterable[float]) -> list[str]:
        return [f"{1e3 * each:.3g}" for each in seconds]

    return table([
        TextColumn("cell", [_text(each.cell) for each in operators]),
        TextColumn("operator", [_text(each.operator) for each in operators]),
        TextColumn("module", [_text(each.module) or UNKNOWN for each in operators]),
        TextColumn("base (ms)", milliseconds(each.base_seconds for each in operators), "right"),
        TextColumn("head (ms)", milliseconds(each.head_seconds for each in operators), "right"),
        TextColumn("of the growth", [f"{100 * each.share:.0f} %" for each in operators], "right"),
    ])  # fmt: skip


def _about(verdict: Verdict) -> str:
    raw = verdict.raw
    return "\n".join([
        f"- base: {_text(tree_text(raw.base))}",
        f"- head: {_text(tree_text(raw.head))}",
        f"- machine: {_text(raw.machine)}",
        f"- took: {duration(raw.seconds)}, from {_text(raw.started)}",
        f"- command: {to_code(raw.command, 2 * _LONGEST_TEXT)}",
        "- positive changes are worse, whichever way is better; in brackets the interval on which the verdict rests",
    ])  # fmt: skip


def _bullets(title: str, lines: Iterable[str], most: int) -> list[str]:
    lines = list(lines)
    if not lines:
        return []
    more = [f"{len(lines) - most} more"] * (len(lines) > most)
    return ["\n".join(chain([f"**{title}**", ""], (f"- {line}" for line in chain(lines[:most], more))))]


def _limited(shown: str, left: int) -> list[str]:
    return [shown, f"and {counted(left, 'line')} more: see the gate's JSON or JUnit file"] if left > 0 else [shown]


def _text(text: str) -> str:
    return to_markdown(text, _LONGEST_TEXT)
