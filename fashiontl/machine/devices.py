"""Where a case runs: what is here and why not, how to wait for it, and what it remembers of its memory.

The table can be read without torch; each function imports it when it is first called.
"""

import os
import platform
import re
import resource
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fashiontl.machine import nvml

if TYPE_CHECKING:
    from torch.profiler import ProfilerActivity


@dataclass(frozen=True)
class Memory:
    """Bytes, each under its own name; None where the device has no such figure.

    Attributes:
        peak: the most that was in use: on devices with memory of their own by tensors, on the CPU by the process
            since it began (its resident set's high-water mark).
        reserved: the most that torch's allocator held on the device, in use or not.
        process: what the process held, as the system tells: on the CPU the high-water mark again, on CUDA what the
            driver counts now, with the context and the libraries' workspaces.
    """

    peak: int
    reserved: int | None = None
    process: int | None = None


@dataclass(frozen=True)
class Device:
    """One kind of device.

    Attributes:
        name: what stands before the colon in a device's name.
        title: for people.
        seen: how many of this kind the machine seems to have, told without torch, so that collecting tests stays
            fast. It may be wrong: `absence` decides before anything is measured.
        absence: why device `index` cannot be used, or None; with torch.
        synchronize: waits until all work queued on device `index` has ended.
        mark: notes a point in the queue of device `index`; None where a call has finished when it returns.
        elapsed: seconds between two marks that the device has passed.
        reset_peak: forgets the memory peak of device `index`, as far as that can be forgotten.
        memory: bytes on device `index` at the peak since then.
        facts: accelerator name, driver and library versions, for the environment.
        free: bytes of its own memory that nobody uses on device `index`; None where it has none of its own, or does
            not tell.
        total: bytes of its own memory on device `index`; None for a kind of which a machine never has a second.
    """

    name: str
    title: str
    seen: Callable[[], int]
    absence: Callable[[int], str | None]
    synchronize: Callable[[int], None]
    reset_peak: Callable[[int], None]
    memory: Callable[[int], Memory]
    facts: Callable[[int], dict[str, str | None]]
    mark: Callable[[int], Any] | None = None
    elapsed: Callable[[Any, Any], float] | None = None
    free: Callable[[int], int | None] = lambda index: None
    total: Callable[[int], int] | None = None


def split(device: str) -> tuple[str, int]:
    """Kind and index of a device's name.

    >>> split("cuda:1"), split("cpu")
    (('cuda', 1), ('cpu', 0))
    """
    kind, _, index = device.partition(":")
    return kind, int(index or 0)


def is_device(name: str) -> bool:
    """Whether the name is a known kind with an optional index (the machine need not have it)."""
    return re.fullmatch(r"[a-z]+(:\d+)?", name) is not None and split(name)[0] in DEVICES and name != "cpu:0"


def seen_devices() -> list[str]:
    """Names of all devices that this machine seems to have, told without torch: `cpu` first."""
    names = []
    for kind, device in DEVICES.items():
        names += [kind if index == 0 else f"{kind}:{index}" for index in range(device.seen())]
    return names


def absence(device: str) -> str | None:
    """Why a device cannot be used here, or None when it can."""
    kind, index = split(device)
    return DEVICES[kind].absence(index)


def synchronize(device: str) -> None:
    """Wait until all work queued on the device has ended."""
    kind, index = split(device)
    DEVICES[kind].synchronize(index)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; any other RuntimeError is not one.

    torch's CPU allocator raises a plain RuntimeError, so its own words decide there.
    """
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)


def profiler_activities(device: str) -> "list[ProfilerActivity]":
    """What torch's profiler should watch for this device."""
    from torch.profiler import ProfilerActivity

    own = {"cuda": [ProfilerActivity.CUDA], "xpu": [ProfilerActivity.XPU]}
    return [ProfilerActivity.CPU, *own.get(split(device)[0], [])]


def _nothing(index: int) -> None:
    del index


def _process_memory(index: int) -> Memory:
    del index
    # ru_maxrss is in KiB on Linux and in bytes on macOS (getrusage(2) of each).
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Memory(peak, process=peak)


def _nvidia_seen() -> int:
    if "+cpu" in version("torch"):
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([entry for entry in visible.split(",") if entry.strip() not in {"", "-1"}])
    count = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return count or int(shutil.which("nvidia-smi") is not None)


def _cuda_absence(index: int) -> str | None:
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} was built without CUDA; install a CUDA build of torch"
    if not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU; check the driver with nvidia-smi"
    if index >= torch.cuda.device_count():
        return f"cuda:{index} asked for, this machine has {torch.cuda.device_count()} (counted from 0)"
    return None


def _cuda_synchronize(index: int) -> None:
    import torch

    torch.cuda.synchronize(index)


def _cuda_reset_peak(index: int) -> None:
    import torch

    torch.cuda.reset_peak_memory_stats(index)


def _cuda_memory(index: int) -> Memory:
    import torch

    gpu = nvml.find(index)
    return Memory(
        torch.cuda.max_memory_allocated(index),
        torch.cuda.max_memory_reserved(index),
        gpu.own_bytes() if gpu else None,
    )


def _cuda_free(index: int) -> int:
    import torch

    free, _ = torch.cuda.mem_get_info(index)
    return free


def _cuda_total(index: int) -> int:
    import torch

    return int(torch.cuda.get_device_properties(index).total_memory)


def _cuda_mark(index: int) -> Any:
    import torch

    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(index))
    return event


def _between_events(before: Any, after: Any) -> float:
    return float(before.elapsed_time(after)) / 1e3


def _cuda_facts(index: int) -> dict[str, str | None]:
    import torch

    # The public route to the driver's version is NVML, which not every machine has.
    driver = Path("/proc/driver/nvidia/version")
    found = (
        re.search(r"Kernel Module\D*([\d.]+)", driver.read_text(encoding="utf-8", errors="replace"))
        if driver.exists()
        else None
    )
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return {
        "accelerator": torch.cuda.get_device_name(index),
        "driver": found.group(1) if found else None,
        "cuda": torch.version.cuda or torch.version.hip,
        "cudnn": None if cudnn is None else str(cudnn),
    }


def _mps_seen() -> int:
    return int(sys.platform == "darwin" and platform.machine() == "arm64")


def _mps_absence(index: int) -> str | None:
    import torch

    if not torch.backends.mps.is_built():
        return f"torch {torch.__version__} was built without MPS; it needs macOS on Apple silicon"
    if not torch.backends.mps.is_available():
        return "MPS is built in but not available; it needs macOS 12.3 or later"
    return f"mps:{index} asked for, there is only mps" if index else None


def _mps_synchronize(index: int) -> None:
    import torch

    del index
    torch.mps.synchronize()


def _mps_memory(index: int) -> Memory:
    import torch

    del index
    # Metal keeps no high-water mark; what the driver holds at the end is a lower bound, as its allocator caches.
    held = torch.mps.driver_allocated_memory()
    return Memory(held, reserved=held)


def _mps_mark(index: int) -> Any:
    import torch

    del index
    event = torch.mps.event.Event(enable_timing=True)
    event.record()
    return event


def _xpu_seen() -> int:
    return int("+xpu" in version("torch"))


def _xpu_absence(index: int) -> str | None:
    import torch

    if not torch.xpu.is_available():
        return f"torch {torch.__version__} sees no Intel GPU; it needs torch's XPU build and Intel's driver"
    if index >= torch.xpu.device_count():
        return f"xpu:{index} asked for, this machine has {torch.xpu.device_count()} (counted from 0)"
    return None


def _xpu_synchronize(index: int) -> None:
    import torch

    torch.xpu.synchronize(index)


def _xpu_reset_peak(index: int) -> None:
    import torch

    torch.xpu.reset_peak_memory_stats(index)


def _xpu_memory(index: int) -> Memory:
    import torch

    return Memory(int(torch.xpu.max_memory_allocated(index)), int(torch.xpu.max_memory_reserved(index)))


def _xpu_mark(index: int) -> Any:
    import torch

    event = torch.xpu.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.xpu.current_stream(index))
    return event


def _xpu_total(index: int) -> int:
    import torch

    return int(torch.xpu.get_device_properties(index).total_memory)


def _xpu_facts(index: int) -> dict[str, str | None]:
    import torch

    return {"accelerator": torch.xpu.get_device_name(index)}


_ALL = (
    Device(
        name="cpu",
        title="CPU",
        seen=lambda: 1,
        absence=lambda index: f"cpu:{index} asked for, there is only cpu" if index else None,
        synchronize=_nothing,
        reset_peak=_nothing,
        memory=_process_memory,
        facts=lambda index: {},
    ),
    Device(
        name="cuda",
        title="NVIDIA GPU (or AMD's, through ROCm)",
        seen=_nvidia_seen,
        absence=_cuda_absence,
        synchronize=_cuda_synchronize,
        reset_peak=_cuda_reset_peak,
        memory=_cuda_memory,
        mark=_cuda_mark,
        elapsed=_between_events,
        facts=_cuda_facts,
        free=_cuda_free,
        total=_cuda_total,
    ),
    Device(
        name="mps",
        title="Apple silicon GPU",
        seen=_mps_seen,
        absence=_mps_absence,
        synchronize=_mps_synchronize,
        reset_peak=_nothing,
        memory=_mps_memory,
        mark=_mps_mark,
        elapsed=_between_events,
        facts=lambda index: {"accelerator": "Apple " + platform.processor()},
    ),
    Device(
        name="xpu",
        title="Intel GPU",
        seen=_xpu_seen,
        absence=_xpu_absence,
        synchronize=_xpu_synchronize,
        reset_peak=_xpu_reset_peak,
        memory=_xpu_memory,
        mark=_xpu_mark,
        elapsed=_between_events,
        facts=_xpu_facts,
        total=_xpu_total,
    ),
)

DEVICES: dict[str, Device] = {device.name: device for device in _ALL}
