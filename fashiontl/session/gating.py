"""`pytest bench/ --gate BASE`: the regression gate as tests, a cell each, by the same code as `fashiontl gate`."""

import argparse
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fashiontl.core.case import Case, Settings
from fashiontl.core.errors import INTERNAL, FashiontlError, explain
from fashiontl.core.escape import to_terminal, to_terminal_line
from fashiontl.gate.result import EXIT_CODES, GateResult, Verdict
from fashiontl.matrix.options import filled, minutes

# Options of pytest with which no test is run, and that end with 0.
_IDLE = {
    "collectonly": "--collect-only",
    "showfixtures": "--fixtures",
    "show_fixtures_per_test": "--fixtures-per-test",
    "setuponly": "--setup-only",
    "setupplan": "--setup-plan",
    "cacheshow": "--cache-show",
}
_PASSED = {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}
_DECIDED = {*_PASSED, pytest.ExitCode.INTERRUPTED}


OPTIONS: dict[str, dict[str, Any]] = {
    "--gate": {"default": None, "metavar": "REF", "help": "compare each cell with this commit instead"},
    "--gate-budget": {"default": None, "metavar": "MINUTES", "help": "of the whole gate (no limit)"},
    "--gate-accuracy": {"action": "store_true", "help": "train and test in both arms too, with paired seeds"},
    "--gate-json": {"default": None, "metavar": "FILE", "help": "write all that the gate measured"},
    "--gate-unchanged": {
        "action": "store_true", "help": "compare even where the working tree is the base, without a change",
    },
}  # fmt: skip


def option_errors(config: pytest.Config, option: Namespace) -> list[str]:
    """What is wrong with the options of the gate; a gate that is asked for and would compare nothing is an error."""
    found = []
    for name, kind, text in (
        ("--gate", filled, option.gate), ("--gate-budget", minutes, option.gate_budget),
        ("--gate-json", filled, option.gate_json),
    ):  # fmt: skip
        try:
            if text is not None:
                kind(text)
        except argparse.ArgumentTypeError as error:
            found.append(f"{name}: {error}")
    if option.gate is None:
        given = [
            f"--{name.replace('_', '-')}"
            for name in ("gate_budget", "gate_accuracy", "gate_json", "gate_unchanged")
            if getattr(option, name) not in {None, False}
        ]
        return found + ([f"expected --gate REF beside {', '.join(given)}, got none; name a commit"] if given else [])
    # Their controller has checked for the processes of pytest-xdist.
    if not hasattr(config, "workerinput") and (
        getattr(config.option, "numprocesses", None) or getattr(config.option, "tx", None)
    ):
        found.append("expected the gate in one process, got pytest-xdist's -n; leave it out")
    if given := [text for name, text in _IDLE.items() if getattr(config.option, name, None)]:
        found.append(f"expected --gate without {', '.join(given)}, which compares nothing; leave one of them out")
    return found


@dataclass
class GatedSession:
    """One session's gate; it is run once, for all cells that were collected, when the first is asked for.

    Attributes:
        option: as `fashiontl.session.declaring.read` gives them.
        cases, settings: of the collected tests.
        progress: called with what is being done.
        result: None before it was run, and where the base cannot be compared.
        verdict: of the whole gate; None before it was run.
        reason: why the base cannot be compared.
        error: why its file could not be written.
    """

    option: Namespace
    cases: Sequence[Case]
    settings: Settings
    progress: Callable[[str], None]
    result: GateResult | None = None
    verdict: Verdict | None = None
    reason: str = ""
    error: str = ""

    def measure(self) -> None:
        """Run the gate, unless that was done; what cannot be compared becomes a verdict and a reason."""
        if self.verdict is not None:
            return
        from fashiontl.gate import raw
        from fashiontl.gate.arm import IncomparableError
        from fashiontl.gate.commands import check_reports, compare
        from fashiontl.gate.runner import Order
        from fashiontl.runner.cell import command

        option = self.option
        order = Order(
            self.cases,
            self.settings,
            option.gate_accuracy,
            60 * minutes(option.gate_budget) if option.gate_budget else 0.0,
            command=command(),
            unchanged=option.gate_unchanged,
        )
        file = Path(option.gate_json) if option.gate_json else None
        check_reports({"--gate-json": file})
        try:
            self.result = compare(option.gate, order, Path(option.results), option.fashiontl_plugin, self.progress)
        except IncomparableError as error:
            self.verdict, self.reason = error.verdict, str(error)
            return
        self.verdict = self.result.verdict
        try:
            if file is not None:
                raw.write(self.result.raw, file)
        except FashiontlError as error:  # the verdict stands without its file
            self.error = str(error)


def exit_status(gate: GatedSession | None, status: int) -> int:
    """What pytest ends with when a gate was asked for: its exit code, unless more than a test went wrong.

    Where nothing was compared, pytest's success, `status`, is none.
    """
    if gate is not None and gate.verdict is not None and status in _DECIDED:
        return EXIT_CODES[gate.verdict] or status
    return EXIT_CODES["MISSING"] if status in _PASSED else status


@dataclass(frozen=True)
class GatedCell:
    """One cell as a test of the gate sees it."""

    case: Case
    session: GatedSession

    def judge(self) -> None:
        """Pass, skip a cell that the base lacks, or fail with the findings that count."""
        __tracebackhide__ = True  # pytest names the test, not this line, as the place of a skip
        try:
            self.session.measure()
        except SystemExit as error:  # as of SIGTERM; pytest would take it for a test that failed
            pytest.exit("\nthe gate was ended", returncode=error.code if isinstance(error.code, int) else INTERNAL)
        except Exception as error:
            message, code = explain("pytest --gate", error)
            pytest.exit(to_terminal(f"\n{message}"), returncode=code)
        if self.session.result is None:
            pytest.fail(to_terminal(f"{self.session.verdict}: {self.session.reason}"), pytrace=False)
        if self.case.id in self.session.result.raw.new:
            pytest.skip(to_terminal_line(f"new: {self.session.option.gate} has nothing to compare with"))
        findings = [finding for finding in self.session.result.findings if finding.cell == self.case.id]
        bad = [
            to_terminal_line(f"{finding.verdict} {finding.cell}, {finding.metric}: {finding.reason}")
            for finding in findings
            if finding.is_bad and finding.decides
        ]
        if bad or not findings:
            pytest.fail("\n".join(bad) or "MISSING: the gate has no finding of this cell", pytrace=False)
