import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import worker_phases

from fashiontl.errors import FashiontlError
from fashiontl.worker import Outcome, Worker


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(threads=1, phases="worker_phases", environment={"PYTHONPATH": str(Path(__file__).parent)}) as worker:
        yield worker


def run(worker: Worker, phase: str, timeout: float = 30, **job: object) -> Outcome:
    return worker.run(phase, job, timeout)


def gone(pid: int) -> bool:
    for _ in range(100):
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


def test_a_phase_that_takes_too_long_is_killed(worker: Worker) -> None:
    lines: list[str] = []
    outcome = worker.run("hang", {}, 0.5, lines.append)
    assert outcome == Outcome("timeout", "hang took longer than 0.5 s; raise it with --set timeout=SECONDS", {})
    assert gone(int(lines[0]))
    assert run(worker, "facts").status == "ok"


def test_an_interrupt_leaves_no_process() -> None:
    pids: list[int] = []

    def interrupt(text: str) -> None:
        pids.append(int(text))
        raise KeyboardInterrupt

    with (
        Worker(1, "worker_phases", {"PYTHONPATH": str(Path(__file__).parent)}) as worker,
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
        Worker(threads=1, phases="broken", environment={"PYTHONPATH": str(tmp_path)}) as broken,
        pytest.raises(FashiontlError, match=f"^the worker process cannot start: {told}$"),
    ):
        broken.run("facts", {}, 30)


def test_what_a_first_optimizer_imports_is_there_before_the_fork(worker: Worker) -> None:
    imported = run(worker, "imports_of_training").value["imported"]
    assert not [name for name in imported if name.startswith(("torch._dynamo", "torch._inductor", "sympy"))]
