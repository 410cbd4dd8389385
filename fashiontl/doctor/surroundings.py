"""The state of the machine, and what is here of what fashiontl can use."""

import os
import shutil
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fashiontl.core.errors import user_path
from fashiontl.data.sources import candidates
from fashiontl.doctor.findings import Line, Section
from fashiontl.machine.conditions import Observation, ThrottleDetector
from fashiontl.machine.devices import DEVICES, Cpu, Device
from fashiontl.machine.environment import choose_threads, governor, omp_threads, turbo
from fashiontl.machine.nvml import GpuConditions
from fashiontl.runner.cell import cache_folder
from fashiontl.runner.client import Worker, why_unavailable
from fashiontl.runner.messages import DEVICE, DeviceJob

_CPUS = Path("/sys/devices/system/cpu")
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
    """The state of the machine around the examination of a device."""
    before, after = observed.before, observed.after
    reads = ThrottleDetector(device).reads
    blind = "" if reads else "slow-downs by heat or a quota go unnoticed here"
    stopped = _between(before.throttled_seconds, after.throttled_seconds)
    return (
        _read("load average before", before.load, "{:.2f} on " + f"{os.cpu_count()} cores"),
        *_cores(after.usable_cores),
        _read("stopped by the quota", stopped, "{:.2f} s meanwhile"),
        _read("slowed down by heat", after.core_throttles, "{:.0f} times since boot"),
        _read("temperature", after.cpu_celsius, "{:.0f} °C"),
        _read("clock", after.cpu_hertz, "{:.2f} GHz", 1e-9),
        _read("stolen by the hypervisor", _between(before.steal_seconds, after.steal_seconds), "{:.2f} s meanwhile"),
        _read("available memory", after.available_bytes, "{:.1f} GiB", 2.0**-30),
        *_clock_control(),
        Line("observed while timing", ", ".join(reads) or "nothing", "note" if blind else "ok", blind),
        *(_gpu(after.gpu) if after.gpu else ()),
        *(Line("meanwhile", each, "note", "numbers may be worse than this box can do") for each in observed.warnings),
    )


def equipment(worker: Worker, results: Path, progress: Callable[[str], None]) -> list[Section]:
    """What is here of what fashiontl can use, and what is missing."""
    progress("looking around")
    return [
        Section("devices", tuple(_device(worker, name, title.title) for name, title in DEVICES.items())),
        Section("data and weights", tuple(_data())),
        Section("extras", (*map(_package, _PACKAGES), _rapl())),
        Section("disk", (_disk("cache", cache_folder(), "FASHIONTL_CACHE"), _disk("results", results, "--results"))),
    ]


def _read(name: str, value: float | None, form: str, scale: float = 1.0) -> Line:
    if value is None:
        return Line(name, "not readable", "note", "unknown here, so nothing warns of it")
    return Line(name, form.format(value * scale))


def _between(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _cores(usable: float) -> Iterable[Line]:
    advice = "" if usable == int(usable) else "a quota that ends within a core stops threads; ask for whole cores"
    yield Line("usable cores", f"{usable:g} of {os.cpu_count()}", "note" if advice else "ok", advice)
    threads = choose_threads()
    value, variable = f"{threads.count} by {threads.limit}", os.environ.get("OMP_NUM_THREADS", "")
    if variable and omp_threads() is None:
        error = f"expected OMP_NUM_THREADS of 1 or more, got {variable!r}, which is ignored; set it anew"
        yield Line("threads", value, "note", error)
    else:
        yield Line("threads", value, advice=threads.reason)


def _clock_control() -> Iterable[Line]:
    name, is_on = governor(_CPUS), turbo(_CPUS)
    if name is None:
        yield _read("governor", None, "")
    elif name == "performance":
        yield Line("governor", name)
    else:
        advice = "clocks follow the load; cpupower frequency-set -g performance (as root)"
        yield Line("governor", name, "note", advice)
    if is_on is None:
        yield _read("turbo", None, "")
    elif not is_on:
        yield Line("turbo", "off")
    else:
        yield Line("turbo", "on", "note", "clocks depend on heat and on how many cores work; steadier and slower off")


def _gpu(state: GpuConditions) -> Iterable[Line]:
    yield _read("GPU clock", state.sm_hertz, "{:.2f} GHz", 1e-9)
    yield _read("GPU temperature", state.celsius, "{:.0f} °C")
    yield _read("GPU power", state.watts, "{:.0f} W")
    for name, found in (("clocks held down by", state.throttle_reasons), ("others", state.foreign_processes)):
        yield _read(f"GPU {name}", None, "") if found is None else Line(f"GPU {name}", ", ".join(found) or "nothing")


def _device(worker: Worker, name: str, title: str) -> Line:
    outcome = worker.run(DEVICE, DeviceJob(name), _TIMEOUT)
    reason = why_unavailable(outcome)
    return Line(name, "absent", "note", reason) if reason else Line(name, title)


def _data() -> Iterable[Line]:
    original = next((str(source.path) for source in candidates()[1:] if source.available), "")
    # What torch.hub.get_dir says.
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    folder = user_path(os.environ.get("TORCH_HOME", f"{cache}/torch")) / "hub" / "checkpoints"
    count = len(list(folder.glob("*.pth")))
    for name, value, option in (
        ("original images", original, "--set data=original"),
        ("ImageNet weights", f"{count} files in {folder}" if count else "", "--weights imagenet"),
    ):
        if value:
            yield Line(name, value, advice=option)
        else:
            yield Line(name, "absent", "note", f"downloaded by {option}")


def _package(entry: tuple[str, str, str]) -> Line:
    package, extra, purpose = entry
    try:
        return Line(package, version(package), advice=purpose)
    except PackageNotFoundError:
        return Line(package, "absent", "note", f"for {purpose}: pip install 'fashiontl[{extra}]'")


def _rapl() -> Line:
    if Cpu().energy_counter():
        return Line("RAPL", "readable", advice="energy of the CPU")
    advice = "for energy of the CPU; if it has one: chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj (as root)"
    return Line("RAPL", "not readable", "note", advice)


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
