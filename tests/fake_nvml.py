"""A stand-in for the module `pynvml`, for as many cards as a test likes."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """Named like NVML's own."""


@dataclass(eq=False)
class Card:
    """A GPU, in MIG mode or not; its slices are named `MIG-` and its UUID."""

    uuid: str
    name: str = "NVIDIA H100"
    mig: bool = False
    processes: list[tuple[int, int | None]] = field(default_factory=list)
    reasons: int = 0
    violation: int = 0
    sm_megahertz: int = 1755


def _refuse(*_: object) -> None:
    raise NVMLError("Not Supported")


def _mig_mode(card: Card) -> list[int]:
    if not card.mig:
        _refuse()
    return [1, 1]


def library(*cards: Card, missing: tuple[str, ...] = ()) -> Any:
    """The module; functions in `missing` are there but not supported by driver or card."""
    functions = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: len(cards),
        "nvmlDeviceGetHandleByIndex": lambda index: cards[index],
        "nvmlDeviceGetUUID": lambda card: card.uuid,
        "nvmlDeviceGetName": lambda card: card.name,
        "nvmlDeviceGetMigMode": _mig_mode,
        "nvmlDeviceGetHandleByUUID": lambda uuid: next((card for card in cards if uuid == f"MIG-{card.uuid}"), None),
        "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda card: card or _refuse(),
        "nvmlDeviceGetClockInfo": lambda card, kind: {1: card.sm_megahertz, 2: 2619}[kind],
        "nvmlDeviceGetMaxClockInfo": lambda card, kind: {1: 1980}[kind],
        "nvmlDeviceGetTemperatureV": lambda card, sensor: {0: 61}[sensor],
        "nvmlDeviceGetTemperature": lambda card, sensor: {0: 60}[sensor],
        "nvmlDeviceGetPowerUsage": lambda card: 350_500,
        "nvmlDeviceGetTotalEnergyConsumption": lambda card: 1_234_567,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda card: card.reasons,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda card: card.reasons | 0x80,
        "nvmlDeviceGetViolationStatus": lambda card, policy: SimpleNamespace(violationTime={1: card.violation}[policy]),
        "nvmlDeviceGetComputeRunningProcesses": lambda card: [
            SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in card.processes
        ],
    }
    return SimpleNamespace(NVMLError=NVMLError, **functions | dict.fromkeys(missing, _refuse))
