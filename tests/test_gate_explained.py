"""The bench of the gate's explanation, with a gate that answers at once: what it plants, prints and ends with."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import gate_raws
import pytest

from fashiontl.gate.runner import Order
from fashiontl.gate.verdict import Explained, Finding, Verdict

CELL = "resnet18_extra-full-cpu-none"
METRICS = ("latency", "train_throughput")


@pytest.fixture
def bench(bench_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, whose calibration finds that a call slows latency by 0.2 % and training by 0.1 %."""
    script = bench_script("gate_explained")
    shares = {"latency": 0.002, "train_throughput": 0.001}
    monkeypatch.setattr(script, "measured", lambda *given: lambda metric, calls: calls * shares[metric])
    return script


def explained(metric: str, module: str = "stage1.1", operator: str = "aten::mkldnn_convolution") -> Explained:
    return Explained(CELL, metric, operator, module, 0.0, 0.0164, 0.63)


def answer(words: tuple[str, ...] = ("REGRESSED", "REGRESSED"), named: Any = None) -> Verdict:
    noise = [replace(explained(metric), module="stage4.0", share=0.1) for metric in METRICS]
    findings: list[Finding] = [
        gate_raws.finding(cell=CELL, metric=metric, word=word) for metric, word in zip(METRICS, words, strict=True)
    ]
    made = gate_raws.verdict(*findings, raw=gate_raws.raw(cells=(CELL,)))
    return replace(made, explained=(*noise, *(map(explained, METRICS) if named is None else named)))


def test_the_head_does_more_in_one_module_and_the_tables_say_where(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []

    def compare(base: str, order: Order, *_: Any) -> Verdict:
        assert (base, order.timed, [case.id for case in order.cases]) == ("base", METRICS, [CELL])
        calls = next(line for line in Path("gate_real_nets.py").read_text().splitlines() if line.startswith("CALLS"))
        changed = subprocess.run(["git", "status", "--porcelain"], check=True, capture_output=True, text=True).stdout
        seen.extend([calls, changed.strip()])
        return answer()

    assert bench.main([], compare) == 0
    assert seen == ["CALLS = (100, 50)", "M gate_real_nets.py"]
    printed = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line[:1] == "|"]
    assert ["latency", "+10.0 %", "REGRESSED", "+6.1 %", "6 + 16"] in cells
    assert [row[:3] + row[5:] for row in cells if "aten" in row[1]] == [
        ["latency", "aten::mkldnn_convolution", "stage1.1", "63 %"],
        ["latency", "aten::mkldnn_convolution", "stage4.0", "10 %"],
        ["train_throughput", "aten::mkldnn_convolution", "stage1.1", "63 %"],
        ["train_throughput", "aten::mkldnn_convolution", "stage4.0", "10 %"],
    ]
    assert ["0.00", "16.40"] in [row[3:5] for row in cells]
    assert "Taken on 2026-11-25: resnet18_extra-full-cpu-none on " in printed


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            answer(words=("REGRESSED", "INCONCLUSIVE")),
            "train_throughput: expected REGRESSED, which is explained, got INC",
        ),
        (
            answer(named=()),
            "latency: expected a convolution in stage1.1 to have grown most, got aten::mkldnn_convolution",
        ),
        (
            answer(named=[explained(metric, operator="aten::mm") for metric in METRICS]),
            "latency: expected a convolution in stage1.1 to have grown most, got aten::mm in stage1.1",
        ),
        (replace(answer(), explained=()), "to have grown most, got nothing"),
    ],
)
def test_a_slowdown_that_is_not_found_or_not_where_it_is_ends_in_1(
    bench: ModuleType, capsys: pytest.CaptureFixture[str], made: Verdict, said: str
) -> None:
    assert bench.main([], lambda *given: made) == 1
    assert said in capsys.readouterr().err
