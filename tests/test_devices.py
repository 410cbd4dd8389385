import resource
import sys
from types import SimpleNamespace

import pytest

from fashiontl.machine import devices


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cpu", True),
        ("cuda", True),
        ("cuda:3", True),
        ("mps", True),
        ("xpu:1", True),
        ("cpu:0", False),
        ("tpu", False),
        ("cuda:", False),
        ("cuda:x", False),
        ("", False),
    ],
)
def test_is_device(name: str, expected: bool) -> None:
    assert devices.is_device(name) is expected


def test_split() -> None:
    assert devices.split("cuda:12") == ("cuda", 12)
    assert devices.split("mps") == ("mps", 0)


def test_the_cpu_is_always_here() -> None:
    assert devices.seen_devices()[0] == "cpu"
    assert devices.absence("cpu") is None
    assert devices.absence("cpu:1") == "cpu:1 asked for, there is only cpu"


def test_every_absent_device_says_why() -> None:
    for name in devices.DEVICES:
        reason = devices.absence(name)
        assert reason is None or len(reason) > 20


def test_an_index_past_the_last_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.absence("cuda:1") is None
    assert devices.absence("cuda:2") == "cuda:2 asked for, this machine has 2 (counted from 0)"


@pytest.mark.parametrize(("visible", "count"), [("", 0), ("-1", 0), ("0", 1), ("2,5", 2)])
def test_visible_devices_are_counted_without_torch(monkeypatch: pytest.MonkeyPatch, visible: str, count: int) -> None:
    monkeypatch.setattr(devices, "version", lambda name: "2.13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [name for name in devices.seen_devices() if name.startswith("cuda")] == ["cuda", "cuda:1"][:count]


def test_a_cpu_build_sees_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "version", lambda name: "2.13.0+cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert not any(name.startswith("cuda") for name in devices.seen_devices())


def test_mps_and_cuda_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    waited = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda index: waited.append(f"cuda {index}"))
    for name in ("mps", "cuda", "cuda:1", "cpu"):
        devices.synchronize(name)
    assert waited == ["mps", "cuda 0", "cuda 1"]


def test_gpus_tell_how_much_memory_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for gpu in (torch.cuda, torch.xpu):
        monkeypatch.setattr(gpu, "get_device_properties", lambda index: SimpleNamespace(total_memory=80 + index))
    totals = {name: device.total and device.total(2) for name, device in devices.DEVICES.items()}
    assert totals == {"cpu": None, "cuda": 82, "mps": None, "xpu": 82}


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in KiB is Linux's")
def test_the_cpu_peak_is_a_high_water_mark() -> None:
    before = devices.DEVICES["cpu"].memory(0).peak
    block = bytearray(200 * 2**20)
    block[:: 2**12] = b"x" * len(block[:: 2**12])
    size = len(block)
    del block
    after = devices.DEVICES["cpu"].memory(0).peak
    assert after >= before
    assert after >= size
    assert after == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
