"""Devices; a fake module in torch's place plays the accelerators that are not here."""

import resource
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_nvml import Card, library
from torch.profiler import ProfilerActivity

from fashiontl.core.errors import FashiontlError
from fashiontl.machine import devices, nvml
from fashiontl.machine.devices import Device, Memory
from fashiontl.matrix.options import matrix


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("cpu:0", "cpu"),
        ("cuda:0", "cuda"),
        ("cuda:00", "cuda"),
        ("cuda:03", "cuda:3"),
        ("mps", "mps"),
        ("xpu:1", "xpu:1"),
        *((name, None) for name in ("tpu", "cuda:", "cuda:-1", "cuda:٣", "CUDA", "")),
    ],
)
def test_names_of_one_device_are_one(name: str, canonical: str | None) -> None:
    assert devices.is_device(name) is (canonical is not None)
    if canonical:
        assert Device.of(name).name == canonical
        assert Device.of(name) == Device.of(canonical)
    else:
        with pytest.raises(FashiontlError, match=r"expected a device such as cpu, cuda, mps, xpu or cuda:1, got"):
            Device.of(name)


def test_the_cpu_is_always_here() -> None:
    assert devices.seen_devices()[0] == "cpu"
    assert Device.of("cpu").unavailable_reason() is None
    assert Device.of("cpu:1").unavailable_reason() == "cpu:1 requested, but there is only cpu"
    cpu = Device.of("cpu")
    cpu.synchronize()
    assert (cpu.free_memory(), cpu.facts(), cpu.gpu()) == (None, {}, None)
    assert cpu.profiler_activities() == [ProfilerActivity.CPU]


@pytest.mark.parametrize(("visible", "count"), [("", 0), ("-1", 0), ("0", 1), ("2,5", 2)])
def test_visible_devices_are_counted_without_torch(monkeypatch: pytest.MonkeyPatch, visible: str, count: int) -> None:
    monkeypatch.setattr(devices, "version", lambda name: "2.13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [name for name in devices.seen_devices() if name.startswith("cuda")] == ["cuda", "cuda:1"][:count]
    monkeypatch.setattr(devices, "version", lambda name: "2.13.0+cpu")
    assert not any(name.startswith("cuda") for name in devices.seen_devices())


def test_without_the_variable_device_files_and_builds_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "version", lambda name: "2.13.0+xpu")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices.Path, "glob", lambda path, pattern: iter(["nvidia0", "nvidia1"]))
    monkeypatch.setattr(devices.sys, "platform", "darwin")
    monkeypatch.setattr(devices.platform, "machine", lambda: "arm64")
    assert devices.seen_devices() == ["cpu", "cuda", "cuda:1", "mps", "xpu"]


class Accelerator:
    """A module such as `torch.cuda` with two devices, which writes down the calls; the second is used."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.event = SimpleNamespace(Event=self.make_event)
        for name in ("reset_peak_memory_stats", "empty_cache"):
            setattr(self, name, lambda *arguments, name=name: self.calls.append((name, *arguments)))
        for name, size in (("max_memory_allocated", 10), ("max_memory_reserved", 20)):
            setattr(self, name, lambda index, size=size: size + index)
        self.is_available = lambda: True
        self.device_count = lambda: 2
        self.get_device_name = lambda index: f"Card {index}"
        self.mem_get_info = lambda index: (60 + index, 80)
        self.driver_allocated_memory = lambda: 30

    def make_event(self, *_: Any, enable_timing: bool) -> Any:
        assert enable_timing
        return SimpleNamespace(
            record=lambda *stream: self.calls.append(("record", *stream)), elapsed_time=lambda later: 2500.0
        )


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Accelerator]:
    module = Accelerator()
    monkeypatch.setattr(torch, "get_device_module", lambda kind: module)
    monkeypatch.setattr(torch, "Event", module.make_event)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda where: module.calls.append(("wait", where)))
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda where: f"stream of {where}")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(nvml, "_installed", lambda: None)
    return module


@pytest.mark.parametrize("name", ["cuda:1", "xpu:1", "mps"])
def test_an_accelerator(name: str, accelerator: Accelerator) -> None:
    device = Device.of(name)
    where = f"{device.kind}:{device.index}"
    assert device.unavailable_reason() is None
    device.synchronize()
    before, after = device.event(), device.event()
    assert device.elapsed(before, after) == 2.5
    assert device.restart_peak()
    is_mps = device.kind == "mps"
    record = ("record",) if is_mps else ("record", f"stream of {where}")
    reset = [] if is_mps else [("reset_peak_memory_stats", 1)]
    assert accelerator.calls == [("wait", where), record, record, ("empty_cache",), *reset]
    assert device.memory() == (Memory(30, 30) if is_mps else Memory(11, 21))
    assert device.free_memory() == (61 if device.kind == "cuda" else None)
    assert device.facts()["accelerator"] is not None
    own = {"cuda": [ProfilerActivity.CUDA], "xpu": [ProfilerActivity.XPU]}.get(device.kind, [])
    assert device.profiler_activities() == [ProfilerActivity.CPU, *own]
    assert device.energy_counter() is None


@pytest.mark.parametrize("name", ["cuda:2", "xpu:2", "mps:2"])
def test_an_index_past_the_last_is_absent(name: str, accelerator: Accelerator) -> None:
    expected = f"{name} requested, but this machine has 2 (counted from 0)"
    assert Device.of(name).unavailable_reason() == expected
    accelerator.is_available = lambda: False
    if not name.startswith("mps"):
        assert Device.of(name).unavailable_reason() != expected


@pytest.mark.usefixtures("accelerator")
def test_facts_of_a_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27\n"
    monkeypatch.setattr(devices.Path, "read_text", lambda path, **_: text)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    facts = {"accelerator": "Card 1", "driver": "580.65.06", "cuda": "13.0", "cudnn": "91002"}
    assert Device.of("cuda:1").facts() == facts


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize(
    ("visible", "name", "hardware"),
    [
        (None, "cuda:00", "GPU-a"),
        ("1,0", "cuda", "GPU-b"),
        ("GPU-b", "cuda:0", "GPU-b"),
        ("GPU-b,GPU-a", "cuda:1", "GPU-a"),
    ],
)
def test_a_gpu_is_known_by_its_uuid(
    visible: str | None, name: str, hardware: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    without_nvml = {"GPU-a": "cuda", "GPU-b": "cuda:1"}[hardware]
    assert Device.of(name).id in {hardware, without_nvml}
    module = library(Card("GPU-a", processes=[(devices.os.getpid(), 7)]), Card("GPU-b"))
    monkeypatch.setattr(nvml, "_installed", lambda: module)
    device = Device.of(name)
    assert device.id == hardware
    assert device.memory().process == (7 if hardware == "GPU-a" else None)
    counter = device.energy_counter()
    assert counter is not None
    assert (counter.source, counter.read()) == ("NVML total energy", pytest.approx(1234.567))


def test_running_out_of_memory_is_told_from_other_errors() -> None:
    full = [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    ]
    assert all(map(Device.is_out_of_memory, full))
    assert not any(map(Device.is_out_of_memory, [RuntimeError("CUDA error"), ValueError("out of memory")]))


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in KiB is Linux's")
def test_the_cpu_peak_is_a_high_water_mark_that_can_be_restarted() -> None:
    cpu = Device.of("cpu")
    block = bytearray(200 * 2**20)
    block[:: 2**12] = b"x" * len(block[:: 2**12])
    size = len(block)
    del block
    peak = cpu.memory().peak
    assert peak >= size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 == pytest.approx(peak, rel=0.01)
    if cpu.restart_peak():
        assert cpu.memory().peak < peak - size / 2


@pytest.mark.parametrize(("system", "unit"), [("linux", 1024), ("darwin", 1)])
def test_a_system_without_the_kernels_mark(system: str, unit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "text_of", lambda path: None)
    monkeypatch.setattr(devices.sys, "platform", system)
    monkeypatch.setattr(devices.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=12345))
    monkeypatch.setattr(devices.psutil.Process, "children", lambda process, recursive: [])
    assert Device.of("cpu").memory() == Memory(12345 * unit, process=12345 * unit)


def test_a_peak_that_cannot_be_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(devices.Path, "write_text", refuse)
    assert not Device.of("cpu").restart_peak()


def test_a_c_library_without_trimming(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(devices.Path, "write_text", lambda path, text: written.append(f"{path} {text}"))
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: SimpleNamespace())
    assert Device.of("cpu").restart_peak()
    assert written == ["/proc/self/clear_refs 5"]


def test_a_device_named_twice_is_measured_once() -> None:
    cases, _ = matrix({"arch": ["resnet18"], "policy": ["full"], "device": ["cuda:00,cuda", "cuda:01"]}, "smoke")
    assert [case.device for case in cases] == ["cuda", "cuda:1"]
