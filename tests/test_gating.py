"""`pytest bench/ --gate` as pytest users meet it; the measuring part answers with a made-up verdict."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fashiontl.session.gating import option_errors

TESTS = Path(__file__).parent

# Stands in for the gate in the inner run: the verdicts by cell.
FAKE = """
import sys
sys.path.insert(0, {tests!r})
from gate_raws import finding, gate_result, raw
from fashiontl.gate import commands
from fashiontl.gate.arm import IncomparableError
from fashiontl.gate.result import EXIT_CODES

VERDICTS = {verdicts!r}

def compare(base, order, results, extensions, progress):
    progress("comparing")
    if not VERDICTS:
        raise IncomparableError("NO_BASELINE", "the base is too old")
    cells = tuple(case.id for case in order.cases)
    found = {{cell: VERDICTS[cell.split("-")[0]] for cell in cells if VERDICTS.get(cell.split("-")[0])}}
    whole = next((verdict for verdict in EXIT_CODES if verdict in found.values()), "PASS")
    new = tuple(cell for cell in cells if cell.split("-")[0] == "densenet121")
    findings = [finding(cell=cell, verdict=verdict) for cell, verdict in found.items()]
    return gate_result(*findings, verdict=whole, exit_code=EXIT_CODES[whole], raw=raw(cells=cells, new=new))

commands.compare = compare
"""


Bench = Callable[[str], pytest.Pytester]


def run(matrix: Bench, verdicts: dict[str, str], *arguments: str) -> pytest.RunResult:
    bench = matrix(FAKE.format(tests=str(TESTS), verdicts=verdicts))
    return bench.runpytest_subprocess("--device", "cpu", "--policy", "full", "--gate", "main", *arguments)


def test_cells_that_pass(matrix: Bench) -> None:
    result = run(matrix, {"resnet18": "PASS", "vgg11": "IMPROVED"}, "--arch", "resnet18,vgg11")
    result.assert_outcomes(passed=2)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*fashiontl gate*", "*resnet18-full-cpu*"])


@pytest.mark.parametrize(("verdict", "code"), [("REGRESSED", 1), ("INCONCLUSIVE", 10)])
def test_a_cell_that_does_not_pass_fails_its_test_with_the_gates_exit_code(
    matrix: Bench, pytester: pytest.Pytester, verdict: str, code: int
) -> None:
    result = run(matrix, {"resnet18": verdict, "vgg11": "PASS"}, "--arch", "resnet18,vgg11", "--gate-json", "gate.json")
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == code
    result.stdout.fnmatch_lines([f"*{verdict} resnet18-full-cpu, latency:*"])
    assert (pytester.path / "gate.json").exists()


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(matrix: Bench) -> None:
    result = run(matrix, {"resnet18": "PASS"}, "--arch", "resnet18", "--gate-json", ".")
    assert result.ret == 2
    result.stdout.fnmatch_lines(["*expected a file for a report, got the folder .; name another with --gate-json*"])


def test_a_new_cell_is_a_skip_and_one_without_a_finding_fails(matrix: Bench) -> None:
    result = run(matrix, {"resnet18": "PASS"}, "--arch", "resnet18,densenet121,vgg11")
    result.assert_outcomes(passed=1, skipped=1, failed=1)
    assert result.ret != 0


def test_what_cannot_be_compared_is_no_pass(matrix: Bench) -> None:
    result = run(matrix, {}, "--arch", "resnet18")
    result.assert_outcomes(failed=1)
    assert result.ret == 11
    result.stdout.fnmatch_lines(["*NO_BASELINE: the base is too old*"])


@pytest.mark.slow
def test_a_file_that_is_lost_after_the_verdict_changes_no_exit_code(matrix: Bench) -> None:
    conftest = FAKE.format(tests=str(TESTS), verdicts={"resnet18": "CRASHED"}) + LOST
    bench = matrix(conftest)
    options = ("--device", "cpu", "--policy", "full", "--arch", "resnet18", "--gate", "main", "--gate-json", "a.json")
    result = bench.runpytest_subprocess(*options)
    assert result.ret == 12
    result.stdout.fnmatch_lines(["*a.json: No space left on device*"])


# A disk that is full only when the gate has been measured.
LOST = """
from fashiontl.gate import raw as kept

def write(path, contents):
    raise OSError(28, "No space left on device")

kept.write_atomically = write
"""
BROKEN = """
from fashiontl.gate import commands

def compare(*arguments):
    raise {error}

commands.compare = compare
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        ("KeyError('x')", 70, "*pytest --gate: internal error KeyError: 'x'; *the full report is in *crash-*.txt*"),
        ("SystemExit(143)", 143, "*the gate was ended*"),
        ("PermissionError(13, 'Permission denied', 'a/b')", 2, "*got a/b: Permission denied; free it*"),
    ],
)
def test_what_goes_wrong_in_the_gate_is_no_verdict(
    matrix: Bench, monkeypatch: pytest.MonkeyPatch, error: str, code: int, line: str
) -> None:
    bench = matrix(BROKEN.format(error=error))
    monkeypatch.setenv("XDG_STATE_HOME", str(bench.path / "state"))
    result = bench.runpytest_subprocess("--device", "cpu", "--arch", "resnet18,vgg11", "--gate", "main")
    assert result.ret == code
    result.stdout.fnmatch_lines([line])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


LEFT_OUT = {"gate": None, "gate_budget": None, "gate_accuracy": False, "gate_json": None, "gate_unchanged": False}
MINUTES = "--gate-budget: expected a number from 0.001 to 5,000,000, got "


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ({}, []),
        ({"gate": "main", "gate_budget": "1.5", "gate_json": "gate.json", "gate_accuracy": True}, []),
        ({"gate": ""}, ["--gate: expected one letter or more, got ''"]),
        ({"gate": " ", "gate_json": ""}, ["--gate: expected one letter", "--gate-json: expected one letter"]),
        *(({"gate": "main", "gate_budget": text}, [f"{MINUTES}'{text}'"])
          for text in ("", "0", "-1", "nan", "inf", "1e400", "soon")),
        ({"gate_json": "x"}, ["expected --gate REF beside --gate-json, got none; name a commit"]),
        ({"gate_budget": "5", "gate_accuracy": True}, ["expected --gate REF beside --gate-budget, --gate-accuracy"]),
        ({"gate": "main", "collectonly": True}, ["expected --gate without --collect-only, which compares nothing"]),
        ({"gate": "main", "showfixtures": True}, ["expected --gate without --fixtures"]),
        ({"gate": "main", "setupplan": True, "setuponly": True}, ["expected --gate without --setup-only, --setup"]),
        ({"gate": "main", "numprocesses": 2}, ["expected the gate in one process, got pytest-xdist's -n"]),
        ({"gate": "main", "tx": ["2*popen"]}, ["expected the gate in one process, got pytest-xdist's -n"]),
    ],
)  # fmt: skip
def test_options_with_which_a_gate_compares_nothing_or_something_else_are_errors(
    options: dict[str, Any], messages: list[str]
) -> None:
    option = SimpleNamespace(**{**LEFT_OUT, **options})
    found = option_errors(SimpleNamespace(option=option), option)  # type: ignore[arg-type]
    assert len(found) == len(messages)
    assert all(error.startswith(start) for error, start in zip(found, messages, strict=True)), found


@pytest.mark.slow
def test_a_gate_of_no_cells_does_not_pass(matrix: Bench) -> None:
    assert run(matrix, {"resnet18": "PASS"}, "--arch", "resnet18", "-k", "nothing").ret == 5


@pytest.mark.slow
def test_a_gate_whose_tests_are_deselected_beside_others_that_pass_is_missing(
    matrix: Bench, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_other="def test_other(): pass")
    assert run(matrix, {"resnet18": "PASS"}, "--arch", "resnet18", "-k", "other").ret == 12
