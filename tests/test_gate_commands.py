"""The gate's commands from options to exit codes; measuring is replaced, tests/test_gate_runner.py has it."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gate_raws import CELL, finding, gate_result, raw

from fashiontl import cli
from fashiontl.gate import commands
from fashiontl.gate.arm import IncomparableError
from fashiontl.gate.raw import read, write
from fashiontl.gate.result import EXIT_CODES, GateResult
from fashiontl.gate.runner import Order

GATE = ["gate", "--base", "main", "--arch", "resnet18", "--policy", "full", "--device", "cpu"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASHIONTL_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Callable[[GateResult], list[tuple[str, Order]]]:
    """Have the measuring part answer with a verdict; what it was asked is kept."""

    def answer(made: GateResult) -> list[tuple[str, Order]]:
        asked: list[tuple[str, Order]] = []

        def compare(base: str, order: Order, *_: Any) -> GateResult:
            asked.append((base, order))
            return made

        monkeypatch.setattr(commands, "compare", compare)
        return asked

    return answer


def whole(verdict: Any) -> GateResult:
    return gate_result(finding(verdict=verdict), verdict=verdict, exit_code=EXIT_CODES[verdict])


@pytest.mark.parametrize(
    ("verdict", "code"), [("PASS", 0), ("REGRESSED", 1), ("INCONCLUSIVE", 10), ("MISSING", 12), ("CRASHED", 12)]
)
def test_the_exit_code_is_the_verdicts(
    here: Path, compared: Callable[..., Any], capsys: pytest.CaptureFixture[str], verdict: Any, code: int
) -> None:
    del here
    asked = compared(whole(verdict))
    assert cli.main(GATE) == code
    assert verdict in capsys.readouterr().out
    ((base, order),) = asked
    assert (base, [case.id for case in order.cases]) == ("main", [CELL])
    assert order.matrix is not None
    assert order.matrix["axes"]["arch"] == ["resnet18"]


def test_a_data_root_is_passed_on_to_both_arms(here: Path, compared: Callable[..., Any]) -> None:
    (here / "images").mkdir()
    asked = compared(gate_result(finding()))
    assert cli.main([*GATE, "--data-root", "images"]) == 1
    ((_, order),) = asked
    assert (order.settings.data, order.settings.data_root) == ("original", "images")
    assert order.matrix is not None
    assert order.matrix["data_root"] == "images"


def test_all_reports_are_written(here: Path, compared: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    compared(gate_result(finding()))
    files = ["--json", "gate.json", "--markdown", "gate.md", "--junit", "gate.xml"]
    assert cli.main([*GATE, *files, "--accuracy", "--budget", "2"]) == 1
    capsys.readouterr()
    assert (here / "gate.md").read_text().startswith("<!-- fashiontl gate -->")
    assert ET.parse(here / "gate.xml").getroot().tag in {"testsuite", "testsuites"}
    assert read(here / "gate.json") == gate_result(finding()).raw


def test_inconclusive_can_be_let_pass_and_is_still_said(
    here: Path, compared: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    del here
    compared(whole("INCONCLUSIVE"))
    assert cli.main([*GATE, "--inconclusive", "warn"]) == 0
    shown = capsys.readouterr().out
    assert "INCONCLUSIVE" in shown
    assert "let pass" in shown
    compared(gate_result(finding()))
    assert cli.main([*GATE, "--inconclusive", "warn"]) == 1, "nothing else is let pass"


def test_what_cannot_be_compared_has_its_own_code(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del here

    def compare(*_: Any) -> GateResult:
        raise IncomparableError("NO_BASELINE", "base has protocol 1, this fashiontl 2")

    monkeypatch.setattr(commands, "compare", compare)
    assert cli.main(GATE) == 11
    assert capsys.readouterr().out == "NO_BASELINE: base has protocol 1, this fashiontl 2\n"


def test_a_replay_says_the_same(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(raw(), here / "gate.json")
    assert cli.main(["gate", "--replay", "gate.json"]) == 12
    first = capsys.readouterr().out
    assert "SIGSEGV in the forward pass" in first
    assert cli.main(["gate", "--replay", "gate.json", "--json", "again.json"]) == 12
    assert capsys.readouterr().out == first
    assert (here / "again.json").read_text() == (here / "gate.json").read_text()


def test_a_plan_says_what_can_be_found(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(raw(), here / "gate.json")
    assert cli.main(["gate", "--plan", "gate.json"]) == 0
    shown = capsys.readouterr().out
    assert CELL in shown
    assert "100 %" in shown


def test_a_plan_of_a_gate_without_cells_is_bad_input(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(raw(cells=(), series=(), failures=()), here / "gate.json")
    assert cli.main(["gate", "--plan", "gate.json"]) == 2
    assert "expected a gate with trials of a timed metric, got none in gate.json" in capsys.readouterr().err


def test_reports_that_cannot_be_written_are_told_before_anything_is_measured(
    here: Path, compared: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = compared(gate_result(finding()))
    (here / "file").write_text("")
    assert cli.main([*GATE, "--json", ".", "--markdown", "gate.md", "--junit", "file/gate.xml"]) == 2
    assert not asked
    assert capsys.readouterr().err.splitlines() == [
        "fashiontl gate: expected a file for a report, got the folder .; name another with --json",
        "expected a folder for a report that can be written, got file: File exists; free it, or name another with "
        "--junit",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--replay", "x", "--arch", "vgg11", "--budget", "3"], "expected --arch, --budget beside --base"),
        (["--replay", "nowhere.json"], "nowhere.json"),
        (["--base", "main", "--arch", "resnet81"], "unknown architecture 'resnet81'"),
    ],
)
def test_bad_input_is_one_message(
    here: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    del here
    assert cli.main(["gate", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--base", "main", "--replay", "x"]])
def test_a_gate_measures_or_replays_or_plans(here: Path, options: list[str]) -> None:
    del here
    with pytest.raises(SystemExit, match="2"):
        cli.main(["gate", *options])


def test_a_waiver_is_written_and_counts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"cell": CELL, "metric": "latency", "ceiling": "5", "owner": "ada", "reason": "a fix"}
    options = [text for name, value in fields.items() for text in (f"--{name}", value)]
    expires = (datetime.now(UTC).date() + timedelta(days=10)).isoformat()
    assert cli.main(["waive", *options, "--expires", expires]) == 0
    (path,) = (here / "results" / "waivers").glob("*.toml")
    assert str(path.name) in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        cli.main(["waive", *options, "--expires", "someday"])
