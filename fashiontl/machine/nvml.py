"""NVIDIA's management library: what one GPU reports. No torch; nvidia-ml-py is imported when first needed.

Names, bits and units are those of NVML's API reference (docs.nvidia.com/deploy/nvml-api).
"""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

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


class GpuConditions(msgspec.Struct, frozen=True):
    """State of a GPU; None is unknown.

    Attributes:
        watts: power of the board: on most GPUs a mean over the last second.
        throttle_reasons: why the clocks are below their maximum.
        thermal_violation_seconds: how long heat has held the clocks down, since the driver was loaded.
        foreign_processes: who computes on it besides this process, its ancestors and descendants: `name (pid 12)`.
            Unknown in a container with process ids of its own, since some drivers report the host's.
    """

    sm_hertz: float | None = None
    max_sm_hertz: float | None = None
    memory_hertz: float | None = None
    celsius: float | None = None
    watts: float | None = None
    throttle_reasons: tuple[str, ...] | None = None
    thermal_violation_seconds: float | None = None
    foreign_processes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Gpu:
    """One GPU. What cannot be read is None, and nothing here raises.

    Attributes:
        uuid: of the GPU or, where CUDA_VISIBLE_DEVICES names one, of its MIG slice.
        is_shared: whether the GPU is in MIG mode, so that power, energy and processes are not this slice's alone.
    """

    library: Any
    handle: Any
    uuid: str
    is_shared: bool = False

    def conditions(self) -> GpuConditions:
        """Everything but `foreign_processes`."""
        return GpuConditions(
            sm_hertz=self._read("nvmlDeviceGetClockInfo", arguments=(_CLOCK_SM,), unit=1e6),
            max_sm_hertz=self._read("nvmlDeviceGetMaxClockInfo", arguments=(_CLOCK_SM,), unit=1e6),
            memory_hertz=self._read("nvmlDeviceGetClockInfo", arguments=(_CLOCK_MEMORY,), unit=1e6),
            celsius=self._read("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature", arguments=(_TEMPERATURE_GPU,)),
            watts=None if self.is_shared else self._read("nvmlDeviceGetPowerUsage", unit=1e-3),
            throttle_reasons=self.throttle_reasons(),
            thermal_violation_seconds=self.thermal_violation_seconds(),
        )

    def joules(self) -> float | None:
        """Energy since the driver was loaded; Volta and newer."""
        return None if self.is_shared else self._read("nvmlDeviceGetTotalEnergyConsumption", unit=1e-3)

    def throttle_reasons(self) -> tuple[str, ...] | None:
        """Why the clocks are not at their maximum now."""
        # Renamed in driver 535; older ones have only the second.
        bits = self._read("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        if bits is None:
            return None
        return tuple(_REASONS.get(1 << bit, f"reason {1 << bit:#x}") for bit in range(64) if bits >> bit & 1)

    def thermal_violation_seconds(self) -> float | None:
        """How long heat has held the clocks down, since the driver was loaded."""
        status = self._read("nvmlDeviceGetViolationStatus", arguments=(_POLICY_THERMAL,))
        return None if status is None else status.violationTime * 1e-9

    def processes(self) -> dict[int, int | None] | None:
        """Bytes of processes with a compute context on this GPU, by the driver's process id."""
        found = None if self.is_shared else self._read("nvmlDeviceGetComputeRunningProcesses")
        return None if found is None else {each.pid: each.usedGpuMemory for each in found}

    def _read(self, *names: str, arguments: tuple[int, ...] = (), unit: float | None = None) -> Any:
        """The result of the first of the functions that works here, in a unit."""
        for name in names:
            function = getattr(self.library, name, None)  # versions of nvidia-ml-py differ
            with suppress(*_errors(self.library)):
                if function is not None:
                    value = function(self.handle, *arguments)
                    return value if unit is None else value * unit
        return None


def find(index: int, library: Any = None) -> Gpu | None:
    """The GPU that torch calls `cuda:index`, its position among the devices that CUDA_VISIBLE_DEVICES leaves.

    Returns:
        None without nvidia-ml-py, driver or such a device, and where CUDA's order of devices is not known.
    """
    library = library or _installed()
    if library is None:
        return None
    try:
        library.nvmlInit()
        return _at(index, library)
    except _errors(library):
        return None


def _installed() -> Any:
    with suppress(ImportError):
        import pynvml

        return pynvml
    return None


def _errors(library: Any) -> tuple[type[Exception], ...]:
    # The second is raised for a driver older than the module, and is not derived from the first.
    return library.NVMLError, getattr(library, "NVMLLibraryMismatchError", library.NVMLError)


def _at(index: int, library: Any) -> Gpu | None:
    gpus = []
    for number in range(library.nvmlDeviceGetCount()):
        handle = library.nvmlDeviceGetHandleByIndex(number)
        is_shared = False
        with suppress(*_errors(library)):
            is_shared = bool(library.nvmlDeviceGetMigMode(handle)[0])
        gpus.append(Gpu(library, handle, library.nvmlDeviceGetUUID(handle), is_shared))
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    entries = [str(number) for number in range(len(gpus))] if variable is None else variable.split(",")
    # CUDA's own order is "fastest first", NVML's is that of the bus: they only agree for certain among equal GPUs.
    models = {library.nvmlDeviceGetName(gpu.handle) for gpu in gpus}
    is_ordered = len(models) < 2 or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    visible: list[Gpu] = []
    for entry in (text.strip() for text in entries):
        if digits := re.match("[0-9]+", entry):
            found = gpus[int(digits[0]) :][:1] if is_ordered else []
        elif entry.startswith("MIG-"):
            parent = library.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(library.nvmlDeviceGetHandleByUUID(entry))
            found = [Gpu(library, parent, entry, is_shared=True)]
        else:
            # A UUID may be cut short as long as it is one GPU's only.
            found = [gpu for gpu in gpus if entry.startswith("GPU-") and gpu.uuid.startswith(entry)]
        if len(found) != 1:  # CUDA ignores what follows an invalid entry
            break
        if found[0] in visible:  # and sees no device if one is named twice
            return None
        visible.append(found[0])
    return visible[index] if index < len(visible) else None
