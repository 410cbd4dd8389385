"""`pytest bench/ --gate BASE`: the regression gate as tests, a cell each, by the same code as `fashiontl gate`."""

import argparse
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fashiontl.core.case import Case, Settings
from fashiontl.core.errors import INTERNAL, FashiontlError, told
from fashiontl.core.escape import to_terminal, to_terminal_line
from fashiontl.gate.verdict import EXIT_CODES, Finding, Verdict, Word
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


def add_options(group: Any) -> None:
    """Declare the gate's options."""
    group.addoption("--gate", default=None, metavar="REF", help="compare each cell with this commit instead")
    group.addoption("--gate-budget", default=None, metavar="MINUTES", help="of the whole gate (no limit)")
    group.addoption("--gate-accuracy", action="store_true", help="train and test in both arms too, with paired seeds")
    group.addoption("--gate-json", default=None, metavar="FILE", help="write all that the gate measured")
    group.addoption(
        "--gate-unchanged",
        action="store_true",
        help="compare even where the working tree is the base, without a change",
    )


def faults(config: pytest.Config, option: Namespace) -> list[str]:
    """What is wrong with the options of the gate; a gate that is asked for and would compare nothing is an error.

    Args:
        config: for options of pytest's own.
        option: ours, as `fashiontl.session.declaring.read` gives them.
    """
    found = [
        f"{name}: {fault}"
        for name, kind, text in (
            ("--gate", filled, option.gate),
            ("--gate-budget", minutes, option.gate_budget),
            ("--gate-json", filled, option.gate_json),
        )
        if text is not None and (fault := _fault(kind, text))
    ]
    if option.gate is None:
        given = [
            f"--{name.replace('_', '-')}"
            for name in ("gate_budget", "gate_accuracy", "gate_json", "gate_unchanged")
            if getattr(option, name) not in {None, False}
        ]
        return found + ([f"expected --gate REF beside {', '.join(given)}, got none; name a commit"] if given else [])
    # Their controller has checked for the processes of pytest-xdist.
    if not hasattr(config, "workerinput") and (option_of(config, "numprocesses") or option_of(config, "tx")):
        found.append("expected the gate in one process, got pytest-xdist's -n; leave it out")
    if given := [text for name, text in _IDLE.items() if option_of(config, name)]:
        found.append(f"expected --gate without {', '.join(given)}, which compares nothing; leave one of them out")
    return found


def option_of(config: pytest.Config, name: str) -> Any:
    """An option of a plug-in that need not be here."""
    return getattr(config.option, name, None)


def _fault(kind: Callable[[str], object], text: str) -> str:
    try:
        kind(text)
    except argparse.ArgumentTypeError as error:
        return str(error)
    return ""


@dataclass
class GatedSession:
    """One session's gate; it is run once, for all cells that were collected, when the first is asked for.

    Attributes:
        base: a commit.
        cases: the cells of the collected tests.
        settings: how they are run.
        results: folder with the waivers.
        extensions: besides those that the trees name themselves.
        budget: seconds; 0 is no limit.
        accuracy: whether they are trained and tested too.
        json: file for all that was measured; None for none.
        unchanged: whether the base may be what is in the working tree.
        progress: called with what is being done.
    """

    base: str
    cases: Sequence[Case]
    settings: Settings
    results: Path
    extensions: Sequence[str]
    budget: float = 0.0
    accuracy: bool = False
    json: Path | None = None
    unchanged: bool = False
    progress: Callable[[str], None] = lambda text: None
    verdict: Verdict | None = None
    word: Word | None = None
    reason: str = ""
    fault: str = ""
    _asked: bool = field(default=False, repr=False)

    def measure(self) -> None:
        """Run the gate, unless that was done; what cannot be compared becomes a word and a reason."""
        if self._asked:
            return
        self._asked = True
        from fashiontl.gate import rawfile
        from fashiontl.gate.arm import IncomparableError
        from fashiontl.gate.commands import check_reports, compare
        from fashiontl.gate.runner import Order
        from fashiontl.runner.cell import command

        order = Order(
            self.cases, self.settings, self.accuracy, self.budget, command=command(), unchanged=self.unchanged
        )
        check_reports({"--gate-json": self.json})
        try:
            self.verdict = compare(self.base, order, self.results, self.extensions, self.progress)
        except IncomparableError as error:
            self.word, self.reason = error.word, str(error)
            return
        self.word = self.verdict.word
        try:
            if self.json is not None:
                rawfile.write(self.verdict.raw, self.json)
        except FashiontlError as error:  # the verdict stands without its file
            self.fault = str(error)


def exit_status(gate: GatedSession | None, status: int) -> int:
    """What pytest ends with when a gate was asked for: its exit code, unless more than a test went wrong.

    Args:
        gate: None where no tests were collected.
        status: what pytest would end with; where nothing was compared, success is none.
    """
    if gate is not None and gate.word is not None and status in _DECIDED:
        return EXIT_CODES[gate.word] or status
    return EXIT_CODES["MISSING"] if status in _PASSED else status


def begin(
    option: Namespace, cases: Sequence[Case], settings: Settings, progress: Callable[[str], None]
) -> "GatedSession":
    """The gate of the tests that were collected.

    Args:
        option: as `fashiontl.session.declaring.read` gives them.
        cases: of the tests.
        settings: of all cases.
        progress: called with what is being done.
    """
    return GatedSession(
        option.gate,
        cases,
        settings,
        Path(option.results),
        option.fashiontl_plugin,
        60 * minutes(option.gate_budget) if option.gate_budget else 0.0,
        option.gate_accuracy,
        Path(option.gate_json) if option.gate_json else None,
        option.gate_unchanged,
        progress,
    )


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
            message, code = told("pytest --gate", error)
            pytest.exit(to_terminal(f"\n{message}"), returncode=code)
        if self.session.verdict is None:
            pytest.fail(to_terminal(f"{self.session.word}: {self.session.reason}"), pytrace=False)
        if self.case.id in self.session.verdict.raw.new:
            pytest.skip(to_terminal_line(f"new: {self.session.base} has nothing to compare with"))
        findings = [found for found in self.session.verdict.findings if found.cell == self.case.id]
        bad = [_text(found) for found in findings if found.is_bad and found.decides]
        if bad or not findings:
            pytest.fail("\n".join(bad) or "MISSING: the gate has no finding of this cell", pytrace=False)


def _text(finding: Finding) -> str:
    return to_terminal_line(f"{finding.word} {finding.cell}, {finding.metric}: {finding.reason}")
