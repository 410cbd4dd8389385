"""The door to NVIDIA's management library: what one GPU tells of itself. No torch; nvidia-ml-py is imported late.

Names, bits and units are those of NVML's API reference (docs.nvidia.com/deploy/nvml-api).
"""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

# Bits of nvmlDeviceGetCurrentClocksEventReasons: why the clocks are not at their maximum.
_REASONS = {
    0x001: "idle",
    0x002: "application clocks",
    0x004: "software power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "hardware power brake",
    0x100: "display clocks",
}
# Slowed down by heat or by the supply of power: the same call would take less time on the same, healthy GPU.
THROTTLING = frozenset(
    {"hardware slowdown", "software thermal slowdown", "hardware thermal slowdown", "hardware power brake"}
)
# Many cards reach their power limit whenever they are busy; it is a property of the card more than a disturbance.
POWER_CAP = "software power cap"
IDLE = "idle"

_CLOCK_SM, _CLOCK_MEMORY, _TEMPERATURE_GPU, _POLICY_THERMAL = 1, 2, 0, 1


class GpuProcess(NamedTuple):
    """A process with a compute context; its id is the driver's, which in a container may be the host's.

    Attributes:
        pid: process id.
        used_bytes: of the device's memory.
    """

    pid: int
    used_bytes: int | None


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one slice of it (MIG). What cannot be read is None, and nothing here raises.

    Clocks, temperature and what slows them are those of the whole GPU, since its slices share them. Power and energy of
    a slice are unknown: NVML counts them for the whole GPU, other people's slices included.

    Attributes:
        library: the module `pynvml`, initialised.
        handle: NVML's handle of the GPU.
        instance: NVML's handle of the slice; None without MIG.
    """

    library: Any
    handle: Any
    instance: Any = None

    def sm_hertz(self) -> float | None:
        """Current clock of the streaming multiprocessors."""
        return _scaled(self._read("nvmlDeviceGetClockInfo", arguments=(_CLOCK_SM,)), 1e6)

    def memory_hertz(self) -> float | None:
        """Current clock of the memory."""
        return _scaled(self._read("nvmlDeviceGetClockInfo", arguments=(_CLOCK_MEMORY,)), 1e6)

    def max_sm_hertz(self) -> float | None:
        """Highest clock of the streaming multiprocessors that the GPU allows."""
        return _scaled(self._read("nvmlDeviceGetMaxClockInfo", arguments=(_CLOCK_SM,)), 1e6)

    def celsius(self) -> float | None:
        """Temperature of the die, whole degrees."""
        names = "nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"
        return _scaled(self._read(*names, arguments=(_TEMPERATURE_GPU,)), 1.0)

    def watts(self) -> float | None:
        """Power of the board: on most GPUs a mean over the last second, not of this moment."""
        return None if self.instance is not None else _scaled(self._read("nvmlDeviceGetPowerUsage"), 1e-3)

    def joules(self) -> float | None:
        """Energy since the driver was loaded; Volta and newer."""
        return None if self.instance is not None else _scaled(self._read("nvmlDeviceGetTotalEnergyConsumption"), 1e-3)

    def throttle_reasons(self) -> tuple[str, ...] | None:
        """Why the clocks are not at their maximum now; `THROTTLING` holds those that make a number doubtful."""
        # Renamed in driver 535; older ones have only the second.
        bits = self._read("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        if bits is None:
            return None
        return tuple(_REASONS.get(1 << bit, f"reason {1 << bit:#x}") for bit in range(64) if bits >> bit & 1)

    def thermal_violation_seconds(self) -> float | None:
        """How long heat has held the clocks down, since the driver was loaded."""
        status = self._read("nvmlDeviceGetViolationStatus", arguments=(_POLICY_THERMAL,))
        return None if status is None else status.violationTime * 1e-9

    def processes(self) -> tuple[GpuProcess, ...] | None:
        """Processes with a compute context on this GPU or slice."""
        found = self._read("nvmlDeviceGetComputeRunningProcesses", of=self.instance)
        return None if found is None else tuple(GpuProcess(each.pid, each.usedGpuMemory) for each in found)

    def own_bytes(self) -> int | None:
        """Device memory of this process, its context included; None also when the driver does not list it."""
        return next((each.used_bytes for each in self.processes() or () if each.pid == os.getpid()), None)

    def _read(self, *names: str, arguments: tuple[int, ...] = (), of: Any = None) -> Any:
        """What the first of the functions that works here says."""
        for name in names:
            function = getattr(self.library, name, None)  # versions of nvidia-ml-py differ
            with suppress(*_errors(self.library)):
                if function is not None:
                    return function(self.handle if of is None else of, *arguments)
        return None


def of_device(device: str) -> Gpu | None:
    """The GPU behind torch's name of a device, such as `cuda:1`; None when it is none, or NVML does not know it."""
    kind, _, index = device.partition(":")
    return find(int(index or 0)) if kind == "cuda" else None


def find(index: int, library: Any = None) -> Gpu | None:
    """The GPU that torch calls `cuda:index`.

    Args:
        index: position among the devices that CUDA_VISIBLE_DEVICES leaves.
        library: the module `pynvml`, or what stands in for it.

    Returns:
        None without nvidia-ml-py, driver or such a device, and where it cannot be told which one it is.
    """
    library = library or _installed()
    if library is None:
        return None
    try:
        library.nvmlInit()
        visible = _visible(library, os.environ)
    except _errors(library):
        return None
    return Gpu(library, *visible[index]) if 0 <= index < len(visible) else None


def _installed() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


def _errors(library: Any) -> tuple[type[Exception], ...]:
    # The second is raised for a driver older than the module, and is not derived from the first.
    return library.NVMLError, getattr(library, "NVMLLibraryMismatchError", library.NVMLError)


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value * unit


def _visible(library: Any, environment: Mapping[str, str]) -> list[tuple[Any, Any]]:
    """GPUs and slices in CUDA's order, as pairs of handles (CUDA programming guide, environment variables)."""
    handles: dict[str, tuple[Any, Any]] = {}
    slices: dict[str, list[str]] = {}
    for index in range(library.nvmlDeviceGetCount()):
        gpu = library.nvmlDeviceGetHandleByIndex(index)
        parts = {library.nvmlDeviceGetUUID(part): (gpu, part) for part in _slices(library, gpu)}
        uuid = library.nvmlDeviceGetUUID(gpu)
        handles |= {uuid: (gpu, None), **parts}
        slices[uuid] = list(parts)
    variable = environment.get("CUDA_VISIBLE_DEVICES")
    visible = list(slices) if variable is None else _listed(variable, list(slices), list(handles))
    by_number = variable is None or re.match(r"\s*\d", variable)
    models = {library.nvmlDeviceGetName(gpu) for gpu, _ in handles.values()}
    # CUDA's own order is "fastest first", NVML's is that of the bus: they are sure to agree only among equal GPUs.
    if by_number and environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID" and len(models) > 1:
        return []
    # With slices around, a process sees the first of them and nothing else (MIG user guide, device enumeration).
    parts_seen = [part for uuid in visible for part in slices.get(uuid, [uuid])]
    return [handles[uuid] for uuid in parts_seen[:1] or visible]


def _slices(library: Any, gpu: Any) -> list[Any]:
    parts = []
    with suppress(*_errors(library)):
        current, _ = library.nvmlDeviceGetMigMode(gpu)
        for index in range(library.nvmlDeviceGetMaxMigDeviceCount(gpu) if current else 0):
            with suppress(*_errors(library)):  # numbers may have gaps
                parts.append(library.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index))
    return parts


def _listed(variable: str, gpus: list[str], known: list[str]) -> list[str]:
    """UUIDs that CUDA_VISIBLE_DEVICES names: up to the first that is invalid, and none if one is there twice."""
    chosen: list[str] = []
    for entry in variable.split(","):
        name = entry.strip()
        number = re.match(r"\d+", name)
        if number:
            found = gpus[int(number[0]) : int(number[0]) + 1]
        else:
            # A UUID may be cut short as long as it is one GPU's only.
            found = [uuid for uuid in known if name.startswith(("GPU-", "MIG-")) and uuid.startswith(name)]
        if len(found) != 1:
            break
        if found[0] in chosen:
            return []
        chosen += found
    return chosen
