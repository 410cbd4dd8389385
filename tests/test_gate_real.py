"""The bench of real gates, with a gate that answers at once: what it plants, keeps, resumes and tabulates."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import gate_raws
import psutil
import pytest

from fashiontl.core.case import PRESETS, Case
from fashiontl.core.errors import FashiontlError
from fashiontl.gate import rawfile
from fashiontl.gate.judge import judge
from fashiontl.gate.raw import Raw, Series
from fashiontl.gate.runner import Order

CELL = "resnet18_extra-full-cpu-none"
FACTORS = {"aa": 1.0, "planted-5": 1.05, "planted-7": 1.07, "planted-10": 1.10, "burner": 1.0}
AMOUNTS = {
    "planted-5": {"latency": {"calls": 3, "achieved": 0.052}, "train_throughput": {"calls": 4, "achieved": 0.049}},
    "planted-7": {"latency": {"calls": 5, "achieved": 0.07}, "train_throughput": {"calls": 6, "achieved": 0.071}},
    "planted-10": {"latency": {"calls": 7, "achieved": 0.1}, "train_throughput": {"calls": 8, "achieved": 0.098}},
}


@pytest.fixture
def bench(bench_script: Callable[[str], ModuleType]) -> ModuleType:
    return bench_script("gate_real")


@pytest.fixture
def planted(bench_script: Callable[[str], ModuleType]) -> ModuleType:
    return bench_script("gate_planted")


def gate(factor: float = 1.0, control: float = 1.0) -> Raw:
    """Epochs enough for any word, in which the head takes `factor` times as long, and the control kernel likewise."""
    one = gate_raws.epoch(factor=factor, control_head=(0.002 * control,) * 4)
    epochs = (one,) * 6 + (replace(one, stage="confirm"),) * 16
    series = tuple(Series(CELL, metric, epochs) for metric in ("latency", "train_throughput"))
    return gate_raws.raw(cells=(CELL,), series=series, counts=(), answers=(), failures=(), seconds=21.0)


class FakeCompare:
    """Answers as it was told to, and notes what it found in the working tree."""

    def __init__(self, raw: Callable[[str], Raw]) -> None:
        self.raw = raw
        self.calls: list[tuple[str, str, str]] = []

    def __call__(self, base: str, order: Order, *given: Any) -> Any:
        assert (base, given[1], order.timed) == ("base", [], ("latency", "train_throughput"))
        assert order.settings.threads == 1
        assert [case.id for case in order.cases] == [CELL]
        kind = order.command.split(": ")[1]
        text = Path("gate_real_nets.py").read_text()
        calls = next(line for line in text.splitlines() if line.startswith("CALLS"))
        changed = subprocess.run(["git", "status", "--porcelain"], check=True, capture_output=True, text=True).stdout
        self.calls.append((kind, calls, changed.strip()))
        return judge(self.raw(kind), today=date(2026, 11, 25))


def calibrated(folder: Path) -> Path:
    folder.mkdir()
    (folder / "calibration.json").write_text(json.dumps(AMOUNTS))
    return folder


def rows(text: str) -> dict[tuple[str, str], list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {(row[0], row[1]): row[2:] for row in cells[2:]}


def test_gates_of_each_kind_are_taken_kept_and_tabulated(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disturbed = []
    monkeypatch.setattr(bench, "burning", lambda folder: disturbed.append(folder) or bench.contextlib.nullcontext())
    compare = FakeCompare(lambda kind: gate(FACTORS[kind], 1.05 if kind == "burner" else 1.0))
    folder, out = calibrated(tmp_path / "gates"), tmp_path / "table.md"
    given = ["--aa", "2", "--planted", "1", "--burner", "1", "--json", str(folder), "--resume", "--out", str(out)]
    assert bench.main(given, compare) == 0
    clean, changed = "", "M gate_real_nets.py"
    assert compare.calls == [
        ("aa", "CALLS = (0, 0)", clean),
        ("planted-5", "CALLS = (4, 3)", changed),
        ("planted-7", "CALLS = (6, 5)", changed),
        ("planted-10", "CALLS = (8, 7)", changed),
        ("burner", "CALLS = (0, 0)", clean),
        ("aa", "CALLS = (0, 0)", clean),
    ]
    assert [path.name for path in disturbed] == ["project"]
    assert rawfile.read(folder / "planted-7-000.json") == gate(1.07)
    printed = capsys.readouterr()
    assert "planted-10 REGRESSED in 21 s: train_throughput REGRESSED +10.0 %, latency REGRESSED +10.0 %" in printed.err
    found = rows(printed.out)
    assert found["aa", "latency"] == ["—", "2", "0", "0", "2", "0", "0", "+0.0 %", "6", "—"]
    assert found["aa", "whole gate"] == ["—", "2", "0", "0", "2", "0", "0", "—", "—", "21"]
    assert found["planted-5", "latency"] == ["+5.2 %", "1", "1", "0", "0", "0", "0", "+5.0 %", "22", "—"]
    assert found["planted-10", "train_throughput"] == ["+9.8 %", "1", "1", "0", "0", "0", "0", "+10.0 %", "22", "—"]
    assert found["burner", "whole gate"] == ["—", "1", "0", "1", "0", "0", "0", "—", "—", "21"]
    assert CELL in printed.out
    assert out.read_text() in printed.out

    assert bench.main([*given, "--aa", "3"], compare) == 0
    assert [call[0] for call in compare.calls[6:]] == ["aa"]
    assert bench.main(["--only-table", "--json", str(folder)], compare) == 0
    assert len(compare.calls) == 7


@pytest.mark.parametrize(
    ("kind", "factor", "said"),
    [
        ("aa", 1.1, "1 gates of unchanged code failed"),
        ("planted-10", 1.0, "2 slowdowns of 10 % passed"),
        ("planted-10", 0.9, "2 slowdowns of 10 % passed"),
    ],
)
def test_what_must_not_be_is_told_and_ends_in_1(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, factor: float, said: str
) -> None:
    rawfile.write(gate(factor), tmp_path / f"{kind}-000.json")
    assert bench.main(["--only-table", "--json", str(tmp_path)]) == 1
    assert said in capsys.readouterr().err


def test_a_folder_with_gates_is_not_mixed_with_others_unasked(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rawfile.write(gate(), tmp_path / "aa-000.json")
    compare = FakeCompare(lambda kind: gate())
    assert bench.main(["--json", str(tmp_path)], compare) == 2
    assert "--resume" in capsys.readouterr().err
    assert compare.calls == []
    assert bench.main(["--only-table", "--json", str(tmp_path / "none")]) == 2


def test_a_gate_that_was_interrupted_is_not_kept(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare = FakeCompare(lambda kind: replace(gate(), doubts=("interrupted after 3 s: only what was measured",)))
    assert bench.main(["--aa", "2", "--planted", "0", "--burner", "0", "--json", str(tmp_path)], compare) == 130
    assert len(compare.calls) == 1
    assert list(tmp_path.iterdir()) == []
    assert "--resume" in capsys.readouterr().err


def test_the_number_of_calls_is_corrected_by_what_it_was_measured_to_do(planted: ModuleType) -> None:
    asked = []

    def slower(calls: int) -> float:
        asked.append(calls)
        return 0.01 + 0.001 * calls

    amount = planted.fit(slower, 0.10)
    assert asked == [40, 80, 89, 90]
    assert amount == planted.Amount(90, pytest.approx(0.1))
    with pytest.raises(FashiontlError, match=r"expected 40 convolutions more to take longer, got -1\.0 %"):
        planted.fit(lambda calls: -0.01, 0.05)


def test_calibration_is_by_share_and_metric(bench: ModuleType) -> None:
    found = bench.calibrate(lambda metric, calls: calls * (0.002 if metric == "latency" else 0.001), print)
    assert {name: {metric: one.calls for metric, one in each.items()} for name, each in found.items()} == {
        "planted-5": {"latency": 25, "train_throughput": 50},
        "planted-7": {"latency": 35, "train_throughput": 70},
        "planted-10": {"latency": 50, "train_throughput": 100},
    }


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v2"])
def test_the_extra_work_is_done_in_both_modes_and_changes_no_answer(
    planted: ModuleType, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from torch.nn import functional

    from fashiontl.models import build as architectures
    from fashiontl.models.registry import ARCHITECTURES

    space: dict[str, Any] = {"__name__": "gate_real_nets"}
    text = planted.nets(architecture, 2, 3).replace("register(", "registered = (")
    exec(compile(text, "gate_real_nets.py", "exec"), space)
    assert space["registered"].name == f"{architecture}_extra"
    assert f"{architecture}_extra" not in ARCHITECTURES
    torch.manual_seed(0)
    network = space["build"](classes=4, image_size=32).eval()
    torch.manual_seed(0)
    plain = architectures.build(architecture, 4, image_size=32).eval()
    images = torch.randn(2, 3, 32, 32)
    sizes: list[tuple[int, ...]] = []
    real = functional.conv2d

    def counted(activations: Any, kernel: Any, *rest: Any, **more: Any) -> Any:
        if kernel.shape[0] == 8 and not rest:
            sizes.append(tuple(activations.shape[:3]))
        return real(activations, kernel, *rest, **more)

    monkeypatch.setattr(functional, "conv2d", counted)
    assert torch.equal(network(images), plain(images))
    assert sizes == [(2, planted.CHANNELS[architecture], 3)] * 3
    network.train()(images)
    assert len(sizes) == 5
    assert network.state_dict().keys() == plain.state_dict().keys()


def test_the_disturbance_finds_who_runs_in_a_folder_and_ends(planted: ModuleType, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path) as child:
        found = planted._started_in(os.getpid(), str(tmp_path.resolve()))
        assert [process.pid for process in found] == [child.pid]
        assert planted._started_in(os.getpid(), str(tmp_path.resolve() / "other")) == []
        child.kill()
        child.wait()
        assert not planted._runs(found[0])
    before = {process.pid for process in psutil.Process().children()}
    with planted.burning(tmp_path):
        started = [process for process in psutil.Process().children() if process.pid not in before]
        assert started
    assert not any("gate_planted" in " ".join(process.cmdline()) for process in psutil.Process().children())


@pytest.mark.usefixtures("own_tables")
def test_calls_are_measured_in_turns_on_the_real_networks(
    planted: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.nn import functional

    # A clock that convolutions alone move: 10 ms each of the 52 that the network has, 1 ms each of the extra ones.
    now, real = [0.0], functional.conv2d

    def counted(images: Any, kernel: Any, *rest: Any, **more: Any) -> Any:
        now[0] += 0.01 if kernel.shape[0] != 8 else 0.001
        return real(images, kernel, *rest, **more)

    monkeypatch.setattr(functional, "conv2d", counted)
    monkeypatch.setattr(planted.time, "process_time", lambda: now[0])
    monkeypatch.setattr(planted, "_LEAST_ROUNDS", 2)
    (tmp_path / "gate_real_nets.py").write_text(planted.nets("mobilenet_v2"))
    case = Case("mobilenet_v2_extra", "full", weights="none")
    settings = replace(PRESETS["smoke"], threads=1, throughput_batch=2)
    slower = planted.measured(tmp_path / "gate_real_nets.py", case, settings, 0.0)
    assert slower("latency", 26) == pytest.approx(0.05)
    assert slower("train_throughput", 13) == pytest.approx(0.025)
