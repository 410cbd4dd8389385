"""The fork server: `python -m fashiontl.forkserver PHASES` imports the module PHASES once and forks for each job.

It reads one job a line from standard input and answers in JSON lines on standard output: `{"ready": true}`, then for
each job `{"pid": …}`, any number of `{"progress": …}` from the child, and `{"exit": …}`. The child writes its result
to a file of its own, so that a result of any size arrives whole or not at all.
"""

import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from fashiontl.devices import is_out_of_memory
from fashiontl.errors import FashiontlError


def main() -> None:
    """Serve jobs until standard input ends."""
    phases = importlib.import_module(sys.argv[1])
    # The first optimiser of a process imports it: 1.5 to 3 seconds that came with every phase that trains when they
    # came after the fork, and 10 MB that were taken for a part of its memory.
    importlib.import_module("torch._dynamo")
    # A child collects garbage before each timing loop; what was imported here is none, and going through it takes
    # longer than the rest (the gc module's documentation has programs freeze before they fork).
    gc.collect()
    gc.freeze()
    channel = os.dup(1)
    # Whatever a library prints must not be taken for a message.
    os.dup2(2, 1)
    _die_with_parent()
    _send(channel, {"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(_run(phases, request, channel))
        _send(channel, {"pid": child})
        _, status = os.waitpid(child, 0)
        _send(channel, {"exit": os.waitstatus_to_exitcode(status)})


def _run(phases: ModuleType, request: dict[str, Any], channel: int) -> int:
    _die_with_parent()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(request["threads"])
    status, reason, value = "ok", "", {}
    try:
        value = getattr(phases, request["phase"])(
            request["job"], lambda text: _send(channel, {"progress": text[:1000]})
        )
    except FashiontlError as error:
        status, reason, value = error.status, str(error), error.value
    except Exception as error:  # whatever a case does, it becomes its row
        traceback.print_exc()
        status = "oom" if is_out_of_memory(error) else "crashed"
        reason = f"{request['phase']}: {type(error).__name__}: {error}"
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    result = Path(request["result"])
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps({"status": status, "reason": reason, "value": value}), encoding="ascii")
    partial.replace(result)
    return 0


def _send(channel: int, message: dict[str, Any]) -> None:
    # One write of less than PIPE_BUF is atomic, so the server's and its child's lines cannot mix.
    os.write(channel, json.dumps(message).encode() + b"\n")


def _die_with_parent() -> None:
    """Ask Linux to end this process with its parent, so that a killed run leaves nothing that disturbs the next."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    main()
