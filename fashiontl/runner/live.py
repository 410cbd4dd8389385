"""A process that stays alive and times a slice at each command: the caller's side. No torch.

`fashiontl.runner.phases.slices` is the other side.
"""

import json
import os
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Self

from msgspec.structs import replace

from fashiontl.runner.client import Outcome, PhaseHandle, Worker
from fashiontl.runner.messages import SLICES, SlicesJob

# A slice takes a fraction of a second, or one call; what takes this much longer hangs.
_SLICE_SECONDS, _SLICE_FACTOR = 60.0, 20.0
_END_SECONDS = 10.0
_NUMBERS = count()


class EndedError(Exception):
    """The process ended, or takes longer than it may.

    Attributes:
        outcome: how; never `ok`.
    """

    def __init__(self, outcome: Outcome[Any]) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


class LiveProcess:
    """A process of a case that times a slice on command, and sleeps otherwise; use it as a context manager.

    Args:
        worker: the server of which it is forked.
        job: what it times; where its commands come from is filled in.
        folder: for the pipe of its commands.
        timeout: seconds that building and warming up may take.

    Raises:
        FashiontlError: the server cannot start.
        EndedError: from each method, where the process ended or took too long.
    """

    def __init__(self, worker: Worker, job: SlicesJob, folder: Path, timeout: float) -> None:
        pipe = folder / f"commands-{next(_NUMBERS)}"
        os.mkfifo(pipe)
        # For reading too, so that opening waits for nobody, and writing to a process that has ended is no error.
        self._commands = os.open(pipe, os.O_RDWR)
        self._timeout = timeout
        self._usual: dict[str, float] = {}
        try:
            self._running: PhaseHandle[Any] = worker.start(SLICES, replace(job, commands=str(pipe)))
        except BaseException:
            os.close(self._commands)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.close(wait=kind is None)

    def close(self, *, wait: bool = True) -> None:
        """End the process, unless that was done; without waiting it is killed."""
        if self._commands < 0:
            return
        os.close(self._commands)
        self._commands = -1
        if wait:
            with suppress(EndedError):
                self._wait("ending", _END_SECONDS)
        self._running.kill()

    def warm(self, metric: str) -> dict[str, Any]:
        """Build what a metric times and warm it up: how that went, as the phase says it."""
        return self._ask(f"warm {metric}", self._timeout)

    def slice(self, metric: str) -> dict[str, Any]:
        """Time one slice: what the phase says of it."""
        started = time.monotonic()
        limit = self._timeout
        if metric in self._usual:
            limit = min(limit, _SLICE_SECONDS + _SLICE_FACTOR * self._usual[metric])
        answer = self._ask(f"slice {metric}", limit)
        self._usual.setdefault(metric, time.monotonic() - started)
        return answer

    def _ask(self, command: str, timeout: float) -> dict[str, Any]:
        os.write(self._commands, f"{command}\n".encode())
        answer: dict[str, Any] = json.loads(self._wait(command, timeout))
        return answer

    def _wait(self, what: str, timeout: float) -> str:
        answer: str | Outcome[Any] | None = self._running.next(time.monotonic() + timeout)
        if answer is None:
            raise EndedError(Outcome("timeout", f"{what} took longer than {timeout:g} s"))
        if isinstance(answer, Outcome):
            if answer.status == "ok":
                answer = Outcome("crashed", f"{what}: the process ended")
            raise EndedError(answer)
        return answer
