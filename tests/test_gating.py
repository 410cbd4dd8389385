"""`pytest bench/ --gate` as pytest users meet it; the measuring part answers with a made-up verdict."""

from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

# Stands in for the gate in the inner run: the verdict's words by cell.
FAKE = """
import sys
sys.path.insert(0, {tests!r})
from gate_raws import finding, raw, verdict
from fashiontl.gate import commands
from fashiontl.gate.arm import IncomparableError
from fashiontl.gate.verdict import EXIT_CODES

WORDS = {words!r}

def compare(base, order, results, extensions, progress):
    progress("comparing")
    if not WORDS:
        raise IncomparableError("NO_BASELINE", "the base is too old")
    cells = tuple(case.id for case in order.cases)
    findings = [finding(cell=cell, word=WORDS[cell.split("-")[0]]) for cell in cells if WORDS.get(cell.split("-")[0])]
    word = next((word for word in EXIT_CODES if word in {{found.word for found in findings}}), "PASS")
    new = tuple(cell for cell in cells if cell.split("-")[0] == "densenet121")
    return verdict(*findings, word=word, exit_code=EXIT_CODES[word], raw=raw(cells=cells, new=new))

commands.compare = compare
"""


Bench = Callable[[str], pytest.Pytester]


def run(matrix: Bench, words: dict[str, str], *arguments: str) -> pytest.RunResult:
    bench = matrix(FAKE.format(tests=str(TESTS), words=words))
    return bench.runpytest_subprocess("--device", "cpu", "--policy", "full", "--gate", "main", *arguments)


def test_cells_that_pass(matrix: Bench) -> None:
    result = run(matrix, {"resnet18": "PASS", "vgg11": "IMPROVED"}, "--arch", "resnet18,vgg11")
    result.assert_outcomes(passed=2)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*fashiontl gate*", "*resnet18-full-cpu*"])


@pytest.mark.parametrize(("word", "code"), [("REGRESSED", 1), ("INCONCLUSIVE", 10), ("CRASHED", 12)])
def test_a_cell_that_does_not_pass_fails_its_test_with_the_gates_exit_code(
    matrix: Bench, pytester: pytest.Pytester, word: str, code: int
) -> None:
    result = run(matrix, {"resnet18": word, "vgg11": "PASS"}, "--arch", "resnet18,vgg11", "--gate-json", "gate.json")
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == code
    result.stdout.fnmatch_lines([f"*{word} resnet18-full-cpu, latency:*"])
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


def test_k_chooses_the_cells_of_the_gate(matrix: Bench) -> None:
    result = run(matrix, {"resnet18": "PASS", "vgg11": "REGRESSED"}, "--arch", "resnet18,vgg11", "-k", "resnet18")
    result.assert_outcomes(passed=1, deselected=1)
    assert result.ret == 0


def test_the_gate_is_not_spread_over_processes(matrix: Bench) -> None:
    pytest.importorskip("xdist")
    result = run(matrix, {"resnet18": "PASS"}, "--arch", "resnet18", "-n", "2")
    assert result.ret == 2
