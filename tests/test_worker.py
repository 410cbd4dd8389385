import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import worker_phases

import fashiontl
from fashiontl.core.errors import FashiontlError
from fashiontl.runner import client as module
from fashiontl.runner.client import Outcome, Worker

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(threads=1, phases="worker_phases", trees=[TESTS]) as worker:
        yield worker


def run(worker: Worker, phase: str, timeout: float = 30, **job: object) -> Outcome:
    return worker.run(phase, job, timeout)


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
    first = worker.run("facts", {"number": 1}, 30, lines.append)
    second = run(worker, "facts", number=2)
    assert first.status == second.status == "ok"
    assert first.value["pid"] != second.value["pid"]
    assert first.value["parent"] == second.value["parent"] != os.getpid()
    assert first.value["job"] == {"number": 1}
    assert first.value["torch_threads"] == 1
    assert first.value["environment"] == {"MALLOC_TRIM_THRESHOLD_": str(2**34), "PYTHONHASHSEED": "0"}
    assert lines == ["one", "two"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_server_has_no_threads_when_it_forks(worker: Worker) -> None:
    assert run(worker, "facts").value["threads_of_parent"] == 1


def test_a_neighbours_leak_is_in_no_peak(worker: Worker) -> None:
    size = 200 * 2**20
    before = run(worker, "hold", bytes=1).value["peak"]
    leaky = run(worker, "hold", bytes=size).value["peak"]
    after = run(worker, "hold", bytes=1).value["peak"]
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
        ("diverged", "diverged", "epoch 1, step 2"),
        ("fail", "crashed", "fail: RuntimeError: CUDA error: an illegal memory access was encountered"),
        ("killed", "crashed", "killed: the process ended with signal SIGKILL (perhaps the system ran out of memory:"),
        ("segfault", "crashed", "segfault: the process ended with signal SIGSEGV: something is rotten"),
        ("out_of_memory", "oom", "out_of_memory: RuntimeError: [enforce fail"),
        ("no_such_phase", "crashed", "no_such_phase: AttributeError"),
    ],
)
def test_what_goes_wrong_becomes_a_status(worker: Worker, phase: str, status: str, reason: str) -> None:
    outcome = run(worker, phase)
    assert outcome.status == status
    assert outcome.reason.startswith(reason)
    assert run(worker, "facts").status == "ok", "the next phase must not notice"


def test_what_a_phase_knew_when_it_ended_otherwise_arrives(worker: Worker) -> None:
    assert run(worker, "diverged").value == {"losses": [2.5]}


def test_a_result_of_any_size_arrives(worker: Worker) -> None:
    text = "x" * 2_000_000
    assert run(worker, "facts", text=text).value["job"] == {"text": text}


def test_a_phase_that_takes_too_long_is_killed(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 1000.0 * len(lines)))
    outcome = worker.run("hang", {}, 90.5, lines.append)
    assert outcome == Outcome("timeout", "hang took longer than 90.5 s; raise it with --set timeout=SECONDS", {})
    assert gone(int(lines[0]))
    assert run(worker, "facts").status == "ok"


def test_an_interrupt_leaves_no_process() -> None:
    pids: list[int] = []

    def interrupt(text: str) -> None:
        pids.append(int(text))
        raise KeyboardInterrupt

    with (
        Worker(1, "worker_phases", trees=[TESTS]) as worker,
        pytest.raises(KeyboardInterrupt),
    ):
        worker.run("hang", {}, 30, interrupt)
    assert gone(pids[0])


def test_a_server_that_cannot_start_says_why() -> None:
    with Worker(1, "no_such_module") as worker, pytest.raises(FashiontlError, match="No module named 'no_such_module'"):
        worker.run("facts", {}, 30)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("raise RuntimeError('no')", r"RuntimeError: no \(File \".*broken.py\", line 1, in <module>\)"),
        ("def (", r"SyntaxError: invalid syntax \(File \".*broken.py\", line 1\)"),
        ("import os\nos.abort()", "it ended with SIGABRT"),
        ("import os\nos._exit(3)", "it ended with exit code 3"),
    ],
)
def test_a_server_that_dies_at_its_imports_says_where(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "broken.py").write_text(text)
    with (
        Worker(threads=1, phases="broken", trees=[tmp_path]) as broken,
        pytest.raises(FashiontlError, match=f"^the worker process cannot start: {told}$"),
    ):
        broken.run("facts", {}, 30)


def test_what_a_first_optimizer_imports_is_there_before_the_fork(worker: Worker) -> None:
    imported = run(worker, "imports_of_training").value["imported"]
    assert not [name for name in imported if name.startswith(("torch._dynamo", "torch._inductor", "sympy"))]


# Modules of Python's own, of torch's and of ours that a worker imports, optional ones that it would like to, and those
# that an interpreter runs by itself.
HOSTILE = (
    "ctypes", "random", "json", "gc", "signal", "traceback", "importlib", "pathlib", "types", "subprocess", "sysconfig",
    "torch", "numpy", "sympy", "networkx", "psutil", "msgspec", "filelock", "triton", "opt_einsum", "dill", "cupy",
    "fashiontl", "sitecustomize", "usercustomize", "__main__",
)  # fmt: skip
IDENTITY = {"extensions": [], "modules": ["fashiontl"], "other": "/nowhere", "cases": [], "matrix": None}
LOUD = """
import os, sys
print("printed", flush=True)
print("printed and still in the buffer")
os.write(1, b"written to the descriptor\\n")
sys.__stdout__.write('{"ready": true}\\n{"exit": 0}\\n')
"""


def hostile(folder: Path) -> Path:
    """Fill a folder with modules that must not be run, and tell the file that says which were."""
    told = folder / "told"
    folder.mkdir(exist_ok=True)
    for name in HOSTILE:
        (folder / f"{name}.py").write_text(f"open({str(told)!r}, 'a').write({name!r} + ' ')\nraise SystemExit(3)\n")
    return told


@pytest.mark.parametrize("path", [None, os.pathsep, "."])
def test_modules_in_the_current_folder_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | None
) -> None:
    told = hostile(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in HOSTILE if path == "." else ():
        # Here Python itself is told to look there, so what is not its own is the user's choice.
        if name not in sys.stdlib_module_names:
            (tmp_path / f"{name}.py").unlink()
    if path is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONPATH", path)
    with Worker(threads=1) as worker:
        outcome = run(worker, "identity", **IDENTITY)
    assert outcome.reason == ""
    assert outcome.value["modules"] == {"fashiontl": fashiontl.__file__}
    assert not told.exists()


def test_extensions_named_from_the_current_folder_load_and_may_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = hostile(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loud_module.py").write_text(LOUD)
    (tmp_path / "loud_file.py").write_text(LOUD + "\nassert not sys.stdin.read()")
    with Worker(threads=1) as worker:
        for names in (["loud_module", "loud_file.py"], [str(tmp_path / "loud_file.py")]):
            outcome = run(worker, "identity", **{**IDENTITY, "extensions": names, "modules": ["loud_file"]})
            assert outcome == Outcome("ok", "", outcome.value)
            assert outcome.value["modules"] == {"loud_file": str(tmp_path / "loud_file.py")}
    assert not told.exists()


def test_what_prints_while_the_server_starts_is_in_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(LOUD)
    (tmp_path / "loud_phases.py").write_text(LOUD + "\nfrom worker_phases import *")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(TESTS)]))
    lines: list[str] = []
    with Worker(1, "loud_phases") as worker:
        outcome = worker.run("facts", {"number": 1}, 30, lines.append)
        log = worker._error_log().read_text()
    assert outcome.status == "ok"
    assert outcome.value["job"] == {"number": 1}
    assert lines == ["one", "two"]
    for said in ("printed\n", "printed and still in the buffer\n", "written to the descriptor\n"):
        assert log.count(said) == 2


FROM_A_COPY = """
import json, sys
import fashiontl
from fashiontl.runner.client import Worker
with Worker(threads=1) as worker:
    outcome = worker.run("identity", json.loads(sys.argv[1]), 60)
print(json.dumps([fashiontl.__file__, outcome.reason, outcome.value.get("modules")]))
"""


@pytest.mark.parametrize("found", ["folder", "PYTHONPATH", "isolated"])
def test_a_worker_imports_the_fashiontl_that_its_parent_did(tmp_path: Path, found: str) -> None:
    """Of a clone that is not installed, though another is; and the installed one, though PYTHONPATH names a clone."""
    clone = tmp_path / "clone"
    shutil.copytree(Path(fashiontl.__file__).parent, clone / "fashiontl", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    if found != "folder":
        environment["PYTHONPATH"] = str(clone)
    done = subprocess.run(
        [sys.executable, *(["-I"] if found == "isolated" else []), "-c", FROM_A_COPY, json.dumps(IDENTITY)],
        cwd=clone if found == "folder" else tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    parents, reason, modules = json.loads(done.stdout)
    assert reason == ""
    assert Path(parents).is_relative_to(clone) == (found != "isolated")
    assert modules == {"fashiontl": parents}


def test_a_server_of_a_tree_from_before_the_pipes(tmp_path: Path) -> None:
    """A gate's base may be a commit whose server talks over standard input and output."""
    package = tmp_path / "fashiontl"
    package.mkdir()
    (package / "__init__.py").write_text("print('a module prints')")
    (tmp_path / "old_phases.py").write_text("print('so does this')")
    (package / "forkserver.py").write_text(
        """
import importlib, json, os, pathlib, sys
def main():
    importlib.import_module(sys.argv[1])
    channel = os.dup(1)
    os.dup2(2, 1)
    os.write(channel, b'{"ready": true}\\n')
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"status": "ok", "reason": "", "value": {"job": request["job"], "package": __file__}}
        pathlib.Path(request["result"]).write_text(json.dumps(answer))
        os.write(channel, b'{"pid": 0}\\n{"progress": "now"}\\n{"exit": 0}\\n')
"""
    )
    lines: list[str] = []
    with Worker(1, "old_phases", trees=[tmp_path]) as worker:
        outcome = worker.run("any", {"number": 1}, 30, lines.append)
    assert outcome.value == {"job": {"number": 1}, "package": str(package / "forkserver.py")}
    assert lines == ["now"]


def test_standard_streams_that_are_closed(tmp_path: Path) -> None:
    code = """
import os, sys
for stream in (0, 1, 2):
    os.close(stream)
from fashiontl.runner.client import Worker
with Worker(threads=1) as worker:
    outcome = worker.run("device", {"device": "cpu"}, 60)
open(sys.argv[1], "w").write(outcome.status + outcome.reason)
"""
    told = tmp_path / "told"
    subprocess.run([sys.executable, "-c", code, str(told)], check=True)
    assert told.read_text() == "ok"


def test_a_server_that_ends_between_two_phases_is_started_anew(worker: Worker) -> None:
    first = run(worker, "facts").value["parent"]
    assert worker._server is not None
    worker._server.process.kill()
    worker._server.process.wait()
    assert run(worker, "facts").value["parent"] != first


def test_an_interpreter_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with Worker(1) as worker, pytest.raises(FashiontlError, match=r"the worker process cannot start: .*python"):
        worker.run("facts", {}, 30)
