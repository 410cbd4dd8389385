import gzip
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity

from fashiontl.profiling import profile_steps, profiler_is_on


class Workload:
    def __init__(self) -> None:
        self.steps = 0
        self.waits = 0
        self.matrix = torch.ones(64, 64)

    def step(self) -> None:
        self.steps += 1
        torch.mm(torch.mm(torch.mm(self.matrix, self.matrix), self.matrix), self.matrix).relu()

    def synchronize(self) -> None:
        self.waits += 1


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workload, list[dict[str, object]], Path]:
    workload = Workload()
    folder = tmp_path_factory.mktemp("traces") / "made" / "when needed"
    rows = profile_steps(workload.step, workload.synchronize, [ProfilerActivity.CPU], folder, "resnet18-full-cpu")
    return workload, rows, folder


def test_few_steps_and_a_wait_after_each(profiled: tuple[Workload, list[dict[str, object]], Path]) -> None:
    workload, _, _ = profiled
    assert (workload.steps, workload.waits) == (3, 3)


def test_operators_are_of_one_step_and_sorted_by_self_time(
    profiled: tuple[Workload, list[dict[str, object]], Path],
) -> None:
    _, rows, _ = profiled
    calls = {row["name"]: row["calls"] for row in rows}
    assert calls["aten::mm"] == 3.0
    assert calls["aten::relu"] == 1.0
    assert not any(str(name).startswith("ProfilerStep") for name in calls)
    times = [float(str(row["self_cpu_s"])) + float(str(row["self_device_s"])) for row in rows]
    assert times == sorted(times, reverse=True)
    assert all(0 <= time < 1 for time in times), "seconds, not microseconds"
    assert len(rows) <= 15


def test_the_trace_is_one_that_viewers_open(profiled: tuple[Workload, list[dict[str, object]], Path]) -> None:
    _, _, folder = profiled
    (trace,) = folder.iterdir()
    assert trace.name.startswith("resnet18-full-cpu.")
    assert trace.name.endswith(".pt.trace.json.gz")
    with gzip.open(trace) as file:
        events = json.load(file)["traceEvents"]
    assert sum(event.get("name") == "aten::mm" for event in events) == 6, "two active steps of three"
    assert sum(str(event.get("name")).startswith("ProfilerStep") and event["ph"] == "X" for event in events) == 2


@pytest.mark.parametrize("profiler", [torch.profiler.profile, torch.autograd.profiler.profile])
def test_a_profiler_that_records_is_seen_from_every_thread(profiler: Callable[[], AbstractContextManager[Any]]) -> None:
    assert not profiler_is_on()
    with profiler(), ThreadPoolExecutor() as threads:
        assert profiler_is_on()
        assert threads.submit(profiler_is_on).result()
    assert not profiler_is_on()
