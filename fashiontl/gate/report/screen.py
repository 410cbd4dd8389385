"""A verdict for a terminal."""

import textwrap
from collections.abc import Iterable, Sequence

from fashiontl.core.escape import LONGEST_NAME, to_line, to_terminal
from fashiontl.gate.report.shown import (
    change_text,
    headline,
    label_of,
    next_steps,
    numbers,
    tree_text,
    word_of,
    worst_first,
)
from fashiontl.gate.verdict import Finding, Verdict
from fashiontl.reports.progress import duration

WIDTH = 110

# Of the columns, so that with two spaces between them a line fits; what is longer goes to further lines.
_WIDTHS = {"verdict": 12, "cell": 25, "metric": 20, "base": 10, "head": 10, "change (+ is worse)": 23}
# More rows than these are read by nobody; what passed is then counted.
_MOST_PASSED = 24


def terminal(verdict: Verdict) -> str:
    """The verdict in lines of at most `WIDTH` letters, the worst first."""
    raw = verdict.raw
    parts = [
        _wrapped(headline(verdict)),
        "\n".join([
            *(_wrapped(f"{name:<8} {text}", " " * 9).rstrip() for name, text in (
                ("base", tree_text(raw.base)),
                ("head", tree_text(raw.head)),
                ("machine", to_line(raw.machine)),
                ("took", f"{duration(raw.seconds)}, from {to_line(raw.started)}"),
            )),
        ]),
    ]  # fmt: skip
    shown, hidden = _chosen(verdict.findings)
    if shown:
        parts.append(_table(shown) + (f"\n{hidden} more passed" if hidden else ""))
    parts += _list("why", (_reason(finding) for finding in shown if finding.word != "PASS"))
    parts += _list("slower operators", (
        f"{to_line(each.cell)}: {to_line(each.operator)} in {to_line(each.module) or 'no module'}: "
        f"{1e3 * each.base_seconds:.3g} to {1e3 * each.head_seconds:.3g} ms, {100 * each.share:.0f} % of the growth"
        for each in verdict.explained
    ))  # fmt: skip
    parts += _list("notes", map(to_line, verdict.notes))
    parts += _list("next", (f"{what}: {command}" for what, command in next_steps(verdict)))
    return to_terminal("\n\n".join(parts))


def _chosen(findings: Sequence[Finding]) -> tuple[list[Finding], int]:
    """What is shown, and how many findings are not: of many, those that passed."""
    ordered = worst_first(findings)
    passed = [finding for finding in ordered if finding.word == "PASS"]
    if len(passed) <= _MOST_PASSED:
        return ordered, 0
    return [finding for finding in ordered if finding.word != "PASS"], len(passed)


def _table(findings: Iterable[Finding]) -> str:
    from tabulate import tabulate

    rows = [
        [_filled(text, width) for text, width in zip(_row(finding), _WIDTHS.values(), strict=True)]
        for finding in findings
    ]
    header = [_filled(name, width) for name, width in _WIDTHS.items()]
    align = ("left", "left", "left", "right", "right", "left")
    return tabulate(rows, header, tablefmt="simple", disable_numparse=True, colalign=align)


def _row(finding: Finding) -> tuple[str, ...]:
    base, head = numbers(finding)
    return word_of(finding), to_line(finding.cell, LONGEST_NAME), label_of(finding), base, head, change_text(finding)


def _filled(text: str, width: int) -> str:
    """Text on lines of a width, broken after hyphens too, and anywhere where a word is longer."""
    return "\n".join(textwrap.wrap(text, width)) or " "


def _reason(finding: Finding) -> str:
    counts = f" [{' + '.join(str(count) for count in finding.epochs if count)} epochs]" if any(finding.epochs) else ""
    waived = f" ({to_line(finding.waiver)})" if finding.waiver else ""
    return f"{word_of(finding)} {to_line(finding.cell)}, {label_of(finding)}: {to_line(finding.reason)}{counts}{waived}"


def _list(title: str, lines: Iterable[str]) -> list[str]:
    """One part with a title; none without lines."""
    wrapped = [_wrapped(f"- {line}", "  ") for line in lines]
    return ["\n".join([f"{title}:", *wrapped])] if wrapped else []


def _wrapped(text: str, indent: str = "") -> str:
    # Commands are copied by whole words.
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
