"""What a person sees while cases run: which one, what it is doing, and about how long is left."""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from fashiontl.escape import to_terminal_line

if TYPE_CHECKING:
    import pytest


class ProgressLine:
    """One line that is rewritten on a terminal, and one line a finished case everywhere else.

    Only at the default verbosity: with `-q` and `-v`, and in the processes of pytest-xdist, tests are reported as
    pytest always does.

    Args:
        config: of the session, for its terminal.
        clock: seconds.
    """

    def __init__(self, config: "pytest.Config", clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self.expected = 0
        self._done = 0
        self._spent = 0.0
        self._id = ""
        self._begun = 0.0

    def expect(self, count: int) -> None:
        """Say how many cases there will be."""
        self.expected = count

    def say(self, text: str) -> None:
        """Show what is being done when that is no case of its own."""
        self._write(text, keep=False)

    def begin(self, case_id: str) -> None:
        """A case starts."""
        self._id = case_id
        self._begun = self._clock()
        self.update("starting")

    def update(self, doing: str) -> None:
        """The case is doing something else now."""
        self._write(f"[{self._done + 1}/{self.expected}] {self._id}: {doing}{self._left()}", keep=False)

    def end(self, record: Any) -> bool:
        """The case has its record; whether a line says so, which then stands for the test's letter."""
        seconds = self._clock() - self._begun
        self._done += 1
        self._spent += seconds
        text = f"[{self._done}/{self.expected}] {self._id}: {record.status} in {seconds:.0f} s{self._left()}"
        return self._write(text, keep=True)

    def _left(self) -> str:
        """How long is left, from the mean of the finished cases; nothing before the first has finished."""
        if not self._done or self._done >= self.expected:
            return ""
        return f", about {duration(self._spent / self._done * (self.expected - self._done))} left"

    def _write(self, text: str, *, keep: bool) -> bool:
        text = to_terminal_line(text)
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or self._config.get_verbosity() != 0 or not (keep or reporter.isatty):
            return False
        capture: Any = self._config.pluginmanager.get_plugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            # Past pytest's own methods for new lines: they forget which file was named last and name it at each case.
            if reporter.isatty:
                reporter.rewrite(text[: reporter._tw.fullwidth - 1], erase=True)
            else:
                reporter.write(("\n" if reporter._tw.width_of_current_line else "") + text, flush=True)
            if keep:
                reporter._tw.line()
        return True


class ProgressText:
    """What is being done, on one line of the terminal that is rewritten and gone at the end; elsewhere nothing."""

    def __enter__(self) -> Callable[[str], None]:
        return self._write if sys.stderr.isatty() else lambda text: None

    def __exit__(self, *unused: object) -> None:
        if sys.stderr.isatty():
            self._write("")

    def _write(self, text: str) -> None:
        # Back to the line's beginning, and what is right of it erased (ECMA-48, EL).
        print(f"\r\x1b[K{to_terminal_line(text)}", end="", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(42), duration(185), duration(7300)
    ('42 s', '3 min', '2 h 1 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
