"""No GPU is needed: a stand-in plays NVML, and its names are checked against nvidia-ml-py where that is installed."""

import ast
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_nvml import Card, NVMLError, library

from fashiontl.machine import nvml

FUNCTIONS = {name for name in vars(library()) if name.startswith("nvml")}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)


def seen(module: Any) -> list[str]:
    return [gpu.uuid for index in range(9) if (gpu := nvml.find(index, module))]


def test_values_in_base_units() -> None:
    gpu = nvml.find(0, library(Card("GPU-a", violation=2_500_000_000, processes=[(5, None), (6, 2**30)])))
    assert gpu is not None
    assert gpu.conditions() == nvml.GpuConditions(1.755e9, 1.98e9, 2.619e9, 61.0, 350.5, (), 2.5)
    assert gpu.joules() == pytest.approx(1234.567, rel=1e-12)
    assert gpu.processes() == {5: None, 6: 2**30}


@pytest.mark.parametrize(
    ("bits", "names", "throttling"),
    [
        (0x1, ("idle",), set()),
        (0x2 | 0x4, ("application clocks", "software power cap"), set()),
        (0x8, ("hardware slowdown",), {"hardware slowdown"}),
        (0x4 | 0x40, ("software power cap", "hardware thermal slowdown"), {"hardware thermal slowdown"}),
        (0x10 | 0x100, ("sync boost", "display clocks"), set()),
        (0x4000, ("reason 0x4000",), set()),
    ],
)
def test_reasons_by_name(bits: int, names: tuple[str, ...], throttling: set[str]) -> None:
    gpu = nvml.find(0, library(Card("GPU-a", reasons=bits)))
    assert gpu is not None
    assert gpu.throttle_reasons() == names
    assert nvml.THROTTLING & set(names) == throttling


def test_what_is_not_supported_is_unknown() -> None:
    card = Card("GPU-a", processes=[(5, 1)])
    whole = ("nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID", "nvmlDeviceGetName")
    gpu = nvml.find(0, library(card, missing=tuple(FUNCTIONS - set(whole))))
    # An older nvidia-ml-py does not even have the functions.
    for each in (gpu, nvml.Gpu(SimpleNamespace(NVMLError=NVMLError), card, "GPU-a")):
        assert each is not None
        assert each.conditions() == nvml.GpuConditions()
        assert (each.joules(), each.processes()) == (None, None)


def test_older_drivers_names_of_functions() -> None:
    newer = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons")
    gpu = nvml.find(0, library(Card("GPU-a", reasons=0x4), missing=newer))
    assert gpu is not None
    assert gpu.conditions().celsius == 60
    assert gpu.throttle_reasons() == ("software power cap", "hardware power brake")


def test_a_driver_older_than_the_module_is_no_error() -> None:
    class MismatchError(Exception):
        pass

    def old(_: object) -> None:
        raise MismatchError

    module = SimpleNamespace(
        NVMLError=NVMLError, NVMLLibraryMismatchError=MismatchError, nvmlDeviceGetComputeRunningProcesses=old
    )
    assert nvml.Gpu(module, Card("GPU-a"), "GPU-a").processes() is None


def test_no_library_or_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nvml.find(0, library(Card("GPU-a"), missing=("nvmlInit",))) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.find(0) is None


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, ["GPU-aa1", "GPU-ab2", "GPU-cc3"]),
        ("", []),
        ("2,0", ["GPU-cc3", "GPU-aa1"]),
        (" 1 , 2", ["GPU-ab2", "GPU-cc3"]),
        ("0,2,-1,1", ["GPU-aa1", "GPU-cc3"]),
        ("1,1", []),
        ("GPU-cc3,GPU-aa1", ["GPU-cc3", "GPU-aa1"]),
        ("GPU-c", ["GPU-cc3"]),
        ("GPU-a", []),
        ("GPU-cc3,GPU-nowhere,GPU-aa1", ["GPU-cc3"]),
        ("none", []),
    ],
)
def test_visible_devices(variable: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert seen(library(Card("GPU-aa1"), Card("GPU-ab2"), Card("GPU-cc3"))) == expected


def test_unlike_gpus_have_no_sure_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA may put the second first; a neighbour's temperature would be worse than none."""
    module = library(Card("GPU-a", "Tesla T4"), Card("GPU-b", "NVIDIA H100"))
    assert seen(module) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert seen(module) == []
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert seen(module) == ["GPU-b"]
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a")
    assert seen(module) == ["GPU-a"]


@pytest.mark.parametrize(("variable", "uuid"), [(None, "GPU-b"), ("0", "GPU-b"), ("MIG-GPU-b", "MIG-GPU-b")])
def test_of_a_shared_gpu_only_what_its_slices_share_is_known(
    variable: str | None, uuid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power, energy and processes are the whole GPU's: other people's slices are in them."""
    module = library(Card("GPU-b", mig=True, processes=[(os.getpid(), 2)]), Card("GPU-a"))
    if variable:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    gpu = nvml.find(0, module)
    assert gpu is not None
    assert gpu.uuid == uuid
    assert (gpu.joules(), gpu.conditions().watts, gpu.processes()) == (None, None, None)
    assert gpu.conditions().sm_hertz == 1.755e9
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-gone")
    assert nvml.find(0, module) is None


def test_the_real_module_has_the_functions() -> None:
    pynvml = pytest.importorskip("pynvml")
    tree = ast.parse(Path(nvml.__file__).read_text())
    words = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    words += [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    names = {word for word in words if word.startswith("nvml") and word.isidentifier()}
    assert names == FUNCTIONS
    assert [name for name in names if not callable(getattr(pynvml, name, None))] == []
    assert issubclass(pynvml.NVMLError, Exception)
    constants = (
        pynvml.NVML_CLOCK_SM,
        pynvml.NVML_CLOCK_MEM,
        pynvml.NVML_TEMPERATURE_GPU,
        pynvml.NVML_PERF_POLICY_THERMAL,
    )
    assert constants == (nvml._CLOCK_SM, nvml._CLOCK_MEMORY, nvml._TEMPERATURE_GPU, nvml._POLICY_THERMAL)
    bits = {
        "GpuIdle": "idle", "ApplicationsClocksSetting": "application clocks", "SwPowerCap": "software power cap",
        "HwSlowdown": "hardware slowdown", "SyncBoost": "sync boost",
        "SwThermalSlowdown": "software thermal slowdown", "HwThermalSlowdown": "hardware thermal slowdown",
        "HwPowerBrakeSlowdown": "hardware power brake", "DisplayClockSetting": "display clocks",
    }  # fmt: skip
    assert {getattr(pynvml, f"nvmlClocksEventReason{name}"): title for name, title in bits.items()} == nvml._REASONS
