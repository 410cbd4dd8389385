"""The fork server and its client. Where no phase needs torch, a stand-in for it makes the server start at once."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import worker_phases
from msgspec import structs

import fashiontl
from fashiontl.core.errors import FashiontlError
from fashiontl.runner import client
from fashiontl.runner.client import Outcome, Worker
from fashiontl.runner.messages import IDENTITY, IdentityJob, Phase

TESTS = Path(__file__).parent


def phase_of(name: str, result: Any = dict) -> Phase[dict[str, Any], Any]:
    return Phase(name, dict, result)


FACTS, HANG = phase_of("facts"), phase_of("hang")


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(threads=1, phases="worker_phases", trees=[TESTS]) as worker:
        yield worker


LIGHT_PHASES = """
import os, time, fashiontl
def hang(job: dict, progress) -> dict:
    progress(str(os.getpid()))
    time.sleep(60)
def facts(job: dict, progress) -> dict:
    progress("one")
    return {"job": job, "package": fashiontl.__file__, "parent": os.getppid()}
"""


@pytest.fixture
def light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PYTHONPATH with a stand-in for torch, and with phases that need no more."""
    folder = tmp_path / "light"
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text("def set_num_threads(count): pass")
    (folder / "torch" / "_dynamo.py").touch()
    (folder / "light_phases.py").write_text(LIGHT_PHASES)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def run(worker: Worker, phase: str, **job: object) -> Outcome[dict[str, Any]]:
    return worker.run(phase_of(phase), job, 30)


def gone(pid: int) -> bool:
    for _ in range(1200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_phase_runs_in_a_fresh_process(worker: Worker) -> None:
    lines: list[str] = []
    large = {"text": "x" * 2_000_000}
    first, second = (worker.run(FACTS, job, 30, lines.append).found() for job in (large, {}))
    assert first["pid"] != second["pid"]
    assert first["parent"] == second["parent"] != os.getpid()
    assert first["job"] == large
    assert first["torch_threads"] == 1
    assert first["environment"] == {"MALLOC_TRIM_THRESHOLD_": str(2**34), "PYTHONHASHSEED": "0"}
    assert lines == ["one", "two"] * 2
    assert first["threads_of_parent"] == 1 or sys.platform != "linux", "a process with threads must not be forked"
    # What a first optimiser imports is there before the fork.
    imported = run(worker, "imports_of_training").found()["imported"]
    assert not [name for name in imported if name.startswith(("torch._dynamo", "torch._inductor", "sympy"))]


def test_a_neighbours_leak_is_in_no_peak(worker: Worker) -> None:
    size = 200 * 2**20
    before, leaky, after = (run(worker, "hold", bytes=each).found()["peak"] for each in (1, size, 1))
    assert leaky > before + 0.9 * size
    assert abs(after - before) < 0.1 * size
    # Without a process of its own the next case would be told the leak as its own.
    peaks = [worker_phases.hold({"bytes": each}, lambda text: None)["peak"] for each in (size, 1)]
    assert peaks[1] >= peaks[0]


@pytest.mark.parametrize(
    ("phase", "status", "reason"),
    [
        ("unwell", "crashed", "expected a, got b; do c"),
        ("skipped", "skipped", "expected a stage, got none"),
        ("fail", "crashed", "fail: RuntimeError: CUDA error: an illegal memory access was encountered"),
        ("killed", "crashed", "killed: the process ended with signal SIGKILL (perhaps the system ran out of memory:"),
        ("segfault", "crashed", "segfault: the process ended with signal SIGSEGV: something is rotten"),
        ("out_of_memory", "oom", "out_of_memory: RuntimeError: [enforce fail"),
        ("no_such_phase", "crashed", "no_such_phase: AttributeError"),
    ],
)
def test_what_goes_wrong_becomes_a_status(worker: Worker, phase: str, status: str, reason: str) -> None:
    outcome = run(worker, phase)
    assert (outcome.status, outcome.result) == (status, None)
    assert outcome.reason.startswith(reason)
    with pytest.raises(FashiontlError):
        outcome.found()
    assert run(worker, "facts").status == "ok", "the next phase must not notice"


def test_results_arrive_checked_against_their_types_however_a_phase_ended(worker: Worker) -> None:
    assert run(worker, "diverged") == Outcome("diverged", "epoch 1, step 2", {"losses": [2.5]})
    outcome = worker.run(phase_of("facts", dict[str, int]), {}, 30)
    assert outcome.status == "crashed"
    assert "the phase returned what it should not" in outcome.reason
    outcome = worker.run(Phase("facts", str, dict), "no job", 30)
    assert "facts: ValidationError: Expected `object`, got `str`" in outcome.reason


def test_a_phase_that_takes_too_long_is_killed(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: 1000.0 * len(lines)))
    outcome = worker.run(HANG, {}, 90.5, lines.append)
    assert outcome == Outcome("timeout", "hang took longer than 90.5 s; raise it with --set timeout=SECONDS")
    assert gone(int(lines[0]))


@pytest.mark.usefixtures("light")
def test_a_server_is_started_anew_after_an_interrupt_and_when_it_was_killed() -> None:
    def interrupt(text: str) -> None:
        pids.append(int(text))
        raise KeyboardInterrupt

    pids: list[int] = []
    parents = []
    with Worker(1, "light_phases") as worker:
        parents.append(worker.run(FACTS, {}, 30).found()["parent"])
        with pytest.raises(KeyboardInterrupt):
            worker.run(HANG, {}, 30, interrupt)
        assert gone(pids[0]), "it would slow what is measured next"
        parents.append(worker.run(FACTS, {}, 30).found()["parent"])
        assert worker._server is not None
        worker._server.process.kill()
        worker._server.process.wait()
        parents.append(worker.run(FACTS, {}, 30).found()["parent"])
    assert len(set(parents)) == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("raise RuntimeError('no')", r"RuntimeError: no \(File \".*broken.py\", line 1, in <module>\)"),
        ("def (", r"SyntaxError: invalid syntax \(File \".*broken.py\", line 1\)"),
        ("import os\nos.abort()", "it ended with SIGABRT"),
        ("import os\nos._exit(3)", "it ended with exit code 3"),
    ],
)
def test_a_server_that_dies_at_its_imports_says_where(light: Path, text: str, told: str) -> None:
    (light / "broken.py").write_text(text)
    with (
        Worker(1, "broken") as broken,
        pytest.raises(FashiontlError, match=f"^the worker process cannot start: {told}$"),
    ):
        broken.run(FACTS, {}, 30)


def test_an_interpreter_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with Worker(1) as worker, pytest.raises(FashiontlError, match=r"the worker process cannot start: .*python"):
        worker.run(FACTS, {}, 30)


# Modules of Python's own, of torch's and of ours that a worker imports, optional ones that it would like to, and those
# that an interpreter runs by itself.
HOSTILE = (
    "ctypes", "json", "signal", "importlib", "pathlib", "types", "torch", "numpy", "psutil", "msgspec", "opt_einsum",
    "dill", "fashiontl", "sitecustomize", "usercustomize", "__main__",
)  # fmt: skip
WHO = IdentityJob((), ("fashiontl",), "/nowhere", [], None)
LOUD = """
import os, sys
print("printed", flush=True)
print("printed and still in the buffer")
os.write(1, b"written to the descriptor\\n")
sys.__stdout__.write('{"ready": true}\\n{"exit": 0}\\n')
"""


@pytest.mark.slow
@pytest.mark.parametrize("path", [os.pathsep, "."])
def test_modules_in_the_current_folder_are_not_run_and_extensions_may_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    told = tmp_path / "told"
    for name in HOSTILE:
        # With "." Python itself is told to look there, so what is not its own is the user's choice.
        if path != "." or name in sys.stdlib_module_names:
            (tmp_path / f"{name}.py").write_text(f"open({str(told)!r}, 'a').write({name!r})\nraise SystemExit(3)\n")
    (tmp_path / "loud_module.py").write_text(LOUD)
    (tmp_path / "loud_file.py").write_text(LOUD + "\nassert not sys.stdin.read()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", path)
    with Worker(threads=1) as worker:
        assert worker.run(IDENTITY, WHO, 60).found().modules == {"fashiontl": fashiontl.__file__}
        for names in (("loud_module", "loud_file.py"), (str(tmp_path / "loud_file.py"),)):
            outcome = worker.run(IDENTITY, structs.replace(WHO, extensions=names, modules=("loud_file",)), 60)
            assert outcome.found().modules == {"loud_file": str(tmp_path / "loud_file.py")}
    assert not told.exists()


def test_what_prints_while_the_server_starts_is_in_its_log(light: Path) -> None:
    (light / "sitecustomize.py").write_text(LOUD)
    (light / "loud_phases.py").write_text(LOUD + "\nfrom light_phases import *")
    lines: list[str] = []
    with Worker(1, "loud_phases") as worker:
        outcome = worker.run(FACTS, {"number": 1}, 30, lines.append)
        log = worker._error_log().read_text()
    assert outcome.found()["job"] == {"number": 1}
    assert lines == ["one"]
    for said in ("printed\n", "printed and still in the buffer\n", "written to the descriptor\n"):
        assert log.count(said) == 2


START = """
import json, os, sys
path, phases, *closed = sys.argv[1:]
for stream in closed:
    os.close(int(stream))
import fashiontl
from fashiontl.runner.client import Worker
from fashiontl.runner.messages import Phase
with Worker(1, "light_phases", environment={"PYTHONPATH": phases}) as worker:
    outcome = worker.run(Phase("facts", dict, dict), {}, 60)
open(path, "w").write(json.dumps([fashiontl.__file__, outcome.found()["package"]]))
"""


@pytest.mark.parametrize("found", ["folder", "PYTHONPATH", "isolated"])
def test_a_worker_imports_the_fashiontl_that_its_parent_did(light: Path, tmp_path: Path, found: str) -> None:
    """Of a clone that is not installed, though another is; and the installed one, though PYTHONPATH names a clone."""
    clone = tmp_path / "clone"
    shutil.copytree(Path(fashiontl.__file__).parent, clone / "fashiontl", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    if found != "folder":
        environment["PYTHONPATH"] = str(clone)
    options = ["-I"] if found == "isolated" else []
    told = tmp_path / "told"
    # With closed standard streams, whose places the pipes must not take.
    command = [sys.executable, *options, "-c", START, str(told), str(light), "0", "1", "2"]
    subprocess.run(command, cwd=clone if found == "folder" else tmp_path, env=environment, check=True)
    own, workers = json.loads(told.read_text())
    assert Path(own).is_relative_to(clone) == (found != "isolated")
    assert workers == own
