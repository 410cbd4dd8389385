"""One fresh process per case and phase: the caller's side. No torch here; `fashiontl.forkserver` is the other side.

A neighbour's allocator, caches or crash must never touch another cell, and a new interpreter that imports torch
costs seconds. So a fork server imports torch once, before it has any thread or CUDA context, and every phase is a
fork of it. The two talk in JSON lines: jobs to the server's standard input, progress and ends from its output.
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from fashiontl.environment import choose_threads
from fashiontl.errors import FashiontlError

Status = Literal["ok", "skipped", "oom", "timeout", "crashed", "invalid"]
Progress = Callable[[str], None]

# Set before the interpreter starts, because each is read only once, by a library as it loads.
_ENVIRONMENT = {
    # glibc moves its own thresholds as a program runs, which made identical code alternate between two speeds.
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    # torch.use_deterministic_algorithms needs it for cuBLAS (cuBLAS documentation, "Results reproducibility").
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "PYTHONHASHSEED": "0",
    # numpy's own BLAS would start threads at import, and a process with threads must not be forked.
    "OPENBLAS_NUM_THREADS": "1",
}

# However slowly a system gives the memory of a killed process back.
_KILLED_WITHIN = 30.0


@dataclass(frozen=True)
class Outcome:
    """How a phase ended.

    Attributes:
        status: `ok`, or what went wrong.
        reason: empty when ok.
        value: what the phase returned.
    """

    status: Status
    reason: str
    value: dict[str, Any]


class Worker:
    """A fork server, started at the first job; use it as a context manager.

    Args:
        threads: CPU threads of each phase; 0 takes as many as `fashiontl.environment.choose_threads` does.
        phases: module whose public functions are the phases; each takes a job and a progress callback and returns
            a dictionary that JSON can hold.
        environment: variables set besides the pinned ones.
        folder: where the interpreter starts, and where it looks for modules first; None is here.
    """

    def __init__(
        self,
        threads: int = 0,
        phases: str = "fashiontl.phases",
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.threads = choose_threads(threads).count
        self._phases = phases
        self._environment = dict(environment or {})
        self._start_folder = folder
        self._server: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="fashiontl-")
        self._jobs = 0
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(
        self, phase: str, job: Mapping[str, Any], timeout: float, progress: Progress = lambda text: None
    ) -> Outcome:
        """Run one phase in a fresh process and wait for it.

        Args:
            phase: name of a function in the phases' module.
            job: its argument; must be JSON.
            timeout: seconds after which the process is killed.
            progress: called with each line that the phase reports.

        Raises:
            FashiontlError: the server itself cannot start.
        """
        running = self.begin(phase, job)
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
        return Outcome("timeout", f"{phase} took longer than {timeout:g} s; raise it with --set timeout=SECONDS", {})

    def begin(self, phase: str, job: Mapping[str, Any]) -> "Running":
        """Begin one phase in a fresh process; the next may begin when it has ended.

        Args:
            phase: name of a function in the phases' module.
            job: its argument; must be JSON.

        Raises:
            FashiontlError: the server itself cannot start.
        """
        server = self._start()
        self._jobs += 1
        result = Path(self._folder.name) / f"{self._jobs}.json"
        log = result.with_suffix(".log")
        request = {
            "phase": phase,
            "job": dict(job),
            "result": str(result),
            "log": str(log),
            "threads": self.threads,
        }
        assert server.stdin is not None
        server.stdin.write(json.dumps(request).encode() + b"\n")
        server.stdin.flush()
        return Running(partial(self._read, server), phase, result, log)

    def close(self) -> None:
        """End the server and forget its files."""
        if self._server is not None:
            assert self._server.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._server.stdin.close()
            self._server.kill()
            self._server.wait()
            assert self._server.stdout is not None
            self._server.stdout.close()
            self._server = None
        self._folder.cleanup()

    def _start(self) -> "subprocess.Popen[bytes]":
        if self._server is not None and self._server.poll() is None:
            return self._server
        if not hasattr(os, "fork"):
            raise FashiontlError("fashiontl needs a system with fork (Linux, macOS); on Windows run it in WSL")
        self._buffer = b""
        Path(self._folder.name).mkdir(exist_ok=True)
        threads = str(self.threads)
        environment = {**os.environ, **_ENVIRONMENT, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "fashiontl.forkserver", self._phases],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._error_log().open("wb"),
            env={**environment, **self._environment},
            cwd=self._start_folder,
        )
        if (self._read(self._server, time.monotonic() + 120) or {}).get("ready") is not True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(1)
            code = self._server.poll()
            self._server.kill()
            log = self._error_log().read_text(errors="replace")
            raise FashiontlError(f"the worker process cannot start: {_last_words(log, code)}")
        return self._server

    def _error_log(self) -> Path:
        return Path(self._folder.name) / "server.log"

    def _read(self, server: "subprocess.Popen[bytes]", deadline: float) -> dict[str, Any] | None:
        """The server's next message, None at the deadline; blocks in select, so that waiting costs no CPU time."""
        stream: IO[bytes] | None = server.stdout
        assert stream is not None
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


def _last_words(log: str, code: int | None) -> str:
    """The error of a process with the last line of a file that it names; of one without words, how it ended.

    Args:
        log: what it wrote.
        code: its exit code, the negative of a signal's number; None where it did not end.
    """
    lines = [line.strip() for line in log.strip().splitlines()]
    if not lines:
        if code is None:
            return "it said nothing"
        return f"it ended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
    place = next((line for line in reversed(lines) if line.startswith('File "')), "")
    return f"{lines[-1]} ({place})" if place else lines[-1]


class Running:
    """A phase that has begun; `Worker.begin` makes it.

    Args:
        read: the server's next message, None at a deadline.
        phase: its name.
        result: file that the phase leaves.
        log: file of what it prints.
    """

    def __init__(self, read: Callable[[float], dict[str, Any] | None], phase: str, result: Path, log: Path) -> None:
        self._read = read
        self._phase = phase
        self._files = (result, log)
        self._child = 0
        self._ended: Outcome | None = None

    def next(self, deadline: float) -> str | Outcome | None:
        """The next line that the phase reports, or how it ended; None when there is none of both at a deadline.

        Args:
            deadline: by `time.monotonic`.
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


def _outcome(phase: str, message: Mapping[str, Any], result: Path, log: Path) -> Outcome:
    if result.exists():
        answer = json.loads(result.read_text())
        result.unlink()
        return Outcome(answer["status"], answer["reason"], answer["value"])
    code = message.get("exit")
    if code is None:
        return Outcome("crashed", f"{phase}: the worker's server ended", {})
    ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL:
        ending += " (perhaps the system ran out of memory: see dmesg)"
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return Outcome("crashed", f"{phase}: the process ended with {ending}" + (f": {lines[-1]}" if lines else ""), {})
