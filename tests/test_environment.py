import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import LAPTOP, SERVER

from fashiontl.machine import environment as module
from fashiontl.machine.environment import Environment, choose_threads, machine_key, read_environment

HARD = ("accelerator", "driver", "cuda", "cudnn", "torch", "torchvision", "python", "cpu")
SOFT = {
    "fashiontl": "9.9", "git_sha": None, "git_dirty": True, "os": "Linux 7", "logical_cores": 99, "memory": None,
    "load": 64.0, "threads_limit": "quota", "removed_variables": ("OMP_DYNAMIC",), "openmp": "libiomp5",
    "libc": "musl 1.2.5", "huge_pages": "always", "governor": "powersave", "turbo": False, "quota": 1.5,
    "randomised": False,
}  # fmt: skip


def test_reads_this_machine() -> None:
    facts = {"accelerator": "NVIDIA H100", "driver": "580.65.06", "cuda": "13.0", "cudnn": None}
    environment = read_environment(facts, threads=3)
    assert {name: getattr(environment, name) for name in (*facts, "threads")} == {**facts, "threads": 3}
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", environment.python)
    assert environment.torch
    assert 0 < environment.usable_cores <= environment.logical_cores
    assert environment.memory is None or environment.memory > 2**26
    assert environment.cpu


def test_key_is_stable() -> None:
    """A key that changed without need would make all stored results of all machines incomparable."""
    assert machine_key(LAPTOP) == "amd-epyc-7763-2c-2t-fab27dcd"
    assert machine_key(SERVER) == "nvidia-h100-80gb-hbm3-16c-16t-d59b94a2"


@pytest.mark.parametrize("name", [*HARD, "usable_cores", "threads"])
def test_hard_facts_change_the_key(name: str) -> None:
    changed: object = 1.5 if name == "usable_cores" else 7 if name == "threads" else "other"
    assert machine_key(dataclasses.replace(SERVER, **{name: changed})) != machine_key(SERVER)


def test_soft_facts_do_not_change_the_key() -> None:
    assert machine_key(dataclasses.replace(SERVER, **SOFT)) == machine_key(SERVER)
    fields = {field.name for field in dataclasses.fields(Environment)}
    assert fields == {*SOFT, *HARD, "usable_cores", "threads", "variables"}


def test_variables_change_the_key() -> None:
    """Unless there are none, as in a record from before they were read."""
    keys = [
        machine_key(dataclasses.replace(LAPTOP, variables=variables))
        for variables in (
            None,
            (),
            ("OMP_WAIT_POLICY=active",),
            ("OMP_WAIT_POLICY=passive",),
            ("A=1", "B=2"),
            ("B=2", "A=1"),
        )
    ]
    assert keys[0] == keys[1]
    assert keys[4] == keys[5]
    assert len(set(keys)) == 4


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, (None, None, None)),
        ({"thp/enabled": "always [madvise] never", "thp/defrag": "always defer [madvise] never"},
         ("madvise, defrag madvise", None, None)),
        ({"thp/enabled": "[always] madvise never", "cpu0/cpufreq/scaling_governor": "powersave",
          "cpu1/cpufreq/scaling_governor": "performance", "cpu2/cpufreq/scaling_governor": "powersave",
          "intel_pstate/no_turbo": "0"}, ("always", "performance, powersave", True)),
        ({"cpu0/cpufreq/scaling_governor": "schedutil", "cpufreq/boost": "0"}, (None, "schedutil", False)),
    ],
)  # fmt: skip
def test_settings_of_the_kernel(files: dict[str, str], expected: tuple[object, ...], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    found = module.huge_pages(tmp_path / "thp"), module.governor(tmp_path), module.turbo(tmp_path)
    assert found == expected


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells")
def test_this_machines_libraries_and_layout() -> None:
    environment = read_environment(threads=1, variables=["LD_BIND_NOW=1"], removed=["OMP_DYNAMIC"])
    assert re.fullmatch(r"(glibc|musl) \d+\.\d+.*", environment.libc or "")
    assert environment.openmp in {None, "libgomp", "libiomp5", "libomp"}
    assert environment.variables == ("LD_BIND_NOW=1",)
    assert environment.removed_variables == ("OMP_DYNAMIC",)
    command = [sys.executable, "-c", "from fashiontl.machine import environment; print(environment._randomised())"]
    said = subprocess.run(["setarch", "-R", *command], capture_output=True, text=True, check=False)
    assert said.returncode or said.stdout == "False\n"


@settings(max_examples=20)
@given(st.text(max_size=80), st.floats(0.1, 512))
def test_key_is_safe_in_a_path(cpu: str, cores: float) -> None:
    key = machine_key(dataclasses.replace(LAPTOP, cpu=cpu, usable_cores=cores))
    assert re.fullmatch(r"[a-z0-9.+-]{1,100}", key)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "leaderboard.md").write_text("old")
    git("add", ".")
    git("-c", "user.name=n", "-c", "user.email=e@example.org", "commit", "-m", "first")
    return tmp_path


def git_facts(folder: Path) -> tuple[str | None, bool | None]:
    module._git.cache_clear()
    return module._git(folder)


def test_commit_of_the_current_directory(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    module._git.cache_clear()
    environment = read_environment(threads=1)
    assert environment.git_sha is not None
    assert re.fullmatch("[0-9a-f]{40}", environment.git_sha)
    assert environment.git_dirty is False


def test_only_changed_code_is_dirty(repository: Path) -> None:
    (repository / "new.txt").write_text("untracked")
    (repository / "results" / "leaderboard.md").write_text("new")
    assert git_facts(repository)[1] is False
    (repository / "code.py").write_text("2")
    assert git_facts(repository)[1] is True
    assert git_facts(repository / "results")[1] is True


def test_no_program_of_the_repository_runs(repository: Path) -> None:
    program = repository / "monitor"
    program.write_text(f"#!/bin/sh\ntouch {repository}/ran\n")
    program.chmod(0o755)
    subprocess.run(["git", "-C", str(repository), "config", "core.fsmonitor", str(program)], check=True)
    assert git_facts(repository)[1] is False
    assert not (repository / "ran").exists()


def test_no_repository_or_no_git(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_facts(repository.parent) == (None, None)
    monkeypatch.setenv("PATH", "")
    assert git_facts(repository) == (None, None)


def control_group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


@dataclasses.dataclass
class Box:
    """A made-up machine: its CPUs, those that this process may use, and its control groups."""

    folder: Path
    patch: pytest.MonkeyPatch

    def cpus(self, count: int, allowed: Iterable[int] | None = None, hyperthreads: int = 1) -> None:
        """Neighbours in number are hyper-threads of a core."""
        for cpu in range(count):
            first = cpu - cpu % hyperthreads
            control_group(
                self.folder / "cpu" / f"cpu{cpu}" / "topology", core_cpus_list=f"{first}-{first + hyperthreads - 1}"
            )
        self.patch.setattr(os, "cpu_count", lambda: count)
        self.patch.setattr(
            os, "sched_getaffinity", lambda process: set(range(count) if allowed is None else allowed), raising=False
        )

    def member(self, membership: str) -> None:
        """Which control groups this process is in, as the kernel lists them."""
        (self.folder / "membership").write_text(membership)


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    """Eight cores, no control groups, no variable."""
    real_groups, real_cores = module.control_groups, module.physical_cores
    monkeypatch.setattr(module, "control_groups", lambda: real_groups(tmp_path / "cgroup", tmp_path / "membership"))
    monkeypatch.setattr(module, "physical_cores", lambda allowed: real_cores(allowed, made.folder / "cpu"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    made = Box(tmp_path, monkeypatch)
    made.cpus(8)
    made.member("")
    return made


def chosen(asked: int = 0) -> tuple[int, str]:
    threads = choose_threads(asked)
    return threads.count, threads.limit


def test_quota_of_version_2_may_be_a_parents(box: Box) -> None:
    control_group(box.folder / "cgroup" / "pod", cpu__max="150000 100000", memory__max="67108864")
    control_group(box.folder / "cgroup" / "pod" / "box", cpu__max="max 100000", memory__max="max")
    box.member("0::/pod/box\n")
    assert module.usable_cores() == 1.5
    assert module._memory() == 2**26
    assert chosen() == (1, "quota")


def test_quota_of_version_1(box: Box) -> None:
    control_group(box.folder / "cgroup" / "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    control_group(box.folder / "cgroup" / "cpu" / "box", cpu__cfs_quota_us="200000", cpu__cfs_period_us="100000")
    control_group(box.folder / "cgroup" / "memory", memory__limit_in_bytes="67108864")
    box.member("5:devices:/x\n4:memory:/gone\n1:cpu:/box\n")
    assert module.usable_cores() == 2
    assert module._memory() == 2**26
    assert chosen() == (2, "quota")


@pytest.mark.parametrize("listed", ["cpu,cpuacct", "cpuacct,cpu"])
def test_controllers_that_share_a_folder_in_any_order(box: Box, listed: str) -> None:
    shared = box.folder / "cgroup" / "cpu,cpuacct"
    control_group(shared / "box", cpu__cfs_quota_us="300000", cpu__cfs_period_us="100000")
    (box.folder / "cgroup" / "cpu").symlink_to(shared)
    box.member(f"3:{listed}:/box\n")
    assert module.usable_cores() == 3
    assert len(module.control_groups()) == 2, "each folder once, as what they count is summed"


@pytest.mark.parametrize(
    ("quota", "threads"),
    [
        ("50000 100000", (1, "quota")),
        ("299999 100000", (2, "quota")),
        ("800000 100000", (8, "physical cores")),
        ("max", (8, "physical cores")),
        ("100000 0", (8, "physical cores")),
        ("", (8, "physical cores")),
    ],
)
def test_a_quota_is_rounded_down_to_a_core_at_least(box: Box, quota: str, threads: tuple[int, str]) -> None:
    control_group(box.folder / "cgroup", cpu__max=quota)
    box.member("0::/\n")
    assert chosen() == threads


@pytest.mark.parametrize(
    ("allowed", "hyperthreads", "threads"),
    [
        (range(8), 1, (8, "physical cores")),
        (range(8), 2, (4, "physical cores")),
        ((0, 1), 2, (1, "physical cores")),
        ((0, 2), 2, (2, "affinity")),
        ((0, 2, 3), 2, (2, "physical cores")),
    ],
)
def test_hyper_threads_of_a_core_are_one(
    box: Box, allowed: Iterable[int], hyperthreads: int, threads: tuple[int, str]
) -> None:
    box.cpus(8, allowed, hyperthreads)
    assert chosen() == threads
    assert module.usable_cores() == len(set(allowed)), "machines are told apart by their CPUs"


def test_older_kernels_have_another_name_for_siblings(box: Box) -> None:
    for cpu in range(8):
        folder = box.folder / "cpu" / f"cpu{cpu}" / "topology"
        (folder / "core_cpus_list").rename(folder / "thread_siblings_list")
    assert chosen() == (8, "physical cores")


@pytest.mark.parametrize(("told", "cores"), [(4, 4), (None, 8), (99, 8)])
def test_where_the_kernel_does_not_tell_cores_psutil_may(
    box: Box, monkeypatch: pytest.MonkeyPatch, told: int | None, cores: int
) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: told)
    box.folder /= "nowhere"
    assert chosen() == (cores, "physical cores")


@pytest.mark.parametrize(
    ("value", "threads"),
    [
        ("3", (3, "OMP_NUM_THREADS")),
        ("4,2", (4, "OMP_NUM_THREADS")),
        (" 4 , 2 ,1", (4, "OMP_NUM_THREADS")),
        ("+07", (7, "OMP_NUM_THREADS")),
        *((value, (8, "physical cores")) for value in ("8", "9" * 40, "", "0", "-1", "4,0", "4,", "four", "1.5", "٣")),
    ],
)
@pytest.mark.usefixtures("box")
def test_the_variable_of_openmp(monkeypatch: pytest.MonkeyPatch, value: str, threads: tuple[int, str]) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert chosen() == threads


def test_the_least_of_all_limits_decides(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.cpus(64, range(32), hyperthreads=2)
    control_group(box.folder / "cgroup", cpu__max="800000 100000")
    assert chosen() == (16, "physical cores")
    box.member("0::/\n")
    assert chosen() == (8, "quota")
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert chosen() == (6, "OMP_NUM_THREADS")
    box.cpus(64, range(0, 10, 2), hyperthreads=2)
    assert chosen() == (5, "affinity")


@pytest.mark.usefixtures("box")
def test_the_setting_is_the_users_own_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert chosen(16) == (16, "setting")
    assert "threads=16" in choose_threads(16).reason
