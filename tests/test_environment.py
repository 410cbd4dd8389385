import dataclasses
import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import LAPTOP, SERVER

from fashiontl import environment as module
from fashiontl.environment import Environment, machine_key, read_environment, text_of

HARD = ("accelerator", "driver", "cuda", "cudnn", "torch", "torchvision", "python", "cpu")
SOFT = {
    "fashiontl": "9.9", "git_sha": None, "git_dirty": True, "os": "Linux 7", "logical_cores": 99, "memory": None,
    "load": 64.0,
}  # fmt: skip


def test_reads_this_machine() -> None:
    facts = {"accelerator": "NVIDIA H100", "driver": "580.65.06", "cuda": "13.0", "cudnn": None}
    environment = read_environment(facts, threads=3)
    assert (environment.accelerator, environment.driver, environment.cuda) == ("NVIDIA H100", "580.65.06", "13.0")
    assert environment.cudnn is None
    assert environment.threads == 3
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", environment.python)
    assert environment.torch is not None
    assert environment.torch.startswith("2.")
    assert 0 < environment.usable_cores <= environment.logical_cores
    assert environment.memory is None or environment.memory > 2**26
    assert environment.cpu


def test_no_accelerator_is_unknown() -> None:
    environment = read_environment(threads=1)
    assert [environment.accelerator, environment.driver, environment.cuda, environment.cudnn] == [None] * 4


def test_key_is_stable() -> None:
    """A key that changed without need would make all stored results of all machines incomparable."""
    assert machine_key(LAPTOP) == "amd-epyc-7763-2c-2t-edbfa711"
    assert machine_key(SERVER) == "nvidia-h100-80gb-hbm3-16c-16t-970e66e2"


@pytest.mark.parametrize("name", [*HARD, "usable_cores", "threads"])
def test_hard_facts_change_the_key(name: str) -> None:
    changed: object = 1.5 if name == "usable_cores" else 7 if name == "threads" else "other"
    assert machine_key(dataclasses.replace(SERVER, **{name: changed})) != machine_key(SERVER)


def test_soft_facts_do_not_change_the_key() -> None:
    assert machine_key(dataclasses.replace(SERVER, **SOFT)) == machine_key(SERVER)
    fields = {field.name for field in dataclasses.fields(Environment)}
    assert fields == {*SOFT, *HARD, "usable_cores", "threads"}


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


def test_no_repository(tmp_path: Path) -> None:
    assert git_facts(tmp_path) == (None, None)


def test_no_git(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_facts(repository) == (None, None)


def control_group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def groups(tmp_path: Path, membership: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "membership"
    file.write_text(membership)
    folders = module.control_groups(tmp_path / "cgroup", file)
    monkeypatch.setattr(module, "control_groups", lambda: folders)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)


def test_quota_of_version_2_may_be_a_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control_group(tmp_path / "cgroup" / "pod", cpu__max="150000 100000", memory__max="67108864")
    control_group(tmp_path / "cgroup" / "pod" / "box", cpu__max="max 100000", memory__max="max")
    groups(tmp_path, "0::/pod/box\n", monkeypatch)
    assert module.usable_cores() == 1.5
    assert module._memory() == 2**26


def test_quota_of_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control_group(tmp_path / "cgroup" / "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    control_group(tmp_path / "cgroup" / "cpu" / "box", cpu__cfs_quota_us="200000", cpu__cfs_period_us="100000")
    control_group(tmp_path / "cgroup" / "memory", memory__limit_in_bytes="67108864")
    groups(tmp_path, "5:devices:/x\n4:memory:/gone\n1:cpu:/box\n", monkeypatch)
    assert module.usable_cores() == 2
    assert module._memory() == 2**26


def test_affinity_without_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups(tmp_path, "", monkeypatch)
    assert module.usable_cores() == 8


def test_a_small_file_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"caf\xe9\n")
    assert text_of(tmp_path / "model") == "caf\ufffd"
