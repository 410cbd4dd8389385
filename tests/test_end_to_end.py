"""The real thing, once: pytest in a shell, processes that measure, files that other programs open."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fashiontl.core.metrics import METRICS
from fashiontl.freezing import POLICIES
from fashiontl.records import Record, read_runs

pytestmark = pytest.mark.slow

BENCH = Path(__file__).parent.parent / "bench"
SMOKE = ["--preset=smoke", "--device=cpu", "--set", "threads=1"]
IDS = ["mobilenet_v2-linear_probe-cpu", "mobilenet_v2-full-cpu"]


class Project:
    """A folder with the matrix, and a cache of backbones of its own."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "FASHIONTL_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        shutil.copytree(BENCH, folder / "bench", ignore=shutil.ignore_patterns("__pycache__"))

    def start(
        self, *arguments: str, policies: str = "linear_probe,full", architecture: str = "mobilenet_v2"
    ) -> "subprocess.Popen[str]":
        axes = [f"--arch={architecture}", f"--policy={policies}"]
        command = [sys.executable, "-m", "pytest", "bench/", *SMOKE, *axes, *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *arguments: str, **axes: str) -> tuple[int, str]:
        """Exit code and output of one run."""
        with self.start(*arguments, **axes) as process:
            output, _ = process.communicate(timeout=300)
        return process.returncode, output

    @property
    def records(self) -> tuple[Record, ...]:
        runs = read_runs(self.folder / "results")
        assert runs.errors == ()
        return runs.records


# What a device with memory and a queue of its own has, a counter of energy, a compiled variant, or a sweep.
NOT_ON_EVERY_CPU = {
    "device_latency", "inference_compile_time", "training_compile_time", "training_reserved_memory",
    "inference_reserved_memory", "load_reserved_memory", "inference_energy", "training_energy", "idle_power",
    "largest_inference_batch", "largest_training_batch",
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Project:
    """A project in which the matrix has run once."""
    project = Project(tmp_path_factory.mktemp("measured"), cache)
    status, output = project.run("--benchmark-save=smoke")
    assert status == 0, output
    return project


@pytest.fixture
def project(tmp_path: Path, cache: Path) -> Project:
    """A project in which nothing has run; backbones that were made already are there."""
    return Project(tmp_path, cache)


def test_every_case_is_an_ok_record_with_all_metrics(measured: Project) -> None:
    assert [(record.id, record.status) for record in measured.records] == [(id_, "ok") for id_ in IDS]
    for record in measured.records:
        measured_here = {measurement.metric for measurement in record.measurements if measurement.values}
        assert set(METRICS) - measured_here <= NOT_ON_EVERY_CPU
        accuracy = record.measurement("accuracy")
        assert accuracy is not None
        # Five test images of each of fashion4's classes.
        assert accuracy.trials == 20
        assert (accuracy.values[0] * 20).is_integer()
        assert all(value > 0 for value in record.values("latency"))
        assert record.environment.threads == 1
    # The policies are proven.
    probe, full = (record.proof for record in measured.records)
    assert probe is not None
    assert full is not None
    assert probe.holds
    assert full.holds
    # MobileNetV2 has 52 convolutions with a BatchNorm each and one linear layer with a bias.
    assert (probe.frozen_parameters, probe.trained_parameters) == (156, 2)
    assert (full.frozen_parameters, full.trained_parameters) == (0, 158)
    trainable = [record.values("trainable_parameters")[0] for record in measured.records]
    assert trainable == [4 * 1280 + 4, measured.records[1].values("parameters")[0]]


def test_the_backbone_is_made_once(measured: Project, project: Project) -> None:
    first = [record.provenance["pretraining"] for record in measured.records]
    assert [entry["cached"] for entry in first] == [False, True]
    status, output = project.run("--set", "profile=false", policies="linear_probe")
    assert status == 0, output
    (again,) = project.records
    assert again.provenance["pretraining"] == {**first[0], "cached": True}
    assert again.provenance["weights"]["sha256"] == first[0]["sha256"]
    assert again.artifacts == {}


def test_pytest_benchmark_compares_the_saved_run(measured: Project) -> None:
    command = [Path(sys.executable).with_name("pytest-benchmark"), "compare"]
    done = subprocess.run(command, cwd=measured.folder, capture_output=True, text=True, check=True)
    assert all(f"test_cell[{id_}]" in done.stdout for id_ in IDS)
    (saved,) = measured.folder.glob(".benchmarks/*/*_smoke.json")
    stats = {entry["param"]: entry["stats"] for entry in json.loads(saved.read_text())["benchmarks"]}
    for record in measured.records:
        latency = record.values("latency")
        assert stats[record.id]["rounds"] == len(latency)
        assert stats[record.id]["min"] == min(latency)
        assert stats[record.id]["max"] == max(latency)


def test_tensorboards_profiler_opens_the_trace(measured: Project, tmp_path: Path) -> None:
    pytest.importorskip("torch_tb_profiler")
    from torch_tb_profiler.io import Cache
    from torch_tb_profiler.profiler import RunLoader

    for record in measured.records:
        folder = (measured.folder / record.artifacts["trace"]).parent
        run: Any = RunLoader(record.run, str(folder), Cache(str(tmp_path))).load()
        assert run.workers == [record.id]
        (profile,) = run.profiles.values()
        assert "Operator" in [view.display_name for view in profile.views]
        names = {row["name"] for row in profile.operation_table_by_name["data"]}
        assert {"aten::convolution", "aten::convolution_backward"} & names


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_run_loses_no_finished_case_and_is_resumed(measured: Project, project: Project) -> None:
    del measured  # made the backbone
    process = project.start()
    assert wait(lambda: bool(run_files(project))), "no case finished"
    family = descendants(process.pid)
    assert family
    process.kill()
    process.communicate()
    (path,) = run_files(project)
    before = path.read_bytes()
    assert [record.id for record in project.records] == IDS[:1]
    assert wait(lambda: not any(map(alive, family)), seconds=10), "a worker outlived its run"

    status, output = project.run("--resume", "-rs")
    assert status == 0, output
    assert "1 passed, 1 skipped" in output
    assert f"[1/1] {IDS[1]}: ok in " in output
    assert run_files(project) == [path]
    assert path.read_bytes().startswith(before)
    assert [(record.id, record.status) for record in project.records] == [(id_, "ok") for id_ in IDS]


def run_files(project: Project) -> list[Path]:
    return list((project.folder / "results" / "runs").rglob("*.jsonl"))


def wait(condition: Callable[[], bool], seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while not (reached := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return reached


def descendants(pid: int) -> set[int]:
    """Ids of a process's children, their children, and so on (proc(5), stat)."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    new = {pid}
    while new := {child for child, parent in parents.items() if parent in new}:
        found |= new
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not yet asked about (Z) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# What stands in the way of a library, wherever Python starts.
BLOCKER = "import sys; sys.modules['peft'] = None"


def test_all_policies_have_no_crashed_cell_though_peft_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blocker").mkdir()
    (tmp_path / "blocker" / "sitecustomize.py").write_text(BLOCKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "blocker"))
    shutil.copy(BENCH.parent / "docs" / "examples" / "tiny.py", tmp_path)
    project = Project(tmp_path / "project", tmp_path / "cache")
    more = [f"--fashiontl-plugin={tmp_path / 'tiny.py'}", "--set=profile=false", "--set=epochs=2"]
    status, output = project.run(*more, policies="all", architecture="tiny")
    assert status == 0, output
    found = {record.case.policy: record for record in project.records}
    assert set(found) == set(POLICIES)
    skipped = {policy: record.reason for policy, record in found.items() if record.status != "ok"}
    # It has a stem and stage1.
    lacking = {f"surgical_{number}": f"expected a stage called stage{number}" for number in (2, 3, 4)}
    expected = {"last_3": "expected at least 3 stages before the head", **lacking}
    expected["lora"] = "needs the library peft; pip install"
    assert {found[policy].status for policy in skipped} == {"skipped"}
    assert set(skipped) == set(expected)
    for policy, reason in skipped.items():
        assert reason.startswith(f"policy {policy}")
        assert expected[policy] in reason
    assert all(found[policy].provenance["periods"]["each"] for policy in ("lp_ft", "gradual_unfreeze"))
    page = (project.folder / "results" / "leaderboard.md").read_text()
    assert "weighted by their epochs" in page
