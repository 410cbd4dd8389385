"""The page about networks that stand in a run twice, or beside slower ones: how made-up runs are judged."""

import importlib
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from records import record

from fashiontl.core.case import Case
from fashiontl.core.metrics import Measurement, Slices
from fashiontl.core.slices import interval_of, quantile_interval
from fashiontl.models.registry import ARCHITECTURES
from fashiontl.records import Record

POLICY = "full"


@pytest.fixture
def same_twice(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The script, and the networks that it registers; both are gone after the test."""
    request.getfixturevalue("own_tables")
    before = set(sys.modules)
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "bench")
    yield importlib.import_module("same_twice")
    for name in {"same_twice", "twins"} - before:
        sys.modules.pop(name, None)


def measured(metric: str, value: float, noise: float = 0.01, **more: Any) -> Measurement:
    """Three processes with four slices of ten values, each slice about `noise` from a value, in twelve rounds."""
    draw = random.Random(f"{metric} {value}")
    values = tuple(value * math.exp(draw.gauss(0, noise)) for _ in range(12))
    values = tuple(each for each in values for _ in range(10))
    processes, rounds = tuple(index // 4 for index in range(12)), tuple(range(12))
    return Measurement(metric, values, slices=Slices("run", (10,) * 12, processes, rounds, (0.0,) * 12, **more))


def cell(architecture: str, *measurements: Measurement, run: str = "one", number: int = 0) -> Record:
    return record(Case(architecture, POLICY), run=run, number=number, measurements=measurements)


def tables(text: str) -> list[dict[str, list[str]]]:
    """The rows of each table by their first cell."""
    parts = [part.splitlines()[2:] for part in text.split("\n\n")[1:]]
    rows = [[[each.strip() for each in line.strip("|").split("|")] for line in part] for part in parts]
    return [{row[0]: row[1:] for row in table} for table in rows]


def test_a_run_has_each_shared_measurement_once_and_runs_are_in_the_order_of_time(same_twice: ModuleType) -> None:
    shared = measured("latency", 0.004, shared=("resnet18-scratch-cpu", "resnet18-full-cpu"))
    stretch = Measurement("train_throughput", (3.0,) * 9)
    records = [
        cell("resnet18", measured("latency", 0.005), run="later", number=2),
        cell("resnet18", shared, measured("inference_throughput", 90.0), measured("step_data_time", 1.0), stretch),
        record(Case("resnet18", "scratch"), run="one", number=1, measurements=(shared,)),
    ]
    runs = same_twice.by_run(records)
    assert list(runs) == ["one", "later"]
    # What has no slices is no such number, nor what is a part of another.
    assert runs["one"] == {
        ("resnet18-scratch-cpu", "latency"): shared,
        ("resnet18-full-cpu", "inference_throughput"): records[1].measurements[1],
    }


def test_pairs_are_of_one_policy_and_metric(same_twice: ModuleType) -> None:
    records = [
        cell("resnet18", measured("latency", 0.004), measured("train_throughput", 30.0)),
        cell("twin_resnet18", measured("latency", 0.005)),
        cell("slow5_resnet18", measured("latency", 0.006)),
        cell("twin_resnet9", measured("latency", 0.007)),
        record(Case("resnet9", "bn_only"), run="one", measurements=(measured("latency", 0.008),)),
    ]
    (numbers,) = same_twice.by_run(records).values()
    latencies = [each.measurements[0] for each in records]
    assert list(same_twice.pairs(numbers, "twin_")) == [("latency", latencies[0], latencies[1])]
    assert list(same_twice.pairs(numbers, "slow5_")) == [("latency", latencies[0], latencies[2])]


def test_a_pair_is_wrong_where_its_intervals_are_disjoint(same_twice: ModuleType) -> None:
    one = measured("latency", 0.004)
    records = [
        cell("resnet18", one, measured("inference_throughput", 90.0)),
        cell("twin_resnet18", measured("latency", 0.00401), measured("inference_throughput", 100.0)),
        cell("resnet9", measured("inference_throughput", 90.0)),
        cell("twin_resnet9", measured("inference_throughput", 91.0, noise=0.1)),
    ]
    (table,) = tables(same_twice.judged(same_twice.by_run(records)))
    found = interval_of(one)
    width = f"± {50 * (found.high - found.low) / found.estimate:.1f} %"
    assert table["latency"] == ["1", "0", width]
    assert table["inference_throughput"][:2] == ["2", "1"]
    tail = quantile_interval(one, 90)
    assert table["latency p90"] == ["1", "0", f"± {50 * (tail.high - tail.low) / tail.estimate:.1f} %"]
    assert table["all"][:2] == ["4", "1"]


@pytest.mark.parametrize(("third", "outside"), [(1.01, "0"), (1.5, "2")])
def test_a_later_run_lies_within_what_those_before_it_predict(
    same_twice: ModuleType, third: float, outside: str
) -> None:
    records = [
        cell(name, measured("latency", seconds * factor), run=f"run{run}", number=run)
        for run, factor in enumerate((1.0, 1.02, third))
        for name, seconds in (("resnet18", 0.004), ("resnet9", 0.001))
    ]
    _, later = tables(same_twice.judged(same_twice.by_run(records)))
    assert later["latency"][:2] == later["all"][:2] == ["2", outside]
    two = same_twice.by_run(records[:4])
    assert len(tables(same_twice.judged(two))) == 1, "one run says nothing of how runs differ"


@pytest.mark.parametrize(
    ("times", "held", "seen"),
    [(1.05, "2", "2"), (1.2, "0", "2"), (1.0, "0", "0")],
)
def test_a_planted_difference_is_found_or_undecided(same_twice: ModuleType, times: float, held: str, seen: str) -> None:
    """Of seconds and of images a second; of a slower network's training nothing is planted."""
    records = [
        cell("resnet18", measured("latency", 0.004), measured("inference_throughput", 90.0)),
        cell(
            "slow5_resnet18",
            measured("latency", 0.004 * times),
            measured("inference_throughput", 90.0 / times),
            measured("train_throughput", 30.0),
        ),
    ]
    *_, planted = tables(same_twice.judged(same_twice.by_run(records)))
    assert list(planted) == ["5 %"]
    assert planted["5 %"][:4] == ["2", held, seen, str(2 - int(seen))]


@pytest.mark.parametrize(("planted", "names"), [(False, "resnet9,twin_resnet9"), (True, "resnet9,slow3_resnet9")])
def test_a_run_has_each_network_beside_its_like(
    same_twice: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, planted: bool, names: str
) -> None:
    said: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: said.append(command))
    same_twice.measure(tmp_path, ["resnet9"], ["full"], ["--set", "seeds=1"], planted=planted)
    (command,) = said
    chosen = command[command.index("--arch") + 1]
    assert chosen.startswith(names)
    assert command[-2:] == ["--set", "seeds=1"]
    assert set(chosen.split(",")) <= set(ARCHITECTURES), "all of them are registered"
    assert command[command.index("--results") + 1] == str(tmp_path)
