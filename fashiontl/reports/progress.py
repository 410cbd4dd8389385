"""What a person sees while cases run: which one, what it is doing, and about how long is left."""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

from fashiontl.core.escape import to_terminal_line
from fashiontl.runner.estimate import Estimate, Range

if TYPE_CHECKING:
    import pytest

# Within this factor one number says it.
_CERTAIN = 1.5


class ProgressLine:
    """One line that is rewritten on a terminal, and one line a finished case everywhere else.

    Only at the default verbosity: with `-q` and `-v`, and in the processes of pytest-xdist, tests are reported as
    pytest always does.
    """

    def __init__(self, config: "pytest.Config", clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self.expected = 0
        self._estimate: Estimate | None = None
        self._done = 0
        self._id = ""
        self._begun = 0.0
        self._broken = False

    def expect(self, count: int) -> None:
        """Set how many cases there will be."""
        self.expected = count

    def predict(self, estimate: Estimate) -> None:
        """Set how long they may take."""
        self._estimate = estimate

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
        if self._estimate:
            # What a case took of its own: the first of a group has timed the others too.
            own = record.values("wall_time")
            self._estimate.finish(self._id, record.status, own[0] if own else seconds)
        self._id, case_id = "", self._id
        text = f"[{self._done}/{self.expected}] {case_id}: {record.status} in {seconds:.0f} s{self._left()}"
        return self._write(text, keep=True)

    def _left(self) -> str:
        """How long is left; nothing where nobody has predicted it."""
        if self._estimate is None or self._done >= self.expected:
            return ""
        elapsed = self._clock() - self._begun if self._id else 0.0
        return f", {span(self._estimate.left(self._id, elapsed))} left"

    def _write(self, text: str, *, keep: bool) -> bool:
        """Whether the line was written. A terminal that takes none any more must not end what is being measured."""
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if self._broken or reporter is None or self._config.get_verbosity() != 0 or not (keep or reporter.isatty):
            return False
        text = to_terminal_line(text)
        capture: Any = self._config.pluginmanager.get_plugin("capturemanager")
        try:
            with capture.global_and_fixture_disabled() if capture else nullcontext():
                # Past pytest's own methods for new lines: they forget which file was named last and name it each time.
                if reporter.isatty:
                    reporter.rewrite(text[: reporter._tw.fullwidth - 1], erase=True)
                else:
                    reporter.write(("\n" if reporter._tw.width_of_current_line else "") + text, flush=True)
                if keep:
                    reporter._tw.line()
        except Exception:  # closed, gone, or another plug-in's
            self._broken = True
        return not self._broken


def span(seconds: Range) -> str:
    """Seconds for people, as a range where they are not certain."""
    if seconds.high <= _CERTAIN * seconds.expected:
        return f"about {duration(seconds.expected)}"
    return f"{duration(seconds.low)} to {duration(seconds.high)}"


class ProgressText:
    """What is being done, on one line of the terminal that is rewritten and gone at the end; elsewhere nothing."""

    def __enter__(self) -> Callable[[str], None]:
        return self._write if sys.stderr.isatty() else lambda text: None

    def __exit__(self, *unused: object) -> None:
        if sys.stderr.isatty():
            self._write("")

    def _write(self, text: str) -> None:
        # Back to the line's beginning, and what is right of it erased (ECMA-48, EL). A terminal that is gone must not
        # end what is being measured.
        with suppress(OSError, ValueError):
            print(f"\r\x1b[K{to_terminal_line(text)}", end="", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds for people, such as `42 s`, `3 min`, `2 h 1 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
