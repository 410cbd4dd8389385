"""Phases about the machine and the profile, called as a worker calls them: between two passes through JSON."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from phase_runs import run
from torch import nn

from fashiontl.core.case import PRESETS, Case
from fashiontl.machine.devices import Cpu, Cuda, Device
from fashiontl.models.build import build
from fashiontl.profiling.operators import Profile, from_dict
from fashiontl.runner import phases
from fashiontl.runner.messages import CaseJob, DeviceJob, PeakJob, TimedJob
from fashiontl.runner.phases import machine, profile_step
from fashiontl.runner.workload import Workload
from fashiontl.timing.loops import DeviceTimer, Samples, SamplingBudget, WarmUp

pytestmark = pytest.mark.usefixtures("as_in_a_worker")


def test_the_peak_is_measured_on_the_device_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured_peak(device: Device, precision: str, seconds: float) -> dict[str, float]:
        return {"matmul": seconds} if (device.name, precision) == ("cuda:1", "bf16") else {}

    monkeypatch.setattr(machine, "measured_peak", measured_peak)
    assert run(phases.peak, PeakJob("cuda:1", precision="bf16", seconds=0.5)) == {"matmul": 0.5}


def test_noise_is_timed_in_blocks_until_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[SamplingBudget] = []

    def time_blocks(call: Callable[[], None], timer: DeviceTimer, budget: SamplingBudget) -> Samples:
        assert timer.event is None
        seen.append(budget)
        call()
        return Samples(kept, (), WarmUp(9, True, 0.0, 0.01), "time", 0)

    kept: tuple[float, ...] = (3e-3, 1e-3, 2e-3, 2e-3, 2e-3, 2e-3)
    monkeypatch.setattr(machine, "time_blocks", time_blocks)
    value = run(phases.noise, TimedJob("cpu", seconds=0.4))
    assert value == {"median": 2e-3, "half_width": pytest.approx(0.5), "steady": True}
    assert (seen[0].seconds, seen[0].half_width) == (0.4, 0.0)
    kept = ()
    assert run(phases.noise, TimedJob("cpu", seconds=0.4)) == {"median": None, "half_width": None, "steady": False}


def test_a_variant_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(precision: str) -> dict[str, Any]:
        return run(phases.variant, CaseJob(Case("resnet18", "full", precision=precision), PRESETS["quick"]))

    assert "tf32 needs an NVIDIA GPU" in asked("tf32")["unavailable"]
    monkeypatch.setattr(machine.variants, "warnings_for", lambda case: [f"{case.precision} is emulated"])
    assert asked("bf16") == {"unavailable": "", "warnings": ["bf16 is emulated"]}
    assert asked("tf32")["warnings"] == []


def test_whether_a_device_is_here_and_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cuda, "unavailable_reason", lambda device: f"no card {device.index}")
    assert run(phases.device, DeviceJob("cuda:3")) == {"unavailable": "no card 3", "facts": {}}
    monkeypatch.setattr(Cpu, "facts", lambda device: {"accelerator": "Abacus"})
    assert run(phases.device, DeviceJob("cpu")) == {"unavailable": "", "facts": {"accelerator": "Abacus"}}


def profiled(folder: Path, case: Case, **settings: Any) -> dict[str, Any]:
    chosen = replace(PRESETS["smoke"], **settings)
    value = run(phases.profile, CaseJob(case, chosen, traces=str(folder)))
    found: dict[str, Any] = value["profile"]
    assert value["warnings"] == [f"profile: {warning}" for warning in found["warnings"]]
    return found


def convolutions(profile: Profile) -> set[str]:
    """The modules in which they ran, forward."""
    return {row.module for row in profile.operators if "convolution" in row.name and row.phase == "forward"}


def test_a_profile_knows_the_modules(tmp_path: Path) -> None:
    profile = from_dict(profiled(tmp_path, Case("resnet18", "full", weights="none")))
    # Rows of little time are folded into one, so which of them are shown depends on the machine.
    network = build("resnet18", 4, image_size=32)
    known = {name for name, module in network.stages.named_modules() if isinstance(module, nn.Conv2d)}
    assert convolutions(profile) - {""} <= known
    assert convolutions(profile) & known
    assert {row.phase for row in profile.operators} == {"forward", "backward", "other"}
    assert profile.trace is not None
    assert Path(profile.trace).parent == tmp_path
    assert profile.device_idle is None


@pytest.mark.parametrize("kind", ["mean", "joined"])
def test_a_hybrids_modules_are_told_apart_by_member(kind: str, tmp_path: Path) -> None:
    profile = from_dict(profiled(tmp_path, Case(f"{kind}:resnet9+squeezenet1_1", "full", weights="none")))
    places = {re.match(r"(\w+)\.(stem|stage\d|neck|head)\b", module) for module in convolutions(profile)}
    assert {place and place[1] for place in places} == {"resnet9", "squeezenet1_1"}


def test_compiling_is_not_profiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    order: list[str] = []
    monkeypatch.setattr(Workload, "training_step", lambda self, starts: lambda: order.append("step"))

    def profile_steps(step: Callable[[], None], *_: Any, modules: Any) -> Profile:
        assert "head" in modules
        order.append("profiler")
        step()
        return Profile((), (), None, 1, 1.0, None, None, ("no trace: too large",))

    monkeypatch.setattr(profile_step, "profile_steps", profile_steps)
    for execution in ("eager", "compile"):
        profiled(tmp_path, Case("resnet9", "full", weights="none", execution=execution))
    assert order == ["profiler", "step", "step", "profiler", "step"]


def test_what_a_case_computes_is_counted_without_computing() -> None:
    def count(architecture: str, size: int = 0) -> dict[str, Any]:
        case = Case(architecture, "full", weights="none", image_size=size)
        return run(phases.count, CaseJob(case, PRESETS["quick"]))

    found = count("resnet18")
    assert found["flops"] == 74027008
    assert sum(found["parameters"].values()) == 11178564
    assert list(found["parameters"]) == ["stem", "stage1", "stage2", "stage3", "stage4", "neck", "head"]
    assert found["normalised"]
    assert found["operators"] > 60
    assert count("resnet18", 64)["flops"] == pytest.approx(4 * 74027008, rel=0.01)
    plain = count("squeezenet1_1")
    assert not plain["normalised"]
    for kind in ("mean", "joined"):
        both = count(f"{kind}:resnet18+squeezenet1_1")
        assert both["flops"] == found["flops"] + plain["flops"]
        assert sum(both["parameters"].values()) == 11178564 + sum(plain["parameters"].values())
