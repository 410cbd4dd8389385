"""One fresh process per case and phase: the caller's side. No torch here; `fashiontl.runner.server` is the other side.

A neighbour's allocator, caches or crash must never touch another cell, and a new interpreter that imports torch
costs seconds. So a fork server imports torch once, before it has any thread or CUDA context, and every phase is a
fork of it. The two talk in JSON lines over two pipes: jobs one way, progress and ends the other.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Generic, Literal, Self, TypeVar

import msgspec

import fashiontl
from fashiontl.core.case import PINNED
from fashiontl.core.errors import FashiontlError
from fashiontl.machine.environment import choose_threads
from fashiontl.runner.messages import DeviceFacts, Phase, Progress, VariantSupport
from fashiontl.runner.variables import variables

Status = Literal["ok", "skipped", "diverged", "oom", "timeout", "crashed", "invalid"]
J = TypeVar("J")
R = TypeVar("R")

# What the server's interpreter runs; a text, as a file would be one of either tree that a gate compares. The folder in
# which a command is typed is not searched for modules: one of the name of a module of Python's own would be run in its
# place. Folders of PYTHONPATH come behind Python's own library, and those of a tree after torch has been imported.
# `fashiontl` is the tree's, or that of the process that starts the server, whatever else is installed.
_START = """
import os, sys
own, phases, jobs, answers, *trees = sys.argv[1:]
named = [os.path.abspath(name) for name in os.environ.get("PYTHONPATH", "").split(os.pathsep) if name]
found = [name for name in sys.path if name not in named]
library = os.path.dirname(os.__file__)
behind = 1 + max((place for place, name in enumerate(found) if name in (library, library + "/lib-dynload")), default=-1)
sys.path[:] = found[:behind] + named + found[behind:]
import importlib
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
# Here since the first optimiser of a process imports its second: 1.5 to 3 seconds that came with every phase that
# trains when they came after the fork, and 10 MB that were taken for a part of its memory.
import torch, torch._dynamo
sys.path[behind:behind] = trees
for folder in (*trees, own):
    spec = PathFinder.find_spec("fashiontl", [folder])
    if spec is not None and spec.has_location:
        break
sys.modules["fashiontl"] = module_from_spec(spec)
spec.loader.exec_module(sys.modules["fashiontl"])
server = importlib.import_module("fashiontl.runner.server")
sys.argv[:] = [server.__name__, phases]
server.serve(phases, int(jobs), int(answers))
"""

# However slowly a system gives the memory of a killed process back.
_KILLED_WITHIN = 30.0


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """How a phase ended.

    Attributes:
        status: `ok`, or what went wrong.
        reason: empty when ok.
        result: what the phase returned, or had found out before it ended otherwise; None where that is nothing.
    """

    status: Status
    reason: str = ""
    result: R | None = None

    def found(self) -> R:
        """The result of a phase that ended well.

        Raises:
            FashiontlError: it did not; with the reason.
        """
        if self.result is None:
            raise FashiontlError(self.reason or f"expected a result, got the status {self.status} alone")
        return self.result


def why_unavailable(outcome: "Outcome[DeviceFacts] | Outcome[VariantSupport]") -> str:
    """Why what was asked about cannot be used, be it absent or broken; empty when it can."""
    return outcome.result.unavailable if outcome.result else outcome.reason


class Worker:
    """A fork server, started at the first job; use it as a context manager.

    Args:
        threads: CPU threads of each phase; 0 takes as many as `fashiontl.machine.environment.choose_threads` does.
        phases: module whose public functions are the phases. Each takes a job, of the type that its first parameter
            is annotated with, and a progress callback.
        environment: variables set besides the pinned ones.
        folder: where the interpreter starts; None is here. It is not searched for modules.
        trees: folders that are searched for modules besides, after Python's own library and before all that is
            installed. A `fashiontl` in one of them is taken in place of this process's own.
        allocator: `fashiontl.core.case.Settings.allocator`, or `fashiontl.runner.variables.MEMORY`.

    Attributes:
        variables: the whole environment of each process.
    """

    def __init__(
        self,
        threads: int = 0,
        phases: str = "fashiontl.runner.phases",
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        trees: Sequence[Path] = (),
        allocator: str = PINNED,
    ) -> None:
        self.threads = choose_threads(threads).count
        self._phases = phases
        self.variables = {**variables(allocator, self.threads), **(environment or {})}
        self._start_folder = folder
        self._trees = [str(tree.absolute()) for tree in trees]
        self._server: _Server | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="fashiontl-")
        self._jobs = 0
        self._buffer = b""
        # Messages that have been read, by the number of their job.
        self._messages: dict[int, deque[dict[str, Any]]] = defaultdict(deque)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, phase: Phase[J, R], job: J, timeout: float, progress: Progress = lambda text: None) -> Outcome[R]:
        """Run one phase in a fresh process and wait for it; after `timeout` seconds the process is killed.

        Raises:
            FashiontlError: the server itself cannot start.
        """
        running = self.start(phase, job)
        deadline = time.monotonic() + timeout
        try:
            while isinstance(said := running.next(deadline), str):
                progress(said)
            if said is not None:
                return said
            if not running.kill():
                self.close()
        except BaseException:
            # An interrupt must not leave a process behind that slows what is measured next.
            running.kill()
            self.close()
            raise
        return Outcome("timeout", f"{phase.name} took longer than {timeout:g} s; raise it with --set timeout=SECONDS")

    def start(self, phase: Phase[J, R], job: J) -> "PhaseHandle[R]":
        """Start one phase in a fresh process, beside those that are running.

        Raises:
            FashiontlError: the server itself cannot start.
        """
        server = self._running_server()
        self._jobs += 1
        result = Path(self._folder.name) / f"{self._jobs}.json"
        log = result.with_suffix(".log")
        request = {
            "number": self._jobs,
            "phase": phase.name,
            "function": phase.function or phase.name,
            "job": msgspec.to_builtins(job),
            "result": str(result),
            "log": str(log),
            "threads": self.threads,
        }
        # Of a server that has just ended the next message tells.
        with contextlib.suppress(BrokenPipeError):
            server.jobs.write(json.dumps(request).encode() + b"\n")
            server.jobs.flush()
        return PhaseHandle(partial(self._next, server, self._jobs), phase, result, log)

    def close(self) -> None:
        """End the server and forget its files."""
        self._end()
        self._folder.cleanup()

    def _end(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            with contextlib.suppress(BrokenPipeError):
                server.jobs.close()
            server.process.kill()
            server.process.wait()
            server.answers.close()

    def _running_server(self) -> "_Server":
        if self._server is not None and self._server.process.poll() is None:
            return self._server
        if not hasattr(os, "fork"):
            raise FashiontlError("fashiontl needs a system with fork (Linux, macOS); on Windows run it in WSL")
        self._end()
        self._buffer = b""
        Path(self._folder.name).mkdir(exist_ok=True)
        self._server = self._launch()
        if (self._read(self._server, time.monotonic() + 120) or {}).get("ready") is not True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.process.wait(1)
            code = self._server.process.poll()
            self._end()
            log = self._error_log().read_text(encoding="utf-8", errors="replace")
            raise FashiontlError(f"the worker process cannot start: {_last_words(log, code)}")
        return self._server

    def _launch(self) -> "_Server":
        own = str(Path(fashiontl.__file__).absolute().parent.parent)
        taken, jobs = _pipe()
        answers, given = _pipe()
        try:
            with self._error_log().open("wb") as log:
                process = subprocess.Popen(
                    [
                        *(sys.executable, "-P", *(["-s"] if sys.flags.no_user_site else []), "-c", _START),
                        *(own, self._phases, str(taken), str(given), *self._trees),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(taken, given),
                    env=self.variables,
                    cwd=self._start_folder,
                )
        except OSError as error:
            os.close(jobs)
            os.close(answers)
            raise FashiontlError(f"the worker process cannot start: {error}") from error
        finally:
            os.close(taken)
            os.close(given)
        return _Server(process, os.fdopen(jobs, "wb"), os.fdopen(answers, "rb"))

    def _error_log(self) -> Path:
        return Path(self._folder.name) / "server.log"

    def _next(self, server: "_Server", job: int, deadline: float) -> dict[str, Any] | None:
        """The next message about a job, None at the deadline; those about other jobs are kept for them."""
        waiting = self._messages[job]
        while not waiting:
            message = self._read(server, deadline)
            if message is None or "job" not in message:
                return message
            self._messages[message["job"]].append(message)
        return waiting.popleft()

    def _read(self, server: "_Server", deadline: float) -> dict[str, Any] | None:
        """The server's next message, None at the deadline; blocks in select, so that waiting costs no CPU time."""
        stream = server.answers
        if stream.closed:
            return {"exit": None}
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            chunk = os.read(stream.fileno(), 65536)
            if not chunk:
                return {"exit": None}
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


@dataclass(frozen=True)
class _Server:
    """A process of the server, and this side's ends of its pipes."""

    process: "subprocess.Popen[bytes]"
    jobs: IO[bytes]
    answers: IO[bytes]


def _pipe() -> tuple[int, int]:
    """A pipe to read from and to write to, which takes the place of no standard stream where one of those is closed."""
    # Windows has none, and hears of that when the server starts.
    import fcntl

    ends = os.pipe()
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in ends)
    for end in ends:
        os.close(end)
    return moved[0], moved[1]


def _last_words(log: str, code: int | None) -> str:
    """The last error in a process's log, with the line that it names; without a log, how the process ended."""
    lines = [line.strip() for line in log.strip().splitlines()]
    if not lines:
        if code is None:
            return "it said nothing"
        return f"it ended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
    place = next((line for line in reversed(lines) if line.startswith('File "')), "")
    return f"{lines[-1]} ({place})" if place else lines[-1]


class PhaseHandle(Generic[R]):
    """A phase that has been started; `Worker.start` makes it."""

    def __init__(
        self, read: Callable[[float], dict[str, Any] | None], phase: Phase[Any, R], result: Path, log: Path
    ) -> None:
        self._read = read
        self._phase = phase
        self._files = (result, log)
        self._child = 0
        self._ended: Outcome[R] | None = None

    def next(self, deadline: float) -> str | Outcome[R] | None:
        """The next line that the phase reports, or how it ended; None when there is neither at a deadline.

        The deadline is in seconds of `time.monotonic`.
        """
        while self._ended is None:
            message = self._read(deadline)
            if message is None:
                return None
            if "pid" in message:
                self._child = message["pid"]
            elif "progress" in message:
                return str(message["progress"])
            else:
                self._ended = _outcome(self._phase, message, *self._files)
        return self._ended

    def kill(self) -> bool:
        """End the process, if it has not ended, and wait until it has; False when it does not end."""
        deadline = time.monotonic() + _KILLED_WITHIN
        while self._ended is None and time.monotonic() < deadline:
            _kill(self._child)
            # Its id may be among the messages that have not been read.
            self.next(min(deadline, time.monotonic() + 1))
        return self._ended is not None


def _kill(child: int) -> None:
    if child:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _outcome(phase: Phase[Any, R], message: Mapping[str, Any], result: Path, log: Path) -> Outcome[R]:
    if result.exists():
        answer = json.loads(result.read_bytes())
        result.unlink()
        if "result" not in answer:
            return Outcome("crashed", f"{phase.name}: the tree has another version of fashiontl, with other results")
        try:
            found = None if answer["result"] is None else msgspec.convert(answer["result"], phase.result)
        except msgspec.ValidationError as error:
            return Outcome("crashed", f"{phase.name}: the phase returned what it should not: {error}")
        return Outcome(answer["status"], answer["reason"], found)
    code = message.get("exit")
    if code is None:
        return Outcome("crashed", f"{phase.name}: the worker's server ended")
    ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL:
        ending += " (perhaps the system ran out of memory: see dmesg)"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return Outcome("crashed", f"{phase.name}: the process ended with {ending}" + (f": {lines[-1]}" if lines else ""))
