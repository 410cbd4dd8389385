"""The command line as a shell meets it; that `list` prints all axes is in test_listing.py."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from records import matrix

from fashiontl import cli, doctor
from fashiontl.core.case import PRESETS, Case
from fashiontl.doctor import Line, Report, Section
from fashiontl.machine.devices import Device
from fashiontl.records import RunFile
from fashiontl.runner.client import Outcome, Worker
from fashiontl.runner.messages import DeviceFacts, Phase, PhaseResult, R, VariantSupport

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with one run, whose second line is broken."""
    path = tmp_path / "results" / "runs" / "machine" / "run.jsonl"
    first, second = matrix()[:2]
    RunFile(path).append(first)
    with path.open("a") as file:
        file.write('{"schema": 1, \n')
    RunFile(path).append(second)
    return tmp_path / "results"


def test_help_names_the_commands_and_loads_neither_torch_nor_pandas() -> None:
    code = (
        "import atexit, sys; from fashiontl.cli import main\n"
        "atexit.register(lambda: print([name for name in ('torch', 'numpy', 'pandas') if name in sys.modules]))\n"
        "main()"
    )
    command = [sys.executable, "-c", code, "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "    list  " in text
    for command in ("doctor", "profile", "leaderboard"):
        assert re.search(rf"^    {command}\b", text, re.MULTILINE)
    assert "The matrix is run by: pytest bench/" in " ".join(text.split())
    assert text.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["leaderbord"], "invalid choice: 'leaderbord' (choose from "),
        (["list", "--nothing"], "unrecognized arguments: --nothing"),
        (["doctor", "--processes", "1"], "argument --processes: expected a whole number from 2 to 100, got '1'"),
        (["profile", "--top", "0"], "argument --top: expected a whole number from 1 to 1,000,000,000, got '0'"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], message: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("own_tables")
def test_list_shows_extensions_of_the_option_and_of_pyproject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    task = (
        "from fashiontl.data import Task; from fashiontl.matrix.extensions import register;"
        "register(Task('{0}', '', (1, 2)))"
    )
    (tmp_path / "first.py").write_text(task.format("mine"))
    (tmp_path / "second.py").write_text(task.format("yours"))
    (tmp_path / "pyproject.toml").write_text("[tool.fashiontl]\nextensions = ['first.py']")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["list", "--fashiontl-plugin", "second.py"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^first +task mine\nsecond +task yours$", text, re.MULTILINE)


def test_leaderboard_without_results_says_what_to_do(tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["leaderboard", "--results", str(tmp_path / "nowhere")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"fashiontl leaderboard: expected runs under {tmp_path}/nowhere/runs, got none; ")
    assert not (tmp_path / "nowhere").exists()


def test_a_broken_line_is_named_and_the_others_are_shown(results: Path, capsys: Capture) -> None:
    assert cli.main(["leaderboard", "--results", str(results)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{results}/leaderboard.md\n"
    fault = f"{results}/runs/machine/run.jsonl:2: expected JSON, got: "
    assert captured.err.startswith(f"fashiontl leaderboard: warning: {fault}")
    assert len(captured.err.splitlines()) == 1
    page = (results / "leaderboard.md").read_text()
    assert all(name in page for name in ("scratch", "linear_probe", "run.jsonl:2"))
    # Where the page cannot be written, that is an error.
    (results / "leaderboard.md").unlink()
    (results / "leaderboard.md").mkdir()
    assert cli.main(["leaderboard", "--results", str(results)]) == 2
    assert "expected a file that can be written, got" in capsys.readouterr().err


@pytest.fixture
def boxes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, int]]:
    """Devices that were examined, and with how many processes; none but cpu is fit."""
    asked: list[tuple[str, int]] = []

    def examine(worker: Worker, box: Device, progress: Callable[[str], None], processes: int) -> Report:
        assert worker.threads >= 1
        device = box.name
        progress(f"waiting for {device}")
        asked.append((device, processes))
        return Report(device, device == "cpu", f"This box on {device}.")

    monkeypatch.setenv("FASHIONTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor, "examine", examine)
    section = Section("extras", (Line("peft", "absent", "note"),))
    monkeypatch.setattr(doctor, "equipment", lambda worker, results, progress: [section])
    monkeypatch.setattr("fashiontl.machine.devices.seen_devices", lambda: ["cpu"])
    return asked


def test_doctor_examines_what_is_seen_or_named_and_its_exit_code_says_what_is_not_fit(
    boxes: list[tuple[str, int]], capsys: Capture
) -> None:
    assert cli.main(["doctor", "--processes", "7"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("This box on cpu.\n\nextras\n")
    assert captured.err == "", "progress is for terminals"
    assert cli.main(["doctor", "--device", "cpu, cuda:1,cpu", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["fit"], [device["device"] for device in found["devices"]]) == (False, ["cpu", "cuda:1"])
    assert [device for device, _ in boxes] == ["cpu", "cpu", "cuda:1"]
    assert [count for _, count in boxes] == [7, 4, 4]


def test_progress_is_one_line_of_a_terminal_that_is_gone_at_the_end(
    boxes: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    assert cli.main(["doctor", "--json"]) == 0
    assert boxes
    assert terminal.getvalue() == "\r\x1b[Kwaiting for cpu\r\x1b[K"


def row(name: str, module: str, seconds: float, flops: float | None = None) -> dict[str, Any]:
    return {
        "name": name, "module": module, "phase": "forward", "calls": 2.0, "self_cpu_s": seconds, "self_device_s": 0.0,
        "flops": flops, "bytes": 0,
    }  # fmt: skip


PROFILE = {
    "operators": [row("aten::mm", "stage1.0", 0.003, 1e9), row("aten::add", "", 0.0006), row("aten::mul", "", 0.0004)],
    "kernels": [], "device_idle": None, "steps": 2, "step_s": 0.1, "trace": "traces/x.pt.trace.json.gz",
    "trace_bytes": 99, "warnings": ["it was mended"],
}  # fmt: skip


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What a worker answers to each phase; the jobs that it gets are under `jobs`."""
    answers: dict[str, Any] = {
        "jobs": [],
        "device": DeviceFacts(),
        "variant": VariantSupport(warnings=["bf16 is emulated"]),
        "profile": PhaseResult(provenance={"profile": PROFILE}),
    }

    def answer(self: Worker, phase: Phase[Any, R], job: Any, timeout: float, progress: object) -> Outcome[R]:
        assert callable(progress)
        answers["jobs"].append((phase.name, job, self.threads, timeout))
        found = answers[phase.name]
        return found if isinstance(found, Outcome) else Outcome("ok", "", found)

    monkeypatch.setenv("FASHIONTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Worker, "run", answer)
    return answers


ONE = ["--arch=resnet18", "--policy=full", "--device=cpu"]


def test_profile_shows_operators_and_where_the_trace_is(phases: dict[str, Any], capsys: Capture) -> None:
    settings = ["--set", "threads=3", "--set", "timeout=9"]
    assert cli.main(["profile", *ONE, "--precision", "bf16", "--top", "1", *settings]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[1].startswith("weights none in place of fashion6")
    assert (lines[0], *lines[2:4]) == ("resnet18-full-cpu-bf16", "bf16 is emulated", "it was mended")
    assert re.search(r"^aten::mm +stage1\.0 +forward +2 +3\.000 +75\.0% +1\.000", captured.out, re.M)
    assert "aten::add" not in captured.out
    assert lines[-2] == "trace        traces/x.pt.trace.json.gz"
    assert lines[-1].endswith("tensorboard --logdir traces")
    assert captured.err == ""
    assert [phase for phase, *_ in phases["jobs"]] == ["device", "variant", "profile"]
    _, job, threads, timeout = phases["jobs"][-1]
    assert (threads, timeout) == (3, 9.0)
    assert job.case == Case("resnet18", "full", weights="none", precision="bf16")
    assert job.settings == replace(PRESETS["quick"], threads=3, timeout=9.0)
    assert job.traces == "results/traces/profile/resnet18-full-cpu-none-bf16"


NO_TRACE = {"trace": None, "trace_bytes": None, "warnings": ["no trace: too large"]}
KERNEL = {"name": "sgemm", "operator": "aten::mm", "module": "stage1.0", "calls": 2.0, "self_device_s": 0.002}


@pytest.mark.parametrize(
    ("arguments", "profile", "expected", "absent"),
    [
        (["--device=cpu"], NO_TRACE, "no trace: too large", "open it"),
        (["--device=cuda"], {"kernels": [KERNEL], "device_idle": 0.375}, "\ndevice idle  38% of the time", "in place"),
    ],
)
def test_a_profile_tells_how_idle_a_gpu_was_and_why_there_is_no_trace(
    arguments: list[str], profile: Any, expected: str, absent: str, phases: dict[str, Any], capsys: Capture
) -> None:
    phases["profile"] = PhaseResult(provenance={"profile": {**PROFILE, **profile}})
    assert cli.main(["profile", *ONE[:2], *arguments, "--weights=none"]) == 0
    text = capsys.readouterr().out
    assert expected in text
    assert absent not in text
    assert ("HolisticTraceAnalysis" in text) == ("kernels" in profile)


@pytest.mark.usefixtures("phases")
def test_a_profile_in_json_is_read_back(capsys: Capture) -> None:
    assert cli.main(["profile", *ONE, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["case"], found["profile"], len(found["notes"])) == ("resnet18-full-cpu", PROFILE, 2)


@pytest.mark.parametrize(
    ("phase", "answer", "reason"),
    [
        ("device", DeviceFacts("no GPU"), "no GPU"),
        ("variant", VariantSupport("needs a compiler"), "needs a compiler"),
        ("profile", Outcome("oom", "profile: OutOfMemoryError: 9 GiB"), "profile: OutOfMemoryError: 9 GiB"),
        ("device", Outcome("timeout", "device took longer"), "device took longer"),
    ],
)
def test_what_cannot_be_profiled_has_its_reason(
    phase: str, answer: Any, reason: str, phases: dict[str, Any], capsys: Capture
) -> None:
    phases[phase] = answer
    assert cli.main(["profile", *ONE, "--weights=none"]) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"fashiontl profile: resnet18-full-cpu-none: {reason}\n")
    assert phases["jobs"][-1][0] == phase


def test_all_that_is_wrong_with_a_profile_is_said_before_anything_runs(
    phases: dict[str, Any], tmp_path: Path, capsys: Capture
) -> None:
    assert cli.main(["profile", "--arch", "resnet81", "--preset", "quik"]) == 2
    assert [line.partition(";")[0] for line in capsys.readouterr().err.splitlines()] == [
        "fashiontl profile: unknown preset 'quik'",
        "unknown architecture 'resnet81'",
    ]
    assert cli.main(["profile", "--arch", "resnet18", "--device", "cpu"]) == 2
    assert "expected options that name one cell, got 5: " in capsys.readouterr().err
    (tmp_path / "results").touch()
    assert cli.main(["profile", *ONE]) == 2
    assert "expected a folder for the trace that can be written, got results/traces" in capsys.readouterr().err
    assert phases["jobs"] == []


@pytest.mark.slow
def test_a_real_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("FASHIONTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["profile", "--arch=resnet9", "--policy=linear_probe", "--device=cpu", "--preset=smoke"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"convolution +(stem|stage\d)", text)
    (trace,) = (tmp_path / "results" / "traces" / "profile").glob("resnet9-linear_probe-cpu-none/*.pt.trace.json.gz")
    assert str(trace.relative_to(tmp_path)) in text


@pytest.mark.slow
def test_a_real_examination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("FASHIONTL_CACHE", str(tmp_path / "cache"))
    status = cli.main(["doctor", "--device", "cpu", "--processes", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    (cpu,) = found["devices"]
    # A crowded machine may well not be fit.
    assert status == (0 if found["fit"] else 1)
    assert {size: found["processes"] for size, found in cpu["facts"]["differences"].items()} == {"small": 2, "large": 2}
    assert {"fp32"} <= set(cpu["facts"]["peak"])
