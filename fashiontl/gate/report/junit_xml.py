"""A verdict as JUnit XML, which GitLab, Jenkins and most other CI systems show."""

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from fashiontl.core.escape import to_xml
from fashiontl.gate.report.shown import change_text, headline, label_of, numbers, tree_text, word_of
from fashiontl.gate.verdict import Finding, Verdict, Word

# What a word is in JUnit's terms where it fails the gate.
_KINDS: dict[Word, str] = {
    "REGRESSED": "failure", "SUSPECT": "failure", "INCONCLUSIVE": "failure", "CRASHED": "error", "MISSING": "error",
    "NO_BASELINE": "error",
}  # fmt: skip
_SUITE = "fashiontl gate"


def junit(verdict: Verdict) -> str:
    """One test suite with a test case a finding.

    What fails the gate is a failure, or an error where nothing was compared; what is waived, advisory or let pass
    is skipped with the reason.
    """
    raw = verdict.raw
    suites = Element("testsuites")
    suite = SubElement(suites, "testsuite", name=_SUITE, time=f"{raw.seconds:.3f}", timestamp=to_xml(raw.started))
    properties = SubElement(suite, "properties")
    facts = {"base": tree_text(raw.base), "head": tree_text(raw.head), "machine": raw.machine, "command": raw.command}
    for name, value in facts.items():
        SubElement(properties, "property", name=name, value=to_xml(value))
    kinds = [_add(suite, finding, verdict) for finding in verdict.findings]
    if verdict.exit_code and not {"failure", "error"} & set(kinds):
        # Nothing was compared, or all that was is waived: no viewer may show that as green.
        case = SubElement(suite, "testcase", classname=_SUITE, name="verdict")
        SubElement(case, "error", message=to_xml(headline(verdict)), type=verdict.word)
        kinds.append("error")
    counts = {"tests": len(kinds), **{f"{kind}s": kinds.count(kind) for kind in ("failure", "error")}}
    for name, count in {**counts, "skipped": kinds.count("skipped")}.items():
        suite.set(name, str(count))
    SubElement(suite, "system-out").text = to_xml("\n".join([headline(verdict), *verdict.notes]))
    indent(suites)
    return tostring(suites, encoding="unicode", xml_declaration=False).join(['<?xml version="1.0"?>\n', "\n"])


def _add(suite: Element, finding: Finding, verdict: Verdict) -> str:
    """Add a finding's test case, and return what it is: a failure, an error, skipped, or nothing of these."""
    name = finding.metric + " (advisory)" * finding.advisory
    case = SubElement(suite, "testcase", classname=to_xml(finding.cell), name=to_xml(name))
    base, head = numbers(finding)
    text = f"{label_of(finding)}: base {base}, head {head}, change {change_text(finding)}\n{finding.reason}"
    kind = ""
    if finding.is_bad:
        kind = _KINDS[finding.word] if finding.decides and verdict.exit_code else "skipped"
        message = "; ".join(filter(None, [f"{word_of(finding)}: {finding.reason}", finding.waiver]))
        attributes = {"message": to_xml(message)} | ({} if kind == "skipped" else {"type": finding.word})
        SubElement(case, kind, attributes).text = to_xml(text)
    else:
        SubElement(case, "system-out").text = to_xml(f"{word_of(finding)}\n{text}")
    return kind
