"""The caller's side of a process that times slices, and several jobs of one server."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fashiontl.core.case import PRESETS, Case
from fashiontl.runner import live as live_module
from fashiontl.runner.client import Outcome, Worker
from fashiontl.runner.live import EndedError, LiveProcess
from fashiontl.runner.messages import Phase, SlicesJob

JOB = SlicesJob(Case("tiny", "full"), PRESETS["smoke"])


class FakeRunning:
    """Says prepared things; text is an answer, None a silence until the deadline."""

    def __init__(self, *said: str | Outcome | None) -> None:
        self._said = list(said)
        self.deadlines: list[float] = []
        self.kills = 0
        self.commands = b""

    def start(self, phase: Phase[Any, Any], job: SlicesJob) -> "FakeRunning":
        assert phase.name == "slices"
        self.reader = os.open(job.commands, os.O_RDONLY | os.O_NONBLOCK)
        return self

    def next(self, deadline: float) -> str | Outcome | None:
        self.deadlines.append(deadline)
        return self._said.pop(0)

    def kill(self) -> bool:
        self.commands = os.read(self.reader, 1000)
        os.close(self.reader)
        self.kills += 1
        return True


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LiveProcess]:
    """Makes a process that says prepared things; the clock stands still at 0."""
    monkeypatch.setattr(live_module, "time", SimpleNamespace(monotonic=lambda: 0.0))
    return lambda running, timeout: LiveProcess(running, JOB, tmp_path, timeout)


def test_commands_are_written_and_answers_read(process: Callable[..., LiveProcess]) -> None:
    running = FakeRunning('{"steady": false}', '{"seconds": 0.5}', Outcome("ok"))
    with process(running, 30.0) as live:
        assert live.warm("latency") == {"steady": False}
        assert live.slice("latency") == {"seconds": 0.5}
    live.close()
    assert running.commands == b"warm latency\nslice latency\n"
    assert (running.kills, running.deadlines) == (1, [30, 30, 10])


def test_a_slice_may_take_little_longer_than_the_first(process: Callable[..., LiveProcess]) -> None:
    running = FakeRunning("{}", "{}", None)
    live = process(running, 7200.0)
    live.slice("latency")
    live.slice("latency")
    with pytest.raises(EndedError, match="slice latency took longer than 60 s"), live:
        live.slice("latency")
    assert running.deadlines == [7200, 60, 60]
    assert running.kills == 1, "nobody waits for its end"


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (None, Outcome("timeout", "warm latency took longer than 30 s")),
        (Outcome("oom", "out of memory"), Outcome("oom", "out of memory")),
        (Outcome("ok"), Outcome("crashed", "warm latency: the process ended")),
    ],
)
def test_a_process_that_does_not_answer(process: Callable[..., LiveProcess], said: Any, outcome: Outcome[Any]) -> None:
    running = FakeRunning(said)
    with pytest.raises(EndedError) as caught, process(running, 30.0) as live:
        live.warm("latency")
    assert caught.value.outcome == outcome
    assert running.kills == 1


PHASES = """
import json, os
def slices(job: dict, progress) -> dict:
    with open(job["commands"]) as commands:
        for number, line in enumerate(commands):
            if line.split()[1] == "fatal":
                os._exit(3)
            progress(json.dumps({"said": line.strip(), "number": number, "pid": os.getpid()}))
    return {}
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """A real server, with a stand-in for torch."""
    folder = tmp_path / "light"
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text("def set_num_threads(count): pass")
    (folder / "torch" / "_dynamo.py").touch()
    (folder / "light_slices.py").write_text(PHASES)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return Worker(1, "light_slices")


def test_processes_of_one_server_answer_in_turns_and_one_that_ends_disturbs_no_other(
    tmp_path: Path, server: Worker
) -> None:
    with server, LiveProcess(server, JOB, tmp_path, 30) as one, LiveProcess(server, JOB, tmp_path, 30) as other:
        pids = set()
        for number in range(3):
            for live, name in ((other, "other"), (one, "one")):
                answer = live.warm(name)
                assert (answer["said"], answer["number"]) == (f"warm {name}", number)
                pids.add(answer["pid"])
        assert len(pids) == 2
        with pytest.raises(EndedError, match="the process ended with exit code 3"):
            one.slice("fatal")
        assert other.warm("other")["number"] == 3
        third = LiveProcess(server, JOB, tmp_path, 30)
        assert third.warm("third")["number"] == 0
        third.close(wait=False)
        assert other.slice("other")["number"] == 4


def test_a_server_that_dies_ends_all_its_processes(tmp_path: Path, server: Worker) -> None:
    with server, LiveProcess(server, JOB, tmp_path, 30) as one, LiveProcess(server, JOB, tmp_path, 30) as other:
        one.warm("one")
        other.warm("other")
        assert server._server is not None
        server._server.process.kill()
        server._server.process.wait()
        for live in (one, other):
            with pytest.raises(EndedError, match="server ended") as caught:
                live.warm("late")
            assert caught.value.outcome.status == "crashed"
