"""The fork server, which `client` starts: it imports the module of the phases once and forks for each job.

It reads one job a line from a pipe and answers in JSON lines on another: `{"ready": true}`, then for each job, by its
number, `{"pid": …}`, any number of `{"progress": …}` from the child, and `{"exit": …}`. Several jobs may run at once.
The child writes its result to a file of its own, so that a result of any size arrives whole or not at all. Standard
output and error are logs: whatever prints, from the start of the interpreter on, cannot be taken for a message.
"""

import ctypes
import gc
import importlib
import inspect
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import msgspec
import torch

from fashiontl.core.errors import FashiontlError
from fashiontl.machine.devices import Device

# Of a line that a phase reports: in JSON, with all else, still less than PIPE_BUF of Linux.
_LONGEST = 3500


def serve(phases: str, jobs: int, answers: int) -> None:
    """Serve jobs until there are no more.

    Args:
        phases: name of the module whose functions are the phases.
        jobs: descriptor to read them from.
        answers: descriptor to write messages to.
    """
    module = importlib.import_module(phases)
    # A child collects garbage before each timing loop; what was imported here is none, and going through it takes
    # longer than the rest (the gc module's documentation has programs freeze before they fork).
    gc.collect()
    gc.freeze()
    _die_with_parent()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    # A child's end wakes the wait below.
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *unused: None)
    _send(answers, {"ready": True})
    children: dict[int, int] = {}
    unread = b""
    while True:
        ready, _, _ = select.select([jobs, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
        for child, job in list(children.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                del children[child]
                _send(answers, {"job": job, "exit": os.waitstatus_to_exitcode(status)})
        if jobs not in ready:
            continue
        chunk = os.read(jobs, 65536)
        if not chunk:
            return
        *lines, unread = (unread + chunk).split(b"\n")
        for line in lines:
            request = json.loads(line)
            # What is still in the buffer would be in every child's log.
            sys.stdout.flush()
            child = os.fork()
            if child == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for descriptor in (jobs, woken, wake):
                    os.close(descriptor)
                os._exit(_run(module, request, answers))
            children[child] = request["number"]
            _send(answers, {"job": request["number"], "pid": child})


def _run(phases: ModuleType, request: dict[str, Any], channel: int) -> int:
    _die_with_parent()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(request["threads"])
    status, reason = "ok", ""
    result: Any = None

    def say(text: str) -> None:
        _send(channel, {"job": request["number"], "progress": text[:_LONGEST]})

    try:
        phase = getattr(phases, request["function"])
        result = phase(_job(phase, request["job"]), say)
    except FashiontlError as error:
        status, reason, result = error.status, str(error), error.value
    except Exception as error:  # whatever a case does, it becomes its row
        traceback.print_exc()
        status = "oom" if Device.is_out_of_memory(error) else "crashed"
        reason = f"{request['phase']}: {type(error).__name__}: {error}"
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    path = Path(request["result"])
    partial = path.with_suffix(".partial")
    # Not by msgspec, which would write null for a number that is not finite.
    answer = {"status": status, "reason": reason, "result": msgspec.to_builtins(result)}
    partial.write_text(json.dumps(answer), encoding="ascii")
    partial.replace(path)
    return 0


def _job(phase: Callable[..., Any], job: Any) -> Any:
    """A job as the type that the phase's first parameter is annotated with."""
    first = next(iter(inspect.signature(phase).parameters))
    return msgspec.convert(job, get_type_hints(phase)[first])


def _send(channel: int, message: dict[str, Any]) -> None:
    # One write of less than PIPE_BUF is atomic, so the server's and its child's lines cannot mix.
    os.write(channel, json.dumps(message).encode() + b"\n")


def _die_with_parent() -> None:
    """Ask Linux to end this process with its parent, so that a killed run leaves nothing that disturbs the next."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
