"""The fingerprint of a machine, and the short key under which its runs are filed. No torch."""

import functools
import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fashiontl import __version__

# Raise it when numbers change their meaning though the code under test did not: it is part of the machine key, so
# that numbers taken before and after are never compared.
PROTOCOL = 3

# What must be equal for two machines' numbers to be comparable. Memory, load, the operating system's release and the
# commit are recorded only: they explain a number, and most change from one day to the next.
_HARD = (
    "accelerator", "driver", "cuda", "cudnn", "torch", "torchvision", "python", "cpu", "usable_cores", "threads",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Environment:
    """Where and with what a case was measured; None is unknown or absent.

    Attributes:
        python: version of the interpreter.
        torch: version of torch.
        torchvision: version of torchvision.
        fashiontl: version of this package.
        git_sha: commit of the current directory.
        git_dirty: whether its tracked files differ from that commit, those below `results` aside.
        os: operating system, release and architecture.
        cpu: model of the CPU.
        logical_cores: of the machine.
        usable_cores: of this process: its CPU affinity and its control group's quota, which may be a fraction.
        threads: CPU threads of the measured process.
        memory: bytes that this process may use: the machine's, or its control group's limit.
        accelerator: name of the accelerator; with MIG it names the slice.
        driver: version of the accelerator's driver.
        cuda: version of CUDA (or ROCm) that torch was built with.
        cudnn: version of cuDNN.
        load: load average of the last minute, in runnable processes, when the case started.
    """

    python: str
    torch: str | None
    torchvision: str | None
    fashiontl: str
    git_sha: str | None
    git_dirty: bool | None
    os: str
    cpu: str
    logical_cores: int
    usable_cores: float
    threads: int
    memory: int | None
    accelerator: str | None
    driver: str | None
    cuda: str | None
    cudnn: str | None
    load: float | None


def read_environment(accelerator: Mapping[str, str | None] | None = None, *, threads: int) -> Environment:
    """Read the fingerprint of this machine and process.

    Args:
        accelerator: `accelerator`, `driver`, `cuda` and `cudnn`, as far as known; only a process with torch knows.
        threads: CPU threads of the measured process.
    """
    facts = accelerator or {}
    sha, dirty = _git(Path.cwd())
    return Environment(
        python=platform.python_version(),
        torch=_version("torch"),
        torchvision=_version("torchvision"),
        fashiontl=__version__,
        git_sha=sha,
        git_dirty=dirty,
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=_cpu(),
        logical_cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        threads=threads,
        memory=_memory(),
        accelerator=facts.get("accelerator"),
        driver=facts.get("driver"),
        cuda=facts.get("cuda"),
        cudnn=facts.get("cudnn"),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    )


def machine_key(environment: Environment) -> str:
    """Name of the machine as far as its numbers depend on it; safe in paths and URLs.

    Two environments have one key exactly when their hard facts are equal: accelerator, driver, CUDA, cuDNN, torch,
    torchvision, Python, CPU model, usable cores, threads, and the version of the measuring protocol.

    Returns:
        The accelerator's or CPU's name, the cores, the threads, and a hash of all hard facts, such as
        `amd-epyc-2c-2t-5c0f9d3e`.
    """
    facts = [str(PROTOCOL), *(str(getattr(environment, name)) for name in _HARD)]
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]
    name = re.sub(r"[^a-z0-9]+", "-", (environment.accelerator or environment.cpu).lower()).strip("-")[:40]
    return f"{name}-{environment.usable_cores:g}c-{environment.threads}t-{digest}"


@functools.cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@functools.cache
def _git(folder: Path) -> tuple[str | None, bool | None]:
    """Commit and dirtiness, asked once a process: the code that is measured was imported at its start."""
    sha = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    if sha is None:
        return None, None
    # Untracked files do not count, as in `git describe --dirty`; nor does the leaderboard that each run rewrites.
    changes = _output(
        "git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)results"
    )
    return sha, None if changes is None else bool(changes)


def _output(*command: str) -> str | None:
    """What a command prints; None when it is absent, fails or hangs."""
    # Without optional locks, `git status` cannot get in the way of a git command that the user gives meanwhile.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=True, env=environment)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()


@functools.cache
def _cpu() -> str:
    if platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    try:
        found = re.search(
            r"^model name\s*:\s*(\S.*)$",
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"),
            re.MULTILINE,
        )
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def usable_cores() -> float:
    """CPU cores that this process may keep busy: its affinity and the quotas of its control groups."""
    # sched_getaffinity exists on Linux only.
    allowed = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quotas = []
    for folder in control_groups():
        # Version 2: "QUOTA PERIOD" in one file, "max" for none. Version 1: two files, -1 for none.
        numbers = (text_of(folder / "cpu.max") or "").split() or [
            text_of(folder / "cpu.cfs_quota_us") or "",
            text_of(folder / "cpu.cfs_period_us") or "",
        ]
        if all(number.isdecimal() for number in numbers):
            quotas.append(int(numbers[0]) / int(numbers[1]))
    return min([allowed, *quotas])


def _memory() -> int | None:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    limits = [
        text_of(folder / name) or "" for folder in control_groups() for name in ("memory.max", "memory.limit_in_bytes")
    ]
    return min([total, *(int(limit) for limit in limits if limit.isdecimal())])


def control_groups(mount: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> list[Path]:
    """Folders whose limits bind this process: of its control groups and of all groups above them (cgroups(7)).

    Args:
        mount: where control groups are mounted; version 1 has a folder for each controller there.
        membership: the kernel's list of this process's groups, lines of `number:controllers:/path`.
    """
    folders = []
    for line in (text_of(membership) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if not set(controllers.split(",")) & {"", "cpu", "memory"}:
            continue
        top = mount / controllers
        group = top / path.lstrip("/")
        folders += [folder for folder in (group, *group.parents) if folder.is_relative_to(top) and folder.is_dir()]
    return folders


def text_of(path: Path) -> str | None:
    """Contents of a small file of the kernel's, without space around them; None when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
