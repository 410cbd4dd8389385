"""The fingerprint of a machine, and the short key under which its runs are filed. No torch."""

import functools
import hashlib
import math
import os
import platform
import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import psutil
from msgspec import Meta

from fashiontl import __version__

# Raise it when numbers change their meaning though the code under test did not: it is part of the machine key, so
# that numbers taken before and after are never compared.
PROTOCOL = 4

# What must be equal for two machines' numbers to be comparable, besides `variables`. Memory, load, the operating
# system's release, its settings of clocks and pages, and the commit are recorded only: they explain a number, and most
# change from one day to the next.
_HARD = (
    "accelerator", "driver", "cuda", "cudnn", "torch", "torchvision", "python", "cpu", "usable_cores", "threads",
)  # fmt: skip


_CPUS = Path("/sys/devices/system/cpu")
_Cores = Annotated[int, Meta(ge=1, le=10**6)]


@dataclass(frozen=True, slots=True)
class Environment:
    """Where and with what a case was measured; None is unknown or absent.

    Attributes:
        git_sha: commit of the current directory.
        git_dirty: whether its tracked files differ from that commit, those below `results` aside.
        usable_cores: by this process's CPU affinity and its control group's quota, which may be a fraction.
        memory: bytes that this process may use: the machine's, or its control group's limit.
        accelerator: with MIG it names the slice.
        cuda: version of CUDA (or ROCm) that torch was built with.
        load: load average of the last minute, in runnable processes, when the case started.
        threads_limit: as in `Threads.limit`.
        variables: environment variables of the workers that can change what is measured, each as `NAME=value`: how
            long OpenMP's threads spin, the allocator's thresholds, what is preloaded (`fashiontl.runner.variables` has
            the rule).
        removed_variables: names of those that the caller had set and that the workers do not get, or not so.
        openmp: the library that torch brings: GNU's `libgomp`, LLVM's `libomp` or Intel's `libiomp5`, whose threads
            wait for work in ways of their own where `OMP_WAIT_POLICY` does not say how.
        libc: the C library, whose allocator it is, and its version.
        huge_pages: what the kernel does with transparent huge pages, and when it makes room for them.
        governor: of the CPU's clocks; several, with commas, where cores differ.
        turbo: whether clocks above the nominal one are allowed.
        quota: CPU cores that the control groups grant, if they limit them.
        randomised: whether the system gives each process another layout of its memory.
    """

    python: str
    torch: str | None
    torchvision: str | None
    fashiontl: str
    git_sha: str | None
    git_dirty: bool | None
    os: str
    cpu: str
    logical_cores: _Cores
    usable_cores: Annotated[float, Meta(ge=0, le=10**6)]
    threads: _Cores
    memory: Annotated[int, Meta(ge=0, le=10**18)] | None
    accelerator: str | None
    driver: str | None
    cuda: str | None
    cudnn: str | None
    load: Annotated[float, Meta(ge=0, le=10**6)] | None
    threads_limit: str | None = None
    variables: tuple[str, ...] | None = None
    removed_variables: tuple[str, ...] | None = None
    openmp: str | None = None
    libc: str | None = None
    huge_pages: str | None = None
    governor: str | None = None
    turbo: bool | None = None
    quota: Annotated[float, Meta(ge=0, le=10**6)] | None = None
    randomised: bool | None = None


def read_environment(
    accelerator: Mapping[str, str | None] | None = None,
    *,
    threads: int,
    limit: str | None = None,
    variables: Sequence[str] | None = None,
    removed: Sequence[str] | None = None,
) -> Environment:
    """Read the fingerprint of this machine and process.

    Args:
        accelerator: what `Device.facts` returns.
        threads: of each worker.
        limit: `Threads.limit`.
        variables: `fashiontl.runner.variables.recorded` of the workers' environment.
        removed: `fashiontl.runner.variables.removed` of it.
    """
    facts = accelerator or {}
    sha, dirty = _git(Path.cwd())
    return Environment(
        python=platform.python_version(),
        torch=version("torch"),
        torchvision=version("torchvision"),
        fashiontl=__version__,
        git_sha=sha,
        git_dirty=dirty,
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=_cpu(),
        logical_cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        threads=threads,
        memory=_memory(),
        **{name: facts.get(name) for name in ("accelerator", "driver", "cuda", "cudnn")},
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        threads_limit=limit,
        variables=None if variables is None else tuple(variables),
        removed_variables=None if removed is None else tuple(removed),
        openmp=_openmp(),
        libc=c_library(),
        huge_pages=huge_pages(),
        governor=governor(),
        turbo=turbo(),
        quota=None if math.isinf(quota := _quota()) else quota,
        randomised=_randomised(),
    )


def machine_key(environment: Environment) -> str:
    """Name of the machine as far as its numbers depend on it, such as `amd-epyc-2c-2t-5c0f9d3e`; safe in paths.

    It has the accelerator's or CPU's name, the cores, the threads, and a hash of the protocol, of all hard facts and of
    the variables: numbers of another allocator, or of threads that wait in another way, are those of another machine.
    """
    facts = [str(PROTOCOL), *(str(getattr(environment, name)) for name in _HARD)]
    facts += sorted(environment.variables or ())
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]
    name = re.sub(r"[^a-z0-9]+", "-", (environment.accelerator or environment.cpu).lower()).strip("-")[:40]
    return f"{name}-{environment.usable_cores:g}c-{environment.threads}t-{digest}"


@functools.cache
def _git(folder: Path) -> tuple[str | None, bool | None]:
    """Commit and dirtiness, asked once a process: the code that is measured was imported at its start."""
    sha = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    if sha is None:
        return None, None
    # The file system's monitor would be a program that runs on beside what is measured.
    # Untracked files do not count, as in `git describe --dirty`; nor does the leaderboard that each run rewrites.
    changes = _output(
        *("git", "-C", str(folder), "-c", "core.fsmonitor=false", "status", "--porcelain", "--untracked-files=no"),
        *("--", ":/", ":(top,exclude)results"),
    )
    return sha, None if changes is None else bool(changes)


def _output(*command: str) -> str | None:
    """What a command prints; None when it is absent, fails or hangs."""
    # Without optional locks, `git status` cannot get in the way of a git command that the user runs meanwhile.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=True, env=environment)
    except (OSError, subprocess.SubprocessError):
        return None
    # Names of files are bytes of any kind.
    return done.stdout.decode(errors="replace").strip()


@functools.cache
def _cpu() -> str:
    if platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    found = re.search(r"^model name\s*:\s*(\S.*)$", text_of(Path("/proc/cpuinfo")) or "", re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


@dataclass(frozen=True, slots=True)
class Threads:
    """How many CPU threads a measured process has.

    Attributes:
        limit: what decided it: the process's CPU `affinity`, which a cpuset sets too; the number of `physical cores`
            among those CPUs; the `quota` of its control groups; `OMP_NUM_THREADS`; or the `setting` of that name.
        reason: that in words, with the numbers.
    """

    count: int
    limit: Literal["affinity", "physical cores", "quota", "OMP_NUM_THREADS", "setting"]
    reason: str


def choose_threads(asked: int = 0) -> Threads:
    """How many threads to run: as many as the setting `threads` asks for, or as keep this process's own cores busy.

    The latter is the least of four limits; of equal ones the first in the order of `Threads.limit` counts. Two
    threads of one physical core share what computes, and a thread that a quota stops makes the others wait, so a
    quota is rounded down to whole cores, of which there is at least one.
    """
    if asked:
        return Threads(asked, "setting", f"--set threads={asked}")
    allowed, machine, quota = _affinity(), os.cpu_count() or 1, _quota()
    cores, omp = physical_cores(allowed), omp_threads()
    limits = [
        Threads(cores, "physical cores", f"{cores} physical cores among {len(allowed)} CPUs"),
        Threads(max(1, int(min(quota, cores))), "quota", f"the control group's quota of {quota:g} cores"),
        Threads(omp or cores, "OMP_NUM_THREADS", f"OMP_NUM_THREADS={omp}"),
    ]
    if len(allowed) < machine:
        limits.insert(0, Threads(len(allowed), "affinity", f"CPU affinity of {len(allowed)} of {machine} CPUs"))
    return min(limits, key=lambda limit: limit.count)


def usable_cores() -> float:
    """CPU cores that this process may keep busy: its affinity and the quotas of its control groups."""
    return min(float(len(_affinity())), _quota())


def _affinity() -> Collection[int]:
    """Numbers of the CPUs that this process may run on, within the cpusets of its control groups (cpuset(7))."""
    # sched_getaffinity exists on Linux only.
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def physical_cores(allowed: Collection[int], cpus: Path = _CPUS) -> int:
    """How many physical cores some CPUs belong to; a CPU whose core is not in the kernel's folder counts as one."""
    folders = [cpus / f"cpu{cpu}" / "topology" for cpu in allowed]
    # The second is the name before Linux 5.3.
    siblings = [text_of(each / "core_cpus_list") or text_of(each / "thread_siblings_list") for each in folders]
    if any(siblings):
        return len(set(siblings) - {None}) + siblings.count(None)
    # Elsewhere there is no affinity either; in a container that hides the folder, /proc/cpuinfo may say.
    return min(len(allowed), psutil.cpu_count(logical=False) or len(allowed))


def omp_threads() -> int | None:
    """Threads of the outermost level in OMP_NUM_THREADS: 4 of `4,2`; None for what OpenMP ignores."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    # More than eighteen digits are an overflow to OpenMP, which then ignores the variable.
    if not re.fullmatch(r"\s*\+?0*[1-9][0-9]{0,17}\s*(,\s*\+?0*[1-9][0-9]{0,17}\s*)*", value, re.ASCII):
        return None
    return int(value.split(",")[0])


def _quota() -> float:
    """CPU cores of the tightest quota of this process's control groups; infinite without one."""
    quotas = [math.inf]
    for folder in control_groups():
        # Version 2: "QUOTA PERIOD" in one file, "max" for none. Version 1: two files, -1 for none.
        numbers = (text_of(folder / "cpu.max") or "").split() or [
            text_of(folder / "cpu.cfs_quota_us") or "",
            text_of(folder / "cpu.cfs_period_us") or "",
        ]
        if len(numbers) == 2 and all(re.fullmatch("[0-9]*[1-9][0-9]*", number) for number in numbers):
            quotas.append(int(numbers[0]) / int(numbers[1]))
    return min(quotas)


def _memory() -> int:
    limits = [
        text_of(folder / name) or "" for folder in control_groups() for name in ("memory.max", "memory.limit_in_bytes")
    ]
    return min([psutil.virtual_memory().total, *(int(limit) for limit in limits if limit.isdecimal())])


@functools.cache
def _openmp() -> str | None:
    torch = find_spec("torch")
    folders = [Path(folder) for folder in (torch.submodule_search_locations or ())] if torch else []
    found = {
        name
        for folder in folders
        for place in (folder / "lib", folder.parent / "torch.libs")
        for name in ("libgomp", "libiomp5", "libomp")
        if any(place.glob(f"{name}[.-]*"))
    }
    return ", ".join(sorted(found)) or None


@functools.cache
def c_library() -> str | None:
    """The C library of this interpreter: `glibc 2.36`, `musl 1.2.5`."""
    # platform.libc_ver searches the interpreter for texts, and finds glibc's alone.
    if hasattr(os, "confstr") and "CS_GNU_LIBC_VERSION" in os.confstr_names:
        with suppress(OSError, ValueError):
            if text := os.confstr("CS_GNU_LIBC_VERSION"):
                return text
    loaders = [path for folder in ("/lib", "/usr/lib") for path in Path(folder).glob("ld-musl-*")]
    if platform.system() == "Linux" and loaders:
        # Run by itself it says what it is, on standard error, and ends with 1.
        with suppress(OSError, subprocess.SubprocessError):
            said = subprocess.run([loaders[0]], capture_output=True, timeout=10, check=False).stderr
            if found := re.search(r"Version (\S+)", said.decode(errors="replace")):
                return f"musl {found[1]}"
        return "musl"
    return f"{platform.system()} {platform.release()}" if platform.system() == "Darwin" else None


def huge_pages(folder: Path = Path("/sys/kernel/mm/transparent_hugepage")) -> str | None:
    """What the kernel does with transparent huge pages: `madvise, defrag madvise`."""
    chosen = [re.search(r"\[(\S+)\]", text_of(folder / name) or "") for name in ("enabled", "defrag")]
    if chosen[0] is None:
        return None
    return chosen[0][1] + (f", defrag {chosen[1][1]}" if chosen[1] else "")


def governor(cpus: Path = _CPUS) -> str | None:
    """What decides on the clocks of the cores; None where they cannot be seen, as in most virtual machines."""
    found = {text_of(path) for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return ", ".join(sorted(name for name in found if name)) or None


def turbo(cpus: Path = _CPUS) -> bool | None:
    """Whether clocks above the nominal one are allowed."""
    # Intel's driver says whether turbo is off, the others whether it is on.
    off, on = text_of(cpus / "intel_pstate" / "no_turbo"), text_of(cpus / "cpufreq" / "boost")
    if off is None and on is None:
        return None
    return off == "0" if off is not None else on == "1"


def _randomised() -> bool | None:
    """Whether layouts of memory differ from process to process: by the system and by this process's personality(2)."""
    system, own = text_of(Path("/proc/sys/kernel/randomize_va_space")), text_of(Path("/proc/self/personality"))
    if system is None or not system.isdecimal():
        return None
    address_not_randomised = 0x0040000
    with suppress(ValueError):
        if own and int(own, 16) & address_not_randomised:
            return False
    return system != "0"


def control_groups(mount: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> list[Path]:
    """Folders whose limits apply to this process: of its control groups and of all groups above them (cgroups(7)).

    `membership` has lines of `number:controllers:/path`; version 1 has a folder for each controller in `mount`.
    """
    folders = []
    # Names of control groups are bytes of any kind.
    for line in (text_of(membership, "surrogateescape") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        wanted = set(controllers.split(",")) & {"", "cpu", "memory"}
        # Several of version 1 share a folder, which is named in another order on some systems, with a link for each.
        places = [mount / controllers, *(mount / name for name in sorted(wanted))] if wanted else []
        for top in [place for place in places if place.is_dir()][:1]:
            group = top / path.lstrip("/")
            folders += [folder for folder in (group, *group.parents) if folder.is_relative_to(top) and folder.is_dir()]
    return folders


def text_of(path: Path, errors: str = "replace") -> str | None:
    """Contents of a small file, stripped; None when it cannot be read. `errors` is as in `bytes.decode`."""
    try:
        return path.read_text(encoding="utf-8", errors=errors).strip()
    except OSError:
        return None
