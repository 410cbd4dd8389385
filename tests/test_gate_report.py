import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from gate_raws import CELL, EQUAL, EXPLAINED, HOSTILE, OTHER, PASSED, finding, gate_result, raw
from records import tables

from fashiontl.core.stats import Interval
from fashiontl.gate.report import (
    MARKER,
    WIDTH,
    annotations,
    change_text,
    junit,
    markdown,
    numbers,
    terminal,
    worst_first,
    write_github,
)
from fashiontl.gate.result import EXIT_CODES, Explained, GateResult

WAIVED = finding(waiver="waived by Ada until 2026-12-24: a fix")
ADVISORY = finding(verdict="SUSPECT", advisory=True)
CRASHED = finding(
    cell=OTHER, metric="*", verdict="CRASHED", reason="oom", base=None, head=None, change=None, trials=(0, 0)
)  # fmt: skip
UNDECIDED = finding(verdict="INCONCLUSIVE", reason="could be either", needed=40, trials=(24, 0))
BAD = finding(cell=HOSTILE, reason=HOSTILE, waiver="")
HEADER = ["verdict", "cell", "metric", "base", "head", "change (+ is worse)"]


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({}, ("9.21", "9.77", "+6.1 % (+4.9 to +7.3)")),
        ({"metric": "accuracy", "base": 0.9123, "head": 0.9, "change": Interval(0.0123, 0.002, 0.03)},
         ("91.2", "90.0", "+1.23 points (+0.20 to +3.00)")),
        ({"metric": "inference_throughput", "base": 640.0, "head": 600.4, "change": Interval(-0.02, -0.03, -0.01)},
         ("640", "600", "-2.0 % (-3.0 to -1.0)")),
        ({"metric": "parameters", "base": 11_181_642.0, "head": 11_181_643.0, "change": Interval(9e-8, 9e-8, 9e-8)},
         ("11.181642", "11.181643", "+9e-06 %")),
        ({"metric": "training_peak_memory", "base": 2.0**20, "head": 2.0**21, "change": Interval(1.0, 1.0, 1.0)},
         ("1.00", "2.00", "+100.0 %")),
        ({"metric": "flops", "base": 0.0, "head": 0.0, "change": None}, ("0", "0", "equal")),
        ({"metric": "*", "base": None, "head": None, "change": None}, ("—", "—", "—")),
        ({"base": 0.01, "head": None, "change": None}, ("10.0", "—", "—")),
        ({"change": Interval(0.01, -math.inf, math.inf)}, ("9.21", "9.77", "+1.0 % (— to —)")),
    ],
)  # fmt: skip
def test_numbers_are_in_the_unit_that_is_shown_and_never_look_equal_when_they_are_not(
    fields: dict[str, object], texts: tuple[str, str, str]
) -> None:
    made = finding(**fields)
    assert (*numbers(made), change_text(made)) == texts


def test_the_worst_stands_first_and_what_does_not_decide_last() -> None:
    made = [PASSED, WAIVED, UNDECIDED, CRASHED, ADVISORY, finding()]
    assert worst_first(made) == [CRASHED, finding(), UNDECIDED, PASSED, WAIVED, ADVISORY]


def test_what_is_waived_or_advisory_says_so() -> None:
    text = terminal(gate_result(WAIVED, ADVISORY, PASSED, verdict="PASS", exit_code=0))
    assert text.startswith("PASS, exit code 0: 1 PASS, 1 waived, 1 advisory\n")
    assert "REGRESSED, waived resnet18-full-cpu, Latency (ms)" in text
    assert "agrees [6 + 16 trials] (waived by Ada until 2026-12-24: a fix)" in " ".join(text.split())
    assert "SUSPECT, advisory resnet18-full-cpu, Latency p95 (ms)" in text
    assert "next:" not in text


@pytest.mark.parametrize(
    ("made", "step"),
    [
        (CRASHED, f"- see it alone, in the tree where it crashed, with the gate's own axes: pytest bench/ -k {OTHER}"),
        (finding(metric="*", verdict="MISSING"),
         "- bring it back or, if it is intended: fashiontl waive --cell resnet18-full-cpu --metric '*' --ceiling 100"),
        (finding(metric="parameters", verdict="NO_BASELINE"), "- name a base that has these numbers"),
        (UNDECIDED, "- about 40 trials would decide it; give the gate more time or a quieter machine, or let it pass "
         "visibly: --inconclusive=warn"),
    ],
)  # fmt: skip
def test_each_verdict_has_its_next_step(made: object, step: str) -> None:
    assert step in " ".join(terminal(gate_result(made)).split())


def test_of_many_that_passed_only_the_number_is_shown() -> None:
    text = terminal(gate_result(finding(), *[PASSED] * 400))
    assert "400 more passed" in text
    assert text.count("PASS  ") == 0
    assert len(text.splitlines()) < 30


def test_no_line_on_a_terminal_is_too_wide() -> None:
    long = "joined:resnet18+mobilenet_v2+densenet121+vgg11-linear_probe-cuda:1-fashion10-bf16-channels_last-compile"
    made = gate_result(
        finding(cell=long, verdict="INCONCLUSIVE", metric="training_flops", base=1e15, head=1e15 + 1),
        BAD, CRASHED, ADVISORY, WAIVED, finding(metric="accuracy", reason="word " * 99),
        explained=(Explained(long, "latency", "x" * 300, "y " * 90, 1e-3, 2e-3, 1.0),), notes=("note " * 60,),
    )  # fmt: skip
    text = terminal(made)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert long in re.sub(r"\s+", "", text)


def test_a_comment() -> None:
    page = markdown(gate_result(notes=("the head, working tree, differs from its commit",)))
    assert page.splitlines()[:4] == [
        MARKER, "### fashiontl gate: REGRESSED", "", "REGRESSED, exit code 1: 1 REGRESSED, 2 PASS",
    ]  # fmt: skip
    worst, operators, passed = tables(page)
    assert worst[0] == [*HEADER, "why"]
    assert worst[1][:6] == ["REGRESSED", CELL, "Latency (ms)", "9.21", "9.77", "+6.1 % (+4.9 to +7.3)"]
    assert operators[1] == [CELL, "aten::convolution", "stage2.0.conv1", "1.2", "1.7", "89 %"]
    assert passed[2] == ["PASS", CELL, "Parameters (M)", "11.2", "11.2", "equal"]
    assert "<details><summary>2 passed</summary>" in page
    assert "**Notes**\n\n- the head, working tree, differs from its commit\n" in page
    assert "- head: working tree (fedcba987654, with changes)" in page
    assert "- command: `fashiontl gate --base main --arch resnet18,vgg11`" in page


def test_a_comment_is_never_longer_than_github_takes() -> None:
    long = "resnet18&<&" * 40
    many = [finding(cell=f"{long}{index}", reason="because & " * 80) for index in range(400)]
    page = markdown(gate_result(*many, *[PASSED] * 900, notes=("n & " * 300,) * 300, explained=(EXPLAINED,) * 90))
    assert len(page) <= 65_000
    assert "more: see the gate's JSON or JUnit file" in page
    assert "900 passed" in page
    assert "and 70 more" in page


def test_annotations_are_escaped_and_the_worst_first() -> None:
    made = gate_result(
        PASSED, WAIVED, BAD, ADVISORY, CRASHED, verdict="CRASHED", exit_code=12, notes=("50 %, so: what",)
    )
    lines = annotations(made)
    assert [re.sub(r"::(\w+) title=fashiontl gate%3A (.*?)::.*", r"\1 \2", line) for line in lines] == [
        "error CRASHED", "error REGRESSED", "warning REGRESSED%2C waived", "warning SUSPECT%2C advisory", "notice note",
    ]  # fmt: skip
    assert lines[0] == "::error title=fashiontl gate%3A CRASHED::vgg11-linear_probe-cpu, whole cell: oom"
    assert "own|`a`|<b> ::error::x%250A" in lines[1]


def test_a_gate_that_fails_without_a_finding_is_an_error() -> None:
    nothing = GateResult("MISSING", 12, (), (), (), raw())
    assert annotations(nothing) == [
        "::error title=fashiontl gate%3A MISSING::MISSING, exit code 12: nothing was compared"
    ]
    assert annotations(GateResult("PASS", 0, (PASSED,), (), (), raw())) == []


def test_more_than_the_runner_shows_are_counted() -> None:
    lines = annotations(gate_result(*[finding(cell=f"c{index}") for index in range(25)]))
    assert len(lines) == 10
    assert lines[-1] == "::error title=fashiontl gate%3A more::16 more like these: see the summary of the step"


def test_github_is_told_where_it_asks(tmp_path: Path) -> None:
    summary, output = tmp_path / "summary", tmp_path / "output"
    output.write_text("before=1\n")
    environment = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(output)}
    assert write_github(gate_result(), environment).startswith("::error title=fashiontl gate%3A REGRESSED::")
    assert summary.read_text() == markdown(gate_result())
    assert output.read_text() == "before=1\nverdict=REGRESSED\nexit-code=1\n"


def test_a_summary_that_cannot_be_written_changes_no_verdict(tmp_path: Path) -> None:
    environment = {"GITHUB_STEP_SUMMARY": str(tmp_path), "GITHUB_OUTPUT": str(tmp_path / "output")}
    assert write_github(gate_result(), environment) == (
        "::warning title=fashiontl gate%3A summary::GITHUB_STEP_SUMMARY cannot be written: Is a directory"
    )
    assert (tmp_path / "output").read_text() == "verdict=REGRESSED\nexit-code=1\n"


def test_junit_is_read_back() -> None:
    made = gate_result(finding(), PASSED, EQUAL, WAIVED, ADVISORY, CRASHED, UNDECIDED, verdict="CRASHED", exit_code=12)
    suites = ElementTree.fromstring(junit(made))
    (suite,) = suites.findall("testsuite")
    assert suite.attrib == {
        "name": "fashiontl gate", "tests": "7", "failures": "2", "errors": "1", "skipped": "2", "time": "754.000",
        "timestamp": "2026-11-25T02:00:00+00:00",
    }  # fmt: skip
    cases = [(case.get("classname"), case.get("name"), case[0].tag) for case in suite.findall("testcase")]
    assert cases == [
        (CELL, "latency", "failure"), (OTHER, "latency", "system-out"), (CELL, "parameters", "system-out"),
        (CELL, "latency", "skipped"), (CELL, "latency (advisory)", "skipped"), (OTHER, "*", "error"),
        (CELL, "latency", "failure"),
    ]  # fmt: skip
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.attrib == {
        "message": "REGRESSED: lower bound 4.9 % is above the 2 % tolerated, and a confirmation agrees [6 + 16 trials]",
        "type": "REGRESSED",
    }
    assert failure.text is not None
    assert failure.text.startswith("Latency (ms): base 9.21, head 9.77, change +6.1 % (+4.9 to +7.3)\n")
    assert suite.find("properties/property[@name='head']").get("value") == "working tree (fedcba987654, with changes)"


@pytest.mark.parametrize("findings", [(), (PASSED,)])
def test_in_junit_a_gate_that_fails_is_never_green(findings: tuple[object, ...]) -> None:
    suite = ElementTree.fromstring(junit(GateResult("MISSING", 12, findings, (), (), raw())))[0]
    assert (suite.get("tests"), suite.get("errors")) == (str(len(findings) + 1), "1")


@pytest.mark.parametrize("verdict", EXIT_CODES)
def test_every_report_shows_every_verdict(verdict: str) -> None:
    made = gate_result(finding(verdict=verdict), verdict=verdict, exit_code=EXIT_CODES[verdict])
    assert terminal(made).startswith(f"{verdict}, exit code {EXIT_CODES[verdict]}: 1 {verdict}")
    assert f"### fashiontl gate: {verdict}\n" in markdown(made)
    assert bool(annotations(made)) == (EXIT_CODES[verdict] != 0)
