"""A gate's result as people and machines read it: terminal, pull request, GitHub's commands, JUnit. No torch."""

import math
import shlex
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from fashiontl.core.escape import LONGEST_NAME, to_code, to_line, to_markdown, to_terminal, to_xml, workflow_command
from fashiontl.core.metrics import METRICS
from fashiontl.gate.limits import TAIL
from fashiontl.gate.raw import Tree
from fashiontl.gate.result import EXIT_CODES, NO_TIME, Explained, Finding, GateResult, change_of
from fashiontl.gate.waivers import LARGEST
from fashiontl.reports.leaderboard.markdown import TextColumn, folded, table
from fashiontl.reports.progress import duration

# By its first line the comment is found again, to be updated in place.
MARKER = "<!-- fashiontl gate -->"
UNKNOWN = "—"
_NAME = "fashiontl gate"
# Letters in a line on a terminal.
WIDTH = 110

# Decimals that still tell two numbers apart; 17 digits tell apart any two.
_MOST_DECIMALS = 17
# Columns, and their widths on a terminal, so that with two spaces between them a line fits.
_WIDTHS = {"verdict": 12, "cell": 25, "metric": 20, "base": 10, "head": 10, "change (+ is worse)": 23}
_OPERATORS = ("cell", "operator", "module", "base (ms)", "head (ms)", "of the growth")
_NUMBERS = {"base", "head", "change (+ is worse)", *_OPERATORS[3:]}
# More rows than these are read by nobody; what passed is then counted.
_MOST_PASSED = 24
# GitHub refuses comments of more than 65,536 letters. Rows of what did not pass, and of what did: the first that fits.
_MOST_LETTERS = 65_000
_MOST_ROWS = ((60, 200), (30, 30), (15, 0), (5, 0))
_LONGEST_TEXT = 240
# GitHub's runner shows ten annotations of each kind a step, and drops the rest without a word.
_MOST_ANNOTATIONS = 10
# What JUnit calls a failure where it fails the gate; the other verdicts that do are errors.
_FAILURES = {"REGRESSED", "SUSPECT", "INCONCLUSIVE"}


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Findings that decide before those that do not, then in the order of their verdicts; ties as they are."""
    order = list(EXIT_CODES)
    return sorted(findings, key=lambda finding: (not finding.decides, order.index(finding.verdict)))


def numbers(finding: Finding) -> tuple[str, str]:
    """Base and head in the unit that is shown, with as many decimals as it takes to tell them apart."""
    metric = METRICS.get(finding.metric)
    known = {value * metric.scale for value in (finding.base, finding.head) if value is not None} if metric else set()
    if metric is None or not known:
        return UNKNOWN, UNKNOWN
    sizes = [abs(value) for value in known if value]
    places = max(0, metric.digits - 1 - math.floor(math.log10(min(sizes)))) if sizes else 0
    while places < _MOST_DECIMALS and len({f"{value:.{places}f}" for value in known}) < len(known):
        places += 1
    base, head = (
        UNKNOWN if value is None else f"{value * metric.scale:.{min(places, _MOST_DECIMALS)}f}"
        for value in (finding.base, finding.head)
    )
    return base, head


def change_text(finding: Finding) -> str:
    """The change with its interval; positive is worse."""
    change = finding.change
    if change is None:
        return "equal" if finding.base is not None and finding.base == finding.head else UNKNOWN
    unit, places = ("points", 2) if finding.metric == "accuracy" else ("%", 1)
    estimate, low, high = (_signed(value, places) for value in (change.estimate, change.low, change.high))
    return f"{estimate} {unit}" if change.low == change.high else f"{estimate} {unit} ({low} to {high})"


def _signed(fraction: float, places: int) -> str:
    if not math.isfinite(fraction):
        return UNKNOWN
    text = f"{100 * fraction:+.{places}f}"
    # A change too small for the decimals is still a change.
    return text if fraction == 0 or float(text) else f"{100 * fraction:+.1g}"


def _verdict(finding: Finding) -> str:
    """The verdict, and why it does not decide where it does not."""
    return finding.verdict + ", waived" * bool(finding.waiver) + ", advisory" * finding.advisory


def _label(finding: Finding) -> str:
    """A metric as people call it, with the unit in which it is shown."""
    metric = METRICS.get(finding.metric)
    if metric is None:
        return "whole cell" if finding.metric == "*" else to_line(finding.metric)
    if finding.advisory and finding.metric == TAIL.metric:
        return metric.label.replace(" (", f" p{TAIL.percentile:g} (")
    return metric.label


def _row(finding: Finding) -> tuple[str, ...]:
    """What a table shows of a finding, in the order of `_WIDTHS`."""
    return (_verdict(finding), finding.cell, _label(finding), *numbers(finding), change_text(finding))


def _why(finding: Finding) -> str:
    """The reason, on how many trials it rests, and the waiver."""
    trials = f" [{' + '.join(str(count) for count in finding.trials if count)} trials]" if any(finding.trials) else ""
    return finding.reason + trials + (f" ({finding.waiver})" if finding.waiver else "")


def _operator(one: Explained) -> tuple[str, ...]:
    """What a table shows of an operator, in the order of `_OPERATORS`."""
    seconds = (f"{1e3 * each:.3g}" for each in (one.base_seconds, one.head_seconds))
    return (one.cell, one.operator, one.module or UNKNOWN, *seconds, f"{100 * one.share:.0f} %")


def _headline(result: GateResult) -> str:
    """How it ended, in one sentence."""
    deciding = [finding.verdict for finding in result.findings if finding.decides]
    counts = {verdict: deciding.count(verdict) for verdict in EXIT_CODES} | {
        "waived": sum(bool(finding.waiver) for finding in result.findings),
        "advisory": sum(finding.advisory for finding in result.findings),
    }
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing was compared"
    return f"{result.verdict}, exit code {result.exit_code}: {said}"


def _facts(result: GateResult) -> dict[str, str]:
    """What was compared, each on one line."""
    raw = result.raw

    def tree(one: Tree) -> str:
        commit = one.commit[:12] if one.commit else "no commit"
        return f"{one.ref} ({commit}{', with changes' if one.dirty else ''})"

    facts = {
        "base": tree(raw.base),
        "head": tree(raw.head),
        "machine": raw.machine,
        "took": f"{duration(raw.seconds)}, from {raw.started}",
        "command": raw.command,
    }
    return {name: to_line(text) for name, text in facts.items()}


def _next_steps(result: GateResult) -> list[tuple[str, str]]:
    """What to do about each verdict that decides, the worst first: a sentence and a command."""
    deciding = [finding for finding in worst_first(result.findings) if finding.decides]
    steps = []
    for verdict in dict.fromkeys(finding.verdict for finding in deciding):
        findings = [finding for finding in deciding if finding.verdict == verdict]
        cell, metric = (shlex.quote(to_line(text)) for text in (findings[0].cell, findings[0].metric))
        # Rounded up, so that it covers the change.
        ceiling = math.ceil(10 * min(change_of(findings[0]), LARGEST)) / 10
        waive = (
            f"fashiontl waive --cell {cell} --metric {metric} --ceiling {ceiling:g} --owner YOU --reason WHY "
            "--expires YYYY-MM-DD"
        )
        needed = max((finding.needed for finding in findings if finding.needed is not None), default=None)
        trials = f"about {needed} trials would decide it; " if needed is not None else ""
        known = {
            "CRASHED": (
                "see it alone, in the tree where it crashed, with the gate's own axes",
                f"pytest bench/ -k {cell}",
            ),
            "MISSING": ("bring it back or, if it is intended", waive),
            "REGRESSED": ("if it is intended", waive),
            "NO_BASELINE": ("name a base that has these numbers", "fashiontl gate --base REF"),
            "INCONCLUSIVE": (
                f"{trials}give the gate more time or a quieter machine, or let it pass visibly",
                "--inconclusive=warn",
            ),
        }
        # What is not lost need not be brought back.
        if verdict == "MISSING" and all(NO_TIME in finding.reason for finding in findings):
            known["MISSING"] = ("give the gate more time", "--budget MINUTES")
        steps += [known[verdict]] if verdict in known else []
    return steps


def terminal(result: GateResult) -> str:
    """The result in lines of at most `WIDTH` letters, the worst first."""
    shown = worst_first(result.findings)
    hidden = sum(finding.verdict == "PASS" for finding in shown)
    if hidden > _MOST_PASSED:
        shown = [finding for finding in shown if finding.verdict != "PASS"]
    parts = [
        _wrapped(_headline(result)),
        "\n".join(_wrapped(f"{name:<8} {text}", " " * 9) for name, text in _facts(result).items()),
    ]
    if shown:
        parts.append(_terminal_table(shown) + (f"\n{hidden} more passed" if hidden > _MOST_PASSED else ""))
    reasons = [
        f"{_verdict(finding)} {finding.cell}, {_label(finding)}: {_why(finding)}"
        for finding in shown
        if finding.verdict != "PASS"
    ]
    operators = [
        f"{cell}: {operator} in {module}: {base} to {head} ms, {share} of the growth"
        for cell, operator, module, base, head, share in map(_operator, result.explained)
    ]
    for title, lines in (
        ("why", reasons),
        ("slower operators", operators),
        ("notes", result.notes),
        ("next", [f"{what}: {command}" for what, command in _next_steps(result)]),
    ):
        if lines:
            parts.append("\n".join([f"{title}:", *(_wrapped(f"- {to_line(line)}", "  ") for line in lines)]))
    return to_terminal("\n\n".join(parts))


def _terminal_table(findings: Iterable[Finding]) -> str:
    from tabulate import tabulate

    rows = [[to_line(text, LONGEST_NAME) for text in _row(finding)] for finding in findings]
    align = ("left", "left", "left", "right", "right", "left")
    widths = [*_WIDTHS.values()]
    return tabulate(rows, [*_WIDTHS], tablefmt="simple", disable_numparse=True, colalign=align, maxcolwidths=widths)


def _wrapped(text: str, indent: str = "") -> str:
    # Commands are copied by whole words.
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def markdown(result: GateResult) -> str:
    """The result in GitHub's Markdown, short enough for a comment; `MARKER` is its first line."""
    pages = (_page(result, bad, good) for bad, good in _MOST_ROWS)
    return next((page for page in pages if len(page) <= _MOST_LETTERS), _page(result, 1, 0))


def _page(result: GateResult, most_bad: int, most_good: int) -> str:
    ordered = worst_first(result.findings)
    bad = [finding for finding in ordered if finding.is_bad or finding.verdict == "IMPROVED"]
    good = [finding for finding in ordered if finding.verdict == "PASS"]
    parts = [f"{MARKER}\n### fashiontl gate: {result.verdict}", to_markdown(_headline(result))]
    if bad:
        rows = [(*_row(finding), _why(finding)) for finding in bad[:most_bad]]
        parts += [_table([*_WIDTHS, "why"], rows), *_more(len(bad) - most_bad)]
    if result.explained:
        parts += [
            "**Why it got slower**",
            _table(_OPERATORS, map(_operator, result.explained[:20])),
            *_more(len(result.explained) - 20),
        ]
    steps = [f"{what}: {to_code(command)}" for what, command in _next_steps(result)]
    for title, lines in (("Notes", [_text(note) for note in result.notes]), ("Next", steps)):
        if lines:
            more = [f"{len(lines) - most_bad} more"] * (len(lines) > most_bad)
            parts.append("\n".join([f"**{title}**", "", *(f"- {line}" for line in [*lines[:most_bad], *more])]))
    if good:
        title = f"{len(good)} passed"
        shown = [_table(_WIDTHS, map(_row, good[:most_good])), *_more(len(good) - most_good)] if most_good else []
        parts.append(folded(title, *shown) if shown else title)
    about = [
        *(f"- {name}: {(to_code if name == 'command' else _text)(text)}" for name, text in _facts(result).items()),
        "- positive changes are worse, whichever way is better; in brackets the interval on which the verdict rests",
    ]
    return "\n\n".join([*parts, folded("What was compared", "\n".join(about))]) + "\n"


def _table(header: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    return table([
        TextColumn(name, texts, "right") if name in _NUMBERS else TextColumn(name, [_text(text) for text in texts])
        for name, texts in zip(header, zip(*rows, strict=True), strict=True)
    ])  # fmt: skip


def _more(left: int) -> list[str]:
    return [f"and {left} more: see the gate's JSON or JUnit file"] if left > 0 else []


def _text(text: str) -> str:
    return to_markdown(text, _LONGEST_TEXT)


def annotations(result: GateResult) -> list[str]:
    """Workflow commands, one for each finding that did not pass and for each note, the worst first.

    Errors are what makes the exit code; what is waived, advisory or let pass is a warning.
    """
    said: dict[str, list[tuple[str, str]]] = {"error": [], "warning": [], "notice": []}
    for finding in worst_first(result.findings):
        if finding.is_bad:
            message = f"{finding.cell}, {_label(finding)}: {_why(finding)}"
            said["error" if finding.decides and result.exit_code else "warning"].append((_verdict(finding), message))
    if result.exit_code and not said["error"]:
        said["error"].append((result.verdict, _headline(result)))
    said["notice"] = [("note", note) for note in result.notes]
    for messages in said.values():
        if (left := len(messages) - _MOST_ANNOTATIONS + 1) > 1:
            messages[_MOST_ANNOTATIONS - 1 :] = [("more", f"{left} more like these: see the summary of the step")]
    return [
        workflow_command(level, f"{_NAME}: {title}", message)
        for level, messages in said.items()
        for title, message in messages
    ]


def write_github(result: GateResult, environment: Mapping[str, str]) -> str:
    """Report to GitHub's runner, where this is one, by the files that `GITHUB_STEP_SUMMARY` and `GITHUB_OUTPUT` name.

    Returns:
        What is to be printed; empty elsewhere.
    """
    lines = annotations(result) if environment.get("GITHUB_ACTIONS") == "true" else []
    outputs = f"verdict={result.verdict}\nexit-code={result.exit_code}\n"
    for variable, text in (("GITHUB_STEP_SUMMARY", markdown(result)), ("GITHUB_OUTPUT", outputs)):
        path = environment.get(variable)
        try:
            if path:
                with Path(path).open("ab") as file:
                    file.write(text.encode(errors="replace"))
        except OSError as error:  # a verdict must not turn into another because a summary could not be shown
            message = f"{variable} cannot be written: {error.strerror}"
            lines.append(workflow_command("warning", f"{_NAME}: summary", message))
    return "\n".join(lines)


def junit(result: GateResult) -> str:
    """One test suite with a test case for each finding.

    What fails the gate is a failure, or an error where nothing was compared; what is waived, advisory or let pass
    is skipped with the reason.
    """
    raw = result.raw
    suites = Element("testsuites")
    suite = SubElement(suites, "testsuite", name=_NAME, time=f"{raw.seconds:.3f}", timestamp=to_xml(raw.started))
    properties = SubElement(suite, "properties")
    for key, value in _facts(result).items():
        SubElement(properties, "property", name=key, value=to_xml(value))
    kinds = [_add_case(suite, finding, result) for finding in result.findings]
    if result.exit_code and not {"failure", "error"} & set(kinds):
        # Nothing was compared, or all that was is waived: no viewer may show that as green.
        case = SubElement(suite, "testcase", classname=_NAME, name="verdict")
        SubElement(case, "error", message=to_xml(_headline(result)), type=result.verdict)
        kinds.append("error")
    suite.set("tests", str(len(kinds)))
    for attribute, kind in {"failures": "failure", "errors": "error", "skipped": "skipped"}.items():
        suite.set(attribute, str(kinds.count(kind)))
    SubElement(suite, "system-out").text = to_xml("\n".join([_headline(result), *result.notes]))
    indent(suites)
    return f'<?xml version="1.0"?>\n{tostring(suites, encoding="unicode")}\n'


def _add_case(suite: Element, finding: Finding, result: GateResult) -> str:
    """Add a finding's test case, and return what it is: a failure, an error, skipped, or nothing of these."""
    name = finding.metric + " (advisory)" * finding.advisory
    case = SubElement(suite, "testcase", classname=to_xml(finding.cell), name=to_xml(name))
    base, head = numbers(finding)
    text = f"{_label(finding)}: base {base}, head {head}, change {change_text(finding)}\n{finding.reason}"
    if not finding.is_bad:
        SubElement(case, "system-out").text = to_xml(f"{_verdict(finding)}\n{text}")
        return ""
    kind = "failure" if finding.verdict in _FAILURES else "error"
    if finding.waiver or finding.advisory or not result.exit_code:
        kind = "skipped"
    message = to_xml(f"{_verdict(finding)}: {_why(finding)}")
    SubElement(case, kind, message=message, type=finding.verdict).text = to_xml(text)
    return kind
