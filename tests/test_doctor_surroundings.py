"""What the doctor says of the box's state and of what is here, on made-up boxes."""

import os
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fashiontl.doctor import Line, equipment, surroundings
from fashiontl.doctor.surroundings import conditions
from fashiontl.machine.conditions import Conditions, Observation
from fashiontl.machine.devices import Device
from fashiontl.machine.environment import Threads
from fashiontl.machine.nvml import GpuConditions
from fashiontl.runner.client import Outcome, Worker
from fashiontl.runner.messages import DEVICE, DeviceFacts

CPU = Device.of("cpu")
GPU = GpuConditions(1.98e9, 1.98e9, 2.6e9, 40.0, 120.0, ("software power cap",), 0.0, ())
STATE = Conditions(
    usable_cores=2.0, load=0.25, cpu_hertz=3.2e9, cpu_celsius=51.0, throttled_seconds=1.0, core_throttles=3,
    busy_seconds=100.0, steal_seconds=7.0, available_bytes=3 * 2**30,
)  # fmt: skip


@pytest.fixture
def cpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A system folder that a test fills; one core count, and nothing that can be watched."""
    monkeypatch.setattr(surroundings, "_CPUS", tmp_path / "cpu")
    monkeypatch.setattr(surroundings, "ThrottleDetector", lambda device: SimpleNamespace(reads=()))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(surroundings, "choose_threads", lambda: Threads(1, "quota", "a quota of 1.5 cores"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path / "cpu"


def state(*warnings: str, **changes: Any) -> dict[str, Line]:
    found = conditions(CPU, Observation(STATE, msgspec.structs.replace(STATE, **changes), list(warnings)))
    return {line.name: line for line in found}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


@pytest.mark.usefixtures("cpus")
def test_what_can_be_read() -> None:
    found = state("other processes used 1.0 of 2 cores", throttled_seconds=1.5, steal_seconds=7.25)
    values = {
        "load average before": "0.25 on 4 cores",
        "usable cores": "2 of 4",
        "stopped by the quota": "0.50 s meanwhile",
        "clock": "3.20 GHz",
        "stolen by the hypervisor": "0.25 s meanwhile",
        "available memory": "3.0 GiB",
        "meanwhile": "other processes used 1.0 of 2 cores",
    }
    assert {name: found[name].value for name in values} == values
    noted = {name for name, line in found.items() if line.verdict == "note"}
    assert noted == {"governor", "turbo", "observed while timing", "meanwhile"}


@pytest.mark.usefixtures("cpus")
def test_what_cannot_be_read_is_said() -> None:
    nothing = Conditions(1.5)
    found = {line.name: line for line in conditions(CPU, Observation(nothing, nothing, []))}
    unread = [name for name, line in found.items() if line.value == "not readable"]
    assert len(unread) == 9
    assert all(found[name].verdict == "note" for name in unread)
    assert found["usable cores"] == Line(
        "usable cores", "1.5 of 4", "note", "a quota that ends within a core stops threads; ask for whole cores"
    )


@pytest.mark.usefixtures("cpus")
def test_threads_and_why_there_are_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert state()["threads"] == Line("threads", "1 by quota", advice="a quota of 1.5 cores")
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert state()["threads"].verdict == "ok"
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert state()["threads"].verdict == "note"
    assert "'many'" in state()["threads"].advice


@pytest.mark.parametrize(
    ("name", "file", "text", "value", "verdict"),
    [
        ("governor", "cpu0/cpufreq/scaling_governor", "performance", "performance", "ok"),
        ("governor", "cpu0/cpufreq/scaling_governor", "schedutil", "schedutil", "note"),
        ("turbo", "intel_pstate/no_turbo", "0", "on", "note"),
        ("turbo", "intel_pstate/no_turbo", "1", "off", "ok"),
        ("turbo", "cpufreq/boost", "1", "on", "note"),
        ("turbo", "cpufreq/boost", "0", "off", "ok"),
    ],
)
def test_governor_and_turbo(name: str, file: str, text: str, value: str, verdict: str, cpus: Path) -> None:
    write(cpus / file, text)
    assert (state()[name].value, state()[name].verdict) == (value, verdict)


@pytest.mark.usefixtures("cpus")
def test_a_gpus_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        surroundings, "ThrottleDetector", lambda device: SimpleNamespace(reads=(f"{device.name} reasons", "heat"))
    )
    found = state(gpu=GPU)
    assert found["observed while timing"] == Line("observed while timing", "cpu reasons, heat")
    assert {name: line.value for name, line in found.items() if "GPU" in name} == {
        "GPU clock": "1.98 GHz",
        "GPU temperature": "40 °C",
        "GPU power": "120 W",
        "GPU clocks held down by": "software power cap",
        "GPU others": "nothing",
    }
    shared = state(gpu=GpuConditions(foreign_processes=("python (pid 12)",), throttle_reasons=()))
    assert shared["GPU others"].value == "python (pid 12)"
    assert shared["GPU clocks held down by"].value == "nothing"
    hidden = state(gpu=GpuConditions())
    assert {line.value for name, line in hidden.items() if "GPU" in name} == {"not readable"}


class Devices(Worker):
    """A worker that knows one device."""

    def run(self, phase: Any, job: Any, timeout: float, progress: Any = None) -> Any:
        del timeout, progress
        assert phase is DEVICE
        reason = {"cuda": "no NVIDIA GPU", "mps": "no Apple"}.get(job.device, "")
        return Outcome("crashed", "device: broken") if job.device == "xpu" else Outcome("ok", "", DeviceFacts(reason))


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Folders of a user who has nothing yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("FASHIONTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FASHIONTL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(surroundings.Cpu, "energy_counter", lambda cpu: None)
    return tmp_path


def here(home: Path) -> dict[str, Line]:
    sections = equipment(Devices(threads=1), home / "results", lambda text: None)
    return {line.name: line for section in sections for line in section.lines}


def test_devices_with_their_reasons(home: Path) -> None:
    found = here(home)
    assert found["cuda"] == Line("cuda", "absent", "note", "no NVIDIA GPU")
    assert found["xpu"].advice == "device: broken"


def test_data_and_weights(home: Path) -> None:
    found = here(home)
    assert found["original images"].verdict == "note"
    assert found["ImageNet weights"] == Line("ImageNet weights", "absent", "note", "downloaded by --weights imagenet")
    folder = home / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "resnet18-f37072fd.pth").touch()
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        write(home / "data" / f"{part}-ubyte", "")
    found = here(home)
    assert found["ImageNet weights"].value == f"1 files in {folder}"
    assert found["original images"] == Line("original images", str(home / "data"), "ok", "--set data=original")


def test_extras(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    def version(package: str) -> str:
        if package == "peft":
            raise PackageNotFoundError(package)
        return "1.2.3"

    monkeypatch.setattr(surroundings, "version", version)
    found = here(home)
    assert found["timm"] == Line("timm", "1.2.3", "ok", "architectures timm/NAME")
    assert found["peft"] == Line("peft", "absent", "note", "for policy lora: pip install 'fashiontl[lora]'")


def test_rapl(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    assert here(home)["RAPL"].verdict == "note"
    assert "chmod a+r" in here(home)["RAPL"].advice
    monkeypatch.setattr(surroundings.Cpu, "energy_counter", lambda cpu: SimpleNamespace())
    assert here(home)["RAPL"] == Line("RAPL", "readable", "ok", "energy of the CPU")


@pytest.mark.parametrize(("free", "verdict"), [(5 * 2**30, "ok"), (2**30, "note")])
def test_room_on_the_disk(free: int, verdict: str, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(surroundings.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    found = here(home)
    assert (found["cache"].value, found["cache"].verdict) == (
        f"{free / 2**30:.1f} GiB free at {home / 'cache'}",
        verdict,
    )
    assert not (home / "results").exists(), "looking makes no folder"
