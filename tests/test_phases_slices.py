import hashlib
import importlib
import itertools
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gate_repository import CASE, nets
from msgspec import structs
from phase_runs import run

import fashiontl
from fashiontl.core.case import PRESETS, Case, Settings
from fashiontl.core.errors import FashiontlError
from fashiontl.machine.environment import PROTOCOL
from fashiontl.runner import phases
from fashiontl.runner.messages import CaseJob, IdentityJob, SlicesJob
from fashiontl.runner.phases.identity import strangers
from fashiontl.runner.workload import Workload
from fashiontl.timing.loops import WarmUp
from fashiontl.timing.slices import Slice, Slicer

SETTINGS = replace(PRESETS["smoke"], seconds=0.01, test_per_class=3)
PROBE = Case("shufflenet_v2_x0_5", "linear_probe", weights="none")


pytestmark = pytest.mark.usefixtures("as_in_a_worker", "own_tables")


def serve(folder: Path, commands: Sequence[str], case: Case = PROBE, settings: Settings = SETTINGS) -> list[Any]:
    """What the phase answers to commands, the next of which is written when the one before is answered."""
    pipe = folder / "commands"
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR)
    left = iter(commands)
    answers: list[Any] = []

    def write() -> None:
        command = next(left, None)
        if command is None:
            os.close(descriptor)
        else:
            os.write(descriptor, f"{command}\n".encode())

    def answer(text: str) -> None:
        answers.append(json.loads(text))
        write()

    write()
    phases.slices(SlicesJob(case, settings, commands=str(pipe), other=str(folder)), answer)
    return answers


def test_each_command_has_one_answer(tmp_path: Path) -> None:
    metrics = ("latency", "inference_throughput", "train_throughput")
    answers = serve(tmp_path, [f"{command} {metric}" for metric in metrics for command in ("warm", "slice", "slice")])
    for warmed, *taken in zip(*[iter(answers)] * 3, strict=True):
        assert set(warmed) == {"calls", "steady", "drift", "noise"}
        assert [set(each) for each in taken] == [{"seconds", "values", "device", "parts", "usage", "throttled"}] * 2
        for each in taken:
            assert 0 < each["seconds"] <= each["usage"]["seconds"]
            assert set(each["usage"]) == {"seconds", "cpu_seconds", "waited_seconds", "switches", "faults"}


def test_what_is_timed_is_what_the_other_phases_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool, bool]] = []
    epochs: list[int] = []
    images, step = Workload.random_images, Workload.step

    def counted(work: Any, count: int) -> torch.Tensor:
        seen.append((count, torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
        return images(work, count)

    def noted(work: Any, initial: Any, epoch: int = 0, count: int = 0) -> Any:
        epochs.append(epoch)
        return step(work, initial, epoch, count)

    monkeypatch.setattr(Workload, "random_images", counted)
    monkeypatch.setattr(Workload, "step", noted)
    serve(tmp_path, ["warm latency", "warm inference_throughput"], settings=replace(SETTINGS, throughput_batch=5))
    assert seen == [(1, True, False), (5, True, False)]
    seen.clear()
    (tmp_path / "train").mkdir()
    case = replace(PROBE, batch=3)
    serve(tmp_path / "train", ["warm train_throughput"], case, replace(SETTINGS, epochs=4))
    assert (3, False, True) in seen
    assert not any(is_inference for _, is_inference, _ in seen)
    assert epochs == [0], "one plan for all epochs"


def test_a_step_of_a_policy_that_changes_is_the_mean_over_its_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slicer, "warm", lambda slicer, seconds: WarmUp(2, True, 0.0, 0.0))
    taken = itertools.cycle([Slice((2.0, 4.0)), Slice((8.0, 16.0), throttled=True)])
    monkeypatch.setattr(Slicer, "take", lambda slicer: next(taken))
    case = replace(PROBE, policy="lp_ft")
    warmed, answer = serve(
        tmp_path, ["warm train_throughput", "slice train_throughput"], case, replace(SETTINGS, epochs=4)
    )
    assert warmed["calls"] == 4
    assert (answer["values"], answer["periods"], answer["throttled"]) == ([5.0, 10.0], [3.0, 12.0], True)


def identity(folder: Path, **more: Any) -> dict[str, Any]:
    job = IdentityJob((), ("fashiontl",), str(folder), [], None)
    return run(phases.identity, structs.replace(job, **more))


def test_identity_tells_what_was_imported(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(nets())
    found = identity(tmp_path / "elsewhere", extensions=(str(tmp_path / "nets.py"),), modules=("fashiontl", "nets"))
    assert found["modules"] == {"fashiontl": fashiontl.__file__, "nets": str(tmp_path / "nets.py")}
    expected = (PROTOCOL, fashiontl.__version__, torch.__version__)
    assert (found["protocol"], found["version"], found["torch"]) == expected
    assert found["strangers"] == []
    assert found["fields"]["case"][:2] == ["architecture", "policy"]
    assert "throughput_batch" in found["fields"]["settings"]


def test_identity_tells_which_cases_are_not_here(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(nets())
    cases = [CASE, Case("unheard_of", "unseen", "abacus", task="unknown"), Case("resnet18", "full")]
    fields = [{**asdict(case), "field_of_a_later_version": 1} for case in cases]
    found = identity(tmp_path, extensions=(str(tmp_path / "nets.py"),), cases=fields)["lacks"]
    assert (found[0], found[2]) == (None, None)
    for name in ("unheard_of", "unseen", "abacus", "unknown"):
        assert f"'{name}'" in found[1]


def test_identity_tells_what_options_mean_here(tmp_path: Path) -> None:
    axes = {"arch": ["vgg11"], "policy": ["full,scratch"], "device": ["cpu"]}
    options = {"axes": axes, "preset": "smoke", "assignments": ["seeds=2"]}
    found = identity(tmp_path, matrix=options)["matrix"]
    assert [Case(**case).id for case in found] == ["vgg11-full-cpu", "vgg11-scratch-cpu"]
    assert identity(tmp_path, matrix={**options, "axes": {"arch": ["unheard_of"]}})["matrix"] == []
    assert identity(tmp_path, matrix={**options, "data_root": str(tmp_path)})["matrix"] == found
    assert identity(tmp_path, matrix={**options, "axes": {**axes, "of_a_later_version": ["x"]}})["matrix"] == []


def test_strangers_are_files_of_the_other_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other, own = tmp_path / "other", tmp_path / "other" / "own"
    for name, folder in (("stranger", other), ("mine", own), ("installed", other / "venv" / "lib")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}_of_the_gate.py").write_text("")
        monkeypatch.syspath_prepend(folder)
        importlib.import_module(f"{name}_of_the_gate")
    monkeypatch.chdir(own)
    monkeypatch.setattr(sys, "base_prefix", str(other / "venv"))
    assert strangers(other) == [str(other / "stranger_of_the_gate.py")]
    assert strangers(tmp_path / "nowhere") == []
    with pytest.raises(FashiontlError, match=r"expected the arm to import its own tree, got .*stranger_of_the_gate"):
        serve(other, ["warm latency"])


def test_training_tells_which_answers_were_right() -> None:
    work = CaseJob(PROBE, replace(SETTINGS, seeds=2))
    value = run(phases.train, work)
    for right, share, answers in zip(value["right"], value["accuracy"], value["answers"], strict=True):
        assert len(right) == value["trials"] == 12
        assert right.count("1") == round(12 * share)
        assert len(answers) == len(hashlib.sha256().hexdigest())
    assert run(phases.train, work)["answers"] == value["answers"]
