"""What state this box is in, and what is here of what fashiontl can use."""

import os
import shutil
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fashiontl.core.errors import user_path
from fashiontl.data.sources import candidates
from fashiontl.doctor.findings import Line, Section
from fashiontl.machine.conditions import Observation, ThrottleDetector
from fashiontl.machine.devices import DEVICES, Cpu, Device
from fashiontl.machine.environment import choose_threads, omp_threads, text_of
from fashiontl.machine.nvml import GpuConditions
from fashiontl.runner.cell import cache_folder
from fashiontl.runner.client import Worker
from fashiontl.runner.messages import DEVICE, DeviceJob

_CPUS = Path("/sys/devices/system/cpu")
_POWERCAP = Path("/sys/class/powercap")
_TIMEOUT = 120.0
# A set of ImageNet weights is up to half of it; records and traces of a run are some ten megabytes.
_LEAST_FREE = 2 * 2**30

_PACKAGES = (
    ("nvidia-ml-py", "nvidia", "temperature, throttling and energy of NVIDIA GPUs"),
    ("torch-tb-profiler", "tensorboard", "traces in TensorBoard"),
    ("pytest-xdist", "parallel", "several devices at the same time (-n)"),
    ("peft", "lora", "policy lora"),
    ("timm", "timm", "architectures timm/NAME"),
)


def conditions(device: Device, observed: Observation) -> tuple[Line, ...]:
    """The state of the box around the examination of a device."""
    before, after = observed.before, observed.after
    stopped = steal = None
    if before.throttled_seconds is not None and after.throttled_seconds is not None:
        stopped = after.throttled_seconds - before.throttled_seconds
    if before.steal_seconds is not None and after.steal_seconds is not None:
        steal = after.steal_seconds - before.steal_seconds
    reads = ThrottleDetector(device).reads
    blind = "" if reads else "slow-downs by heat or a quota go unnoticed here"
    return (
        _read("load average before", before.load, "{:.2f} on " + f"{os.cpu_count()} cores"),
        _cores(after.usable_cores),
        _threads(),
        _read("stopped by the quota", stopped, "{:.2f} s meanwhile"),
        _read("slowed down by heat", after.core_throttles, "{:.0f} times since boot"),
        _read("temperature", after.cpu_celsius, "{:.0f} °C"),
        _read("clock", after.cpu_hertz, "{:.2f} GHz", 1e-9),
        _read("stolen by the hypervisor", steal, "{:.2f} s meanwhile"),
        _read("available memory", after.available_bytes, "{:.1f} GiB", 2.0**-30),
        _governor(),
        _turbo(),
        Line("observed while timing", ", ".join(reads) or "nothing", "note" if blind else "ok", blind),
        *_gpu(after.gpu),
        *(Line("meanwhile", each, "note", "numbers may be worse than this box can do") for each in observed.warnings),
    )


def equipment(worker: Worker, results: Path, progress: Callable[[str], None]) -> list[Section]:
    """What is here of what fashiontl can use, and what its absence means."""
    progress("looking around")
    return [
        Section("devices", tuple(_device(worker, name, title.title) for name, title in DEVICES.items())),
        Section("data and weights", tuple(_data())),
        Section("extras", (*map(_package, _PACKAGES), _compiler(), _rapl())),
        Section("disk", (_disk("cache", cache_folder(), "FASHIONTL_CACHE"), _disk("results", results, "--results"))),
    ]


def _read(name: str, value: float | None, form: str, scale: float = 1.0) -> Line:
    if value is None:
        return Line(name, "not readable", "note", "unknown here, so nothing warns of it")
    return Line(name, form.format(value * scale))


def _cores(usable: float) -> Line:
    value = f"{usable:g} of {os.cpu_count()}"
    if usable == int(usable):
        return Line("usable cores", value)
    return Line("usable cores", value, "note", "a quota that ends within a core stops threads; ask for whole cores")


def _threads() -> Line:
    threads = choose_threads()
    value, variable = f"{threads.count} by {threads.limit}", os.environ.get("OMP_NUM_THREADS", "")
    if variable and omp_threads() is None:
        fault = f"expected OMP_NUM_THREADS of 1 or more, got {variable!r}, which is ignored; set it anew"
        return Line("threads", value, "note", fault)
    return Line("threads", value, advice=threads.reason)


def _governor() -> Line:
    name, governor = "governor", text_of(_CPUS / "cpu0" / "cpufreq" / "scaling_governor")
    if governor is None:
        return Line(name, "not readable", "note", "whether clocks follow the load is unknown")
    if governor == "performance":
        return Line(name, governor)
    return Line(name, governor, "note", "clocks follow the load; cpupower frequency-set -g performance (as root)")


def _turbo() -> Line:
    # Intel's driver says whether it is off, the others whether it is on.
    off, on = text_of(_CPUS / "intel_pstate" / "no_turbo"), text_of(_CPUS / "cpufreq" / "boost")
    if off is None and on is None:
        return Line("turbo", "not readable", "note", "whether clocks depend on heat is unknown")
    if off == "1" or on == "0":
        return Line("turbo", "off")
    return Line("turbo", "on", "note", "clocks depend on heat and on how many cores work; off is steadier, and slower")


def _gpu(state: GpuConditions | None) -> Iterable[Line]:
    if state is None:
        return
    yield _read("GPU clock", state.sm_hertz, "{:.2f} GHz", 1e-9)
    yield _read("GPU temperature", state.celsius, "{:.0f} °C")
    yield _read("GPU power", state.watts, "{:.0f} W")
    reasons, others = state.throttle_reasons, state.foreign_processes
    yield Line("GPU clocks held down by", "not readable" if reasons is None else ", ".join(reasons) or "nothing")
    if others is None:
        yield _read("others on the GPU", None, "")
    else:
        yield Line("others on the GPU", ", ".join(others) or "nobody", "note" if others else "ok")


def _device(worker: Worker, name: str, title: str) -> Line:
    outcome = worker.run(DEVICE, DeviceJob(name), _TIMEOUT)
    reason = outcome.result.unavailable if outcome.result else outcome.reason
    return Line(name, "absent", "note", reason) if reason else Line(name, title)


def _data() -> Iterable[Line]:
    embedded, *others = candidates()
    yield Line("embedded images", embedded.reason, advice="--set data=embedded, the default preset's")
    found = next((source for source in others if source.available), None)
    if found:
        yield Line("original images", str(found.path), advice="--set data=original")
    else:
        yield Line("original images", "not here", "note", "downloaded by --set data=original, or see fashiontl list")
    folder = _hub() / "checkpoints"
    count = len(list(folder.glob("*.pth"))) if folder.is_dir() else 0
    if count:
        yield Line("ImageNet weights", f"{count} files in {folder}", advice="--weights imagenet")
    else:
        yield Line("ImageNet weights", f"none in {folder}", "note", "downloaded by --weights imagenet")


def _hub() -> Path:
    """Where torch keeps downloads, as `torch.hub.get_dir` says."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return user_path(os.environ.get("TORCH_HOME", f"{cache}/torch")) / "hub"


def _package(entry: tuple[str, str, str]) -> Line:
    package, extra, purpose = entry
    try:
        return Line(package, version(package), advice=purpose)
    except PackageNotFoundError:
        return Line(package, "absent", "note", f"for {purpose}: pip install 'fashiontl[{extra}]'")


def _compiler() -> Line:
    # As torch's inductor looks for it.
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    path = shutil.which(name)
    if path is None:
        return Line("C++ compiler", f"no {name}", "note", "for --execution compile on the CPU: install it, or set CXX")
    return Line("C++ compiler", path, advice="--execution compile on the CPU")


def _rapl() -> Line:
    if Cpu().energy_counter():
        return Line("RAPL", "readable", advice="energy of the CPU")
    if any(_POWERCAP.glob("intel-rapl:*")):
        advice = f"for energy of the CPU: chmod a+r {_POWERCAP}/intel-rapl:*/energy_uj (as root)"
        return Line("RAPL", "not readable", "note", advice)
    return Line("RAPL", "absent", "note", "for energy of the CPU; virtual machines seldom have it")


def _disk(name: str, folder: Path, option: str) -> Line:
    folder = folder.absolute()
    existing = next(place for place in (folder, *folder.parents) if place.is_dir())
    free = shutil.disk_usage(existing).free
    value = f"{free / 2**30:.1f} GiB free at {folder}"
    if not os.access(existing, os.W_OK):
        return Line(name, value, "bad", f"cannot be written; name another with {option}")
    if free < _LEAST_FREE:
        return Line(name, value, "note", f"make room, or name another with {option}")
    return Line(name, value)
