"""Devices that cases run on. To add a kind, add a class here and name it in `DEVICES`.

The table and names can be read without torch; methods that need torch import it when they are called.
"""

import ctypes
import gc
import os
import platform
import re
import resource
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import psutil

from fashiontl.core.errors import FashiontlError
from fashiontl.machine import nvml
from fashiontl.machine.energy import EnergyCounter, rapl_counter
from fashiontl.machine.environment import text_of

if TYPE_CHECKING:
    from torch.profiler import ProfilerActivity

_OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory")


@dataclass(frozen=True)
class Memory:
    """Bytes; None where the device has no such figure.

    Attributes:
        peak: the most that was in use: by tensors on devices with their own memory, by the process on the CPU, where
            what its living descendants have for themselves is added.
        reserved: the most that torch's allocator held on the device, in use or not.
        process: what the process held, as the system reports it: on the CPU its peak, without descendants, on CUDA the
            driver's current figure, including the context and the libraries' workspaces.
    """

    peak: int
    reserved: int | None = None
    process: int | None = None


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        index: position among the devices of its kind that this process sees.
        has_queue: whether work is queued: a call may return before the device has finished.
    """

    index: int = 0
    kind: ClassVar[str]
    title: ClassVar[str]
    has_queue: ClassVar[bool] = True

    @staticmethod
    def of(name: str) -> "Device":
        """The device of a name, FashiontlError for others: `cuda`, `cuda:0` and `cuda:00` are the same one."""
        kind, index = _parsed(name)
        if kind not in DEVICES:
            raise FashiontlError(f"expected a device such as {', '.join(DEVICES)} or cuda:1, got {name!r}")
        return DEVICES[kind](index)

    @classmethod
    def seen(cls) -> int:
        """How many of this kind the machine seems to have, found without torch; `unavailable_reason` is reliable."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The canonical name: `cuda`, `cuda:1`."""
        return f"{self.kind}:{self.index}" if self.index else self.kind

    @property
    def id(self) -> str:
        """Identifies the hardware on this machine, whatever its index is in this process."""
        return self.name

    def unavailable_reason(self) -> str | None:
        """Why the device cannot be used, or None."""
        raise NotImplementedError

    def synchronize(self) -> None:
        """Wait until all queued work has ended."""

    def event(self) -> Any:
        """Record an event in the device's queue, without waiting. Only where `has_queue`."""
        raise NotImplementedError

    @staticmethod
    def elapsed(before: Any, after: Any) -> float:
        """Seconds between two events that the device has passed."""
        return float(before.elapsed_time(after)) / 1e3

    def memory(self) -> Memory:
        """Peak memory since `reset_peak`."""
        raise NotImplementedError

    def reset_peak(self) -> None:
        """Forget the memory peak, where that is possible without giving anything back to the system."""

    def release_memory(self) -> None:
        """Give cached memory that no tensor uses back to the system."""
        gc.collect()

    def restart_peak(self) -> bool:
        """Release memory and start the peak anew at what is in use; False where that is not possible."""
        self.release_memory()
        self.reset_peak()
        return True

    def free_memory(self) -> int | None:
        """Bytes of the device's own memory that nobody uses; None if it has none of its own, or does not say."""
        return None

    @staticmethod
    def is_out_of_memory(error: BaseException) -> bool:
        """Whether an error says that memory ran out."""
        import torch

        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        # The allocators of the CPU and of MPS raise a plain RuntimeError.
        return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)

    def facts(self) -> dict[str, str | None]:
        """`accelerator`, `driver`, `cuda` and `cudnn`, as far as known, for the environment."""
        return {}

    def profiler_activities(self) -> "list[ProfilerActivity]":
        """What torch's profiler should record for this device."""
        from torch.profiler import ProfilerActivity

        own = getattr(ProfilerActivity, self.kind.upper(), ProfilerActivity.CPU)
        return list(dict.fromkeys([ProfilerActivity.CPU, own]))

    def gpu(self) -> nvml.Gpu | None:
        """NVML's view of the device, if it has one."""
        return None

    def energy_counter(self) -> EnergyCounter | None:
        """The hardware's energy counter, or None."""
        return None


class Cpu(Device):
    """The CPU, with all its cores."""

    kind = "cpu"
    title = "CPU"
    has_queue = False

    @classmethod
    def seen(cls) -> int:
        return 1

    def unavailable_reason(self) -> str | None:
        return f"{self.name} requested, but there is only cpu" if self.index else None

    def memory(self) -> Memory:
        peak = _high_water_mark()
        return Memory(peak + _of_descendants(), process=peak)

    def restart_peak(self) -> bool:
        self.release_memory()
        # glibc keeps what was freed, and the next peak would start there. Others, such as musl, give it back by
        # themselves and have no such function.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        try:
            # It lowers the process's high-water mark to what is in use, getrusage's too (proc_pid_clear_refs(5)).
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return False
        return True

    def energy_counter(self) -> EnergyCounter | None:
        return rapl_counter()


class Accelerator(Device):
    """A device with a queue, driven by `torch.accelerator` and the module of its kind, such as `torch.cuda`."""

    absent: ClassVar[str]

    @property
    def module(self) -> Any:
        """Torch's module of this kind."""
        import torch

        return torch.get_device_module(self.kind)

    def unavailable_reason(self) -> str | None:
        import torch

        # A kind that this torch does not know has no module.
        if not hasattr(torch, self.kind) or not self.module.is_available():
            return f"torch {torch.__version__} {self.absent}"
        count = self.module.device_count()
        if self.index < count:
            return None
        return f"{self.name} requested, but this machine has {count} (counted from 0)"

    def synchronize(self) -> None:
        import torch

        torch.accelerator.synchronize(f"{self.kind}:{self.index}")

    def event(self) -> Any:
        import torch

        place = f"{self.kind}:{self.index}"
        event = torch.Event(place, enable_timing=True)
        event.record(torch.accelerator.current_stream(place))
        return event

    def memory(self) -> Memory:
        return Memory(
            int(self.module.max_memory_allocated(self.index)), int(self.module.max_memory_reserved(self.index))
        )

    def reset_peak(self) -> None:
        self.module.reset_peak_memory_stats(self.index)

    def release_memory(self) -> None:
        super().release_memory()
        self.module.empty_cache()

    def facts(self) -> dict[str, str | None]:
        return {"accelerator": self.module.get_device_name(self.index)}


class Cuda(Accelerator):
    """An NVIDIA GPU or, in torch's ROCm builds, an AMD GPU."""

    kind = "cuda"
    title = "NVIDIA GPU (or AMD's, through ROCm)"
    absent = "sees no NVIDIA GPU; check the driver with nvidia-smi"

    @classmethod
    def seen(cls) -> int:
        if "+cpu" in version("torch"):
            return 0
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            return len([entry for entry in visible.split(",") if entry.strip() not in {"", "-1"}])
        count = len(list(Path("/dev").glob("nvidia[0-9]*")))
        return count or int(shutil.which("nvidia-smi") is not None)

    @property
    def id(self) -> str:
        """The GPU's UUID, from NVML; without NVML, what CUDA_VISIBLE_DEVICES says in this GPU's place.

        So without nvidia-ml-py a GPU that one process names by UUID and another by number has two ids. torch knows the
        UUID too, but only once it has made a context on the GPU, which the process that takes the lock must not do.
        """
        if gpu := self.gpu():
            return gpu.uuid
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        entry = visible[self.index].strip() if self.index < len(visible) else ""
        return (Cuda(int(entry)).name if entry.isdecimal() else entry) or self.name

    def unavailable_reason(self) -> str | None:
        import torch

        if torch.version.cuda is None and torch.version.hip is None:
            return f"torch {torch.__version__} was built without CUDA; install a CUDA build of torch"
        return super().unavailable_reason()

    def memory(self) -> Memory:
        found, gpu = super().memory(), self.gpu()
        own = (gpu.processes() or {}).get(os.getpid()) if gpu else None
        return Memory(found.peak, found.reserved, own)

    def free_memory(self) -> int | None:
        free, _ = self.module.mem_get_info(self.index)
        return int(free)

    def facts(self) -> dict[str, str | None]:
        import torch

        # The public interface to the driver's version is NVML, which not every machine has.
        driver = None
        with suppress(OSError):
            text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
            driver = re.search(r"Kernel Module\D*([\d.]+)", text)
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        return {
            **super().facts(),
            "driver": driver[1] if driver else None,
            "cuda": torch.version.cuda or torch.version.hip,
            "cudnn": None if cudnn is None else str(cudnn),
        }

    def gpu(self) -> nvml.Gpu | None:
        return nvml.find(self.index)

    def energy_counter(self) -> EnergyCounter | None:
        gpu = self.gpu()
        return EnergyCounter("NVML total energy", gpu.joules) if gpu and gpu.joules() is not None else None


class Mps(Accelerator):
    """The GPU of Apple silicon, which shares the host's memory."""

    kind = "mps"
    title = "Apple silicon GPU"
    absent = "sees no Apple silicon GPU; MPS needs macOS 12.3 or later and an MPS build of torch"

    @classmethod
    def seen(cls) -> int:
        return int(sys.platform == "darwin" and platform.machine() == "arm64")

    def event(self) -> Any:
        # torch.Event does not time MPS in all versions that are supported.
        event = self.module.event.Event(enable_timing=True)
        event.record()
        return event

    def memory(self) -> Memory:
        # Metal keeps no high-water mark. What the driver holds at the end is a lower bound, since its allocator caches.
        held = self.module.driver_allocated_memory()
        return Memory(held, reserved=held)

    def reset_peak(self) -> None:
        pass

    def facts(self) -> dict[str, str | None]:
        return {"accelerator": f"Apple {platform.processor()}"}


class Xpu(Accelerator):
    """An Intel GPU."""

    kind = "xpu"
    title = "Intel GPU"
    absent = "sees no Intel GPU; it needs torch's XPU build and Intel's driver"

    @classmethod
    def seen(cls) -> int:
        return int("+xpu" in version("torch"))


DEVICES: dict[str, type[Device]] = {kind.kind: kind for kind in (Cpu, Cuda, Mps, Xpu)}


def _high_water_mark() -> int:
    """The most memory that this process had resident, in bytes."""
    # The kernel's own mark of this address space: getrusage's takes over that of the program that a process ran before
    # exec (getrusage(2)), so a small program that a large one starts would seem large.
    found = re.search(r"^VmHWM:\s*(\d+) kB$", text_of(Path("/proc/self/status")) or "", re.MULTILINE)
    if found:
        return int(found[1]) * 1024
    # In KiB, but for macOS, where it is in bytes (getrusage(2) of each).
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _of_descendants() -> int:
    """Bytes that the processes below this one have now, without what a fork shares with its parent."""
    total = 0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it may end meanwhile
            total += child.memory_full_info().uss
    return total


def _parsed(name: str) -> tuple[str, int]:
    """Kind and index; the kind is empty where the name is not one of a device."""
    found = re.fullmatch(r"([a-z]+)(?::([0-9]{1,9}))?", name)
    return (found[1], int(found[2] or 0)) if found else ("", 0)


def is_device(name: str) -> bool:
    """Whether the name is a known kind with an optional index; the machine need not have it."""
    return _parsed(name)[0] in DEVICES


def seen_devices() -> list[str]:
    """Names of all devices that this machine seems to have, found without torch: `cpu` first."""
    return [kind(index).name for kind in DEVICES.values() for index in range(kind.seen())]
