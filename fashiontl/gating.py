"""`pytest bench/ --gate BASE`: the regression gate as tests, a cell each, by the same code as `fashiontl gate`."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fashiontl.case import Case, Settings
from fashiontl.errors import FashiontlError
from fashiontl.escape import to_terminal, to_terminal_line
from fashiontl.gate.verdict import EXIT_CODES, Finding, Verdict, Word


def add_options(group: Any) -> None:
    """Declare the gate's options."""
    group.addoption("--gate", default="", metavar="REF", help="compare each cell with this commit instead")
    group.addoption("--gate-budget", type=float, default=0.0, metavar="MINUTES", help="of the whole gate (no limit)")
    group.addoption("--gate-accuracy", action="store_true", help="train and test in both arms too, with paired seeds")
    group.addoption("--gate-json", default="", metavar="FILE", help="write all that the gate measured")


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
    progress: Callable[[str], None] = lambda text: None
    verdict: Verdict | None = None
    word: Word | None = None
    reason: str = ""
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
        from fashiontl.measure import command

        order = Order(self.cases, self.settings, self.accuracy, self.budget, command=command())
        check_reports({"--gate-json": self.json})
        try:
            self.verdict = compare(self.base, order, self.results, self.extensions, self.progress)
            self.word = self.verdict.word
            if self.json is not None:
                rawfile.write(self.verdict.raw, self.json)
        except IncomparableError as error:
            self.word, self.reason = error.word, str(error)

    @property
    def exit_code(self) -> int:
        """What pytest ends with; 0 when the gate was not run."""
        return EXIT_CODES[self.word] if self.word else 0


def begin(
    config: pytest.Config, option: Namespace, cases: Sequence[Case], settings: Settings, progress: Callable[[str], None]
) -> GatedSession:
    """The gate of a session; exits with 2 where the session has several processes."""
    if getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput"):
        pytest.exit("\nexpected the gate in one process, got pytest-xdist's -n; leave it out", returncode=2)
    return GatedSession(
        option.gate,
        cases,
        settings,
        Path(option.results),
        option.fashiontl_plugin,
        60 * option.gate_budget,
        option.gate_accuracy,
        Path(option.gate_json) if option.gate_json else None,
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
        except FashiontlError as error:
            pytest.exit(to_terminal(f"\n{error}"), returncode=2)
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
