import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from gate_repository import CASE, PROJECT, nets, repository

from fashiontl.core.case import PRESETS, Case, Settings
from fashiontl.core.errors import FashiontlError
from fashiontl.gate import arm as room
from fashiontl.gate.arm import Arm, IncomparableError, StoppedError, Turns, search_path
from fashiontl.gate.trees import Checkout
from fashiontl.runner.client import Outcome
from fashiontl.runner.messages import TRAIN, Identity, Phase

SETTINGS = replace(PRESETS["smoke"], threads=1, seconds=0.02, timeout=60.0)


def checkout(folder: Path, ref: str = "working tree") -> Checkout:
    return Checkout(ref, "c" * 40, dirty=False, root=folder.resolve(), folder=folder.resolve())


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Checkout, Checkout]:
    """Two folders of a project each, without git."""
    for name in ("base", "head"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pyproject.toml").write_text(PROJECT)
        (tmp_path / name / "nets.py").write_text(nets())
    return checkout(tmp_path / "base", "main"), checkout(tmp_path / "head")


def arm(base: Checkout, head: Checkout, name: Any = "base", extensions: Sequence[str] = ()) -> Arm:
    mine, other = (base, head) if name == "base" else (head, base)
    return Arm(name, mine, other, SETTINGS, mine.folder / "cache", extensions)


def answering(monkeypatch: pytest.MonkeyPatch, outcome: Outcome[Any] | Callable[[Any], Outcome[Any]]) -> list[Any]:
    """Let workers answer at once, and note their jobs."""
    jobs: list[Any] = []

    def run(worker: Any, phase: Phase[Any, Any], job: Any, *more: Any) -> Outcome[Any]:
        assert isinstance(worker, room.Worker)
        assert more[0] > 0, "no phase runs for ever"
        jobs.append((phase.name, json.loads(msgspec.json.encode(job))))
        return outcome if isinstance(outcome, Outcome) else outcome(job)

    monkeypatch.setattr(room.Worker, "run", run)
    return jobs


def identity(folder: Path, **more: Any) -> Outcome[Identity]:
    value = {
        "version": "1",
        "protocol": room.PROTOCOL,
        "torch": "2",
        "modules": {"nets": str(folder / "nets.py")},
        "lacks": [],
        "matrix": [],
        "strangers": [],
        "fields": {"case": list(vars(CASE)), "settings": list(vars(SETTINGS))},
    }
    return Outcome("ok", "", Identity(**{**value, **more}))


def test_the_path_is_the_tree_first_and_nothing_of_the_heads(tmp_path: Path) -> None:
    head, base = checkout(tmp_path / "head"), checkout(tmp_path / "base")
    for folder in (head.folder / "src", base.folder):
        folder.mkdir(parents=True)
    inherited = os.pathsep.join([str(head.folder / "tools"), "", "relative", "/elsewhere", str(head.folder)])
    assert search_path(base, head, inherited) == (
        [base.folder, base.folder / "tools", base.folder / "relative"], "/elsewhere",
    )  # fmt: skip
    assert search_path(head, head, inherited) == (
        [head.folder, head.folder / "src", head.folder / "tools", head.folder / "relative"], "/elsewhere",
    )  # fmt: skip


def test_an_arm_proves_what_it_imports(trees: tuple[Checkout, Checkout], monkeypatch: pytest.MonkeyPatch) -> None:
    base, head = trees
    jobs = answering(monkeypatch, identity(base.folder))
    with arm(base, head) as one:
        tree = one.identify()
    assert (tree.ref, tree.commit, tree.dirty, tree.module) == ("main", "c" * 40, False, "nets.py")
    assert tree.protocol == room.PROTOCOL
    ((phase, job),) = jobs
    assert phase == "identity"
    assert job["extensions"] == [str(base.folder / "nets.py")]
    assert (job["modules"], job["other"]) == (["nets"], str(head.root))


@pytest.mark.parametrize(
    ("outcome", "verdict", "message"),
    [
        (
            {"modules": {"nets": "/elsewhere/nets.py"}},
            "CRASHED",
            r"base \(main\): expected nets from .*base, got /elsewhere/nets.py; take the other copy out of PYTHONPATH",
        ),
        ({"strangers": ["/head/x.py"]}, "CRASHED", r"base \(main\) imports files of the other tree: /head/x.py"),
        (
            {"protocol": 1},
            "NO_BASELINE",
            rf"base \(main\) has protocol 1, this fashiontl {room.PROTOCOL}: .*measure from the next commit on",
        ),
        (
            "identity: AttributeError: module 'fashiontl.runner.phases' has no attribute 'identity'",
            "NO_BASELINE",
            "from before the gate",
        ),
        ("the worker process cannot start: No module named fashiontl.runner.server", "NO_BASELINE", "before the gate"),
        (
            "extension nets.py: SyntaxError: invalid syntax",
            "CRASHED",
            r"base \(main\) cannot be imported: extension nets.py: SyntaxError",
        ),
    ],
)
def test_what_cannot_be_compared(
    trees: tuple[Checkout, Checkout], monkeypatch: pytest.MonkeyPatch, outcome: Any, verdict: str, message: str
) -> None:
    base, head = trees
    told = Outcome("crashed", outcome) if isinstance(outcome, str) else identity(base.folder, **outcome)
    answering(monkeypatch, told)
    with arm(base, head) as one, pytest.raises(IncomparableError, match=message) as caught:
        one.identify()
    assert caught.value.verdict == verdict


def test_a_project_file_that_cannot_be_read_is_bad_input_in_the_head_alone(trees: tuple[Checkout, Checkout]) -> None:
    base, head = trees
    for tree in trees:
        (tree.folder / "pyproject.toml").write_text("[tool.fashiontl")
    with pytest.raises(IncomparableError, match=r"^base \(main\): .*pyproject.toml: expected TOML, got: .*") as caught:
        arm(base, head)
    assert caught.value.verdict == "CRASHED"
    with pytest.raises(FashiontlError, match="expected TOML") as caught_in_head:
        arm(base, head, "head")
    assert not isinstance(caught_in_head.value, IncomparableError)


def test_a_head_with_nothing_to_compare(trees: tuple[Checkout, Checkout], monkeypatch: pytest.MonkeyPatch) -> None:
    base, head = trees
    (head.folder / "pyproject.toml").unlink()
    answering(monkeypatch, identity(head.folder, modules={}))
    with arm(base, head, "head") as one, pytest.raises(FashiontlError, match="expected something to compare in"):
        one.identify()
    (base.folder / "pyproject.toml").unlink()
    with arm(base, head) as one:
        assert one.identify().module == "", "a base may lack all that the head adds"


def test_extensions_of_each_tree(trees: tuple[Checkout, Checkout], monkeypatch: pytest.MonkeyPatch) -> None:
    base, head = trees
    for folder in (base.folder, head.folder):
        (folder / "more.py").write_text("")
        (folder / "pack").mkdir()
        (folder / "pack" / "deep.py").write_text("")
    (head.folder / "fresh.py").write_text("")
    jobs = answering(monkeypatch, lambda job: identity(base.folder))
    named = [str(head.folder / "more.py"), "pack.deep", "fresh.py", "installed.elsewhere"]
    for name in ("base", "head"):
        with arm(base, head, name, named) as one:
            one._identity([], None)
    (_, of_base), (_, of_head) = jobs
    assert of_base["extensions"] == [
        str(base.folder / "nets.py"), str(base.folder / "more.py"), "pack.deep", "installed.elsewhere",
    ]  # fmt: skip
    assert of_base["modules"] == ["nets", "more", "pack.deep"]
    assert of_head["extensions"][3] == str(head.folder / "fresh.py")
    assert of_head["modules"] == ["nets", "more", "pack.deep", "fresh"]


def test_a_field_that_a_tree_does_not_know(trees: tuple[Checkout, Checkout], monkeypatch: pytest.MonkeyPatch) -> None:
    base, head = trees
    fields = {"case": ["architecture", "policy", "device", "task", "weights"], "settings": ["preset", "timeout"]}
    answering(monkeypatch, lambda job: identity(base.folder, fields=fields, lacks=[None] * len(job.cases)))
    settings = Settings(sweep=8)
    with Arm("base", base, head, settings, base.folder, ()) as one:
        one.identify()
        lacks = one.lacks([CASE, replace(CASE, batch=3)])
    assert lacks[CASE.id] == "base does not know sweep=8"
    assert lacks[replace(CASE, batch=3).id] == "base does not know batch=3 and sweep=8"


def test_data_and_weights_are_the_callers_in_either_tree(
    trees: tuple[Checkout, Checkout], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base, head = trees
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASHIONTL_DATA", "images")
    monkeypatch.setenv("TORCH_HOME", "")
    for name in ("own.pt", "more.pt"):
        (tmp_path / name).write_bytes(b"")
    jobs = answering(monkeypatch, identity(base.folder))
    asked = {
        "axes": {"arch": ["tiny"], "weights": ["own.pt, imagenet", "more.pt"], "of_a_later_version": []},
        "preset": "quick",
        "assignments": ["seeds=2"],
        "data_root": "images",
    }
    settings = replace(SETTINGS, data="original", data_root="images")
    with Arm("base", base, head, settings, Path("cache"), ()) as one:
        one.identify()
        one.expand(asked)
        for weights in ("own.pt", "none", "imagenet", "nowhere.pt"):
            one.run(TRAIN, replace(CASE, weights=weights), settings, lambda text: None)
        environment = one.variables
    (_, _), (_, expanded), *trained = jobs
    assert expanded["matrix"] == {
        "axes": {"arch": ["tiny"], "weights": [str(tmp_path / "own.pt"), "imagenet", str(tmp_path / "more.pt")]},
        "preset": "quick",
        "assignments": ["seeds=2"],
        "data_root": str(tmp_path / "images"),
    }
    assert [job["case"]["weights"] for _, job in trained] == [
        str(tmp_path / "own.pt"), "none", "imagenet", "nowhere.pt",
    ]  # fmt: skip
    for _, job in trained:
        assert (job["settings"]["data_root"], job["cache"]) == (str(tmp_path / "images"), str(tmp_path / "cache"))
    assert environment["FASHIONTL_DATA"] == str(tmp_path / "images")
    assert environment.get("TORCH_HOME") == os.environ.get("TORCH_HOME")


def test_cases_that_a_tree_lacks(trees: tuple[Checkout, Checkout], monkeypatch: pytest.MonkeyPatch) -> None:
    base, head = trees
    lost = Case("lost", "full")
    more = {"lacks": [None, "unknown architecture 'lost'"], "matrix": [vars(CASE), {"axis_of_a_later_version": 1}]}
    answering(monkeypatch, lambda job: identity(base.folder, **more))
    with arm(base, head) as one:
        one.identify()
        assert one.lacks([CASE, lost]) == {lost.id: "unknown architecture 'lost'"}
        assert one.expand({"axes": {}}) == [CASE]


class FakeRunning:
    """Says prepared things; text is an answer, None a silence until the deadline."""

    def __init__(self, *said: str | Outcome | None) -> None:
        self._said = list(said)
        self.deadlines: list[float] = []
        self.kills = 0

    def next(self, deadline: float) -> str | Outcome | None:
        self.deadlines.append(deadline)
        return self._said.pop(0)

    def kill(self) -> bool:
        self.kills += 1
        return True


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of commands; the clock stands still at 0."""
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: 0.0))
    os.mkfifo(tmp_path / "pipe")
    descriptor = os.open(tmp_path / "pipe", os.O_RDWR)
    reader = os.dup(descriptor)
    yield descriptor
    os.close(reader)


def test_turns_write_commands_and_read_answers(pipe: int) -> None:
    running = FakeRunning('{"steady": false}', '{"seconds": 0.5, "throttled": true}', Outcome("ok"))
    reader = os.dup(pipe)
    with Turns("head", running, pipe, 30.0) as turns:  # type: ignore[arg-type]
        assert turns.warm("latency") is False
        assert turns.slice("latency") == (0.5, True)
        assert os.read(reader, 100) == b"warm latency\nslice latency\n"
    os.close(reader)
    assert running.kills == 1
    assert running.deadlines == [30, 30, 10]


def test_a_slice_may_take_little_longer_than_the_first(pipe: int) -> None:
    answer = '{"seconds": 0.5, "throttled": false}'
    running = FakeRunning(answer, answer, None)
    turns = Turns("head", running, pipe, 7200.0)  # type: ignore[arg-type]
    turns.slice("latency")
    turns.slice("latency")
    with pytest.raises(StoppedError, match="slice latency took longer than 60 s"), turns:
        turns.slice("latency")
    assert running.deadlines == [7200, 60, 60]
    assert running.kills == 1, "nobody waits for its end"


@pytest.mark.parametrize(
    ("said", "kind", "reason"),
    [
        (None, "timeout", "warm latency took longer than 30 s"),
        (Outcome("oom", "out of memory"), "oom", "out of memory"),
        (Outcome("crashed", "signal SIGSEGV"), "crashed", "signal SIGSEGV"),
        (Outcome("ok"), "crashed", "warm latency: the process ended"),
    ],
)
def test_a_process_that_does_not_answer(pipe: int, said: Any, kind: str, reason: str) -> None:
    running = FakeRunning(said)
    with pytest.raises(StoppedError) as caught, Turns("base", running, pipe, 30.0) as turns:  # type: ignore[arg-type]
        turns.warm("latency")
    assert (caught.value.arm, caught.value.kind, caught.value.reason) == ("base", kind, reason)
    assert running.kills == 1


@pytest.mark.slow
def test_a_real_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = repository(tmp_path / "head")
    own = repository(tmp_path / "base")
    monkeypatch.setenv("PYTHONPATH", str(other))
    for name in ("ctypes", "json", "random", "numpy", "torch", "sitecustomize"):
        (own / f"{name}.py").write_text("raise SystemExit('a module of the tree in place of the real one')")
    base, head = checkout(own, "main"), checkout(other)
    with arm(base, head) as one:
        assert one.identify().module == "nets.py"
        assert one.lacks([CASE]) == {}
        with one.turns(CASE) as turns:
            assert turns.warm("latency") in {True, False}
            seconds, _ = turns.slice("latency")
            assert seconds > 0
        ended = turns._running.next(0.0)
        assert isinstance(ended, Outcome)
        assert ended.status == "ok"
        assert list(Path(one._pipes.name).iterdir())
    assert not Path(one._pipes.name).exists()
    (own / "nets.py").write_text(nets("raise RuntimeError('no')"))
    with arm(base, head) as one:
        one.identify()
        with pytest.raises(StoppedError, match="RuntimeError: no"), one.turns(CASE) as turns:
            turns.warm("latency")
    (own / "nets.py").write_text("import no_such_module_anywhere\n")
    with arm(base, head) as one, pytest.raises(IncomparableError, match="No module named 'no_such_module_anywhere'"):
        one.identify()
