import dataclasses
import itertools
import json
import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import LAPTOP, SERVER, failed, record

from fashiontl.core.case import PRESETS, Case
from fashiontl.core.errors import FashiontlError
from fashiontl.core.metrics import Measurement
from fashiontl.gate.baseline_commands import add, listed, prune, shown
from fashiontl.gate.baselines import Baseline, baseline_of, independent, numbers_of, read_baselines
from fashiontl.machine.environment import machine_key
from fashiontl.records import Record, RunFile

CASE, OTHER = Case("resnet18", "full"), Case("vgg11", "linear_probe")
MACHINE = machine_key(LAPTOP)
FIRST = datetime.fromisoformat("2026-11-01T00:00:00+00:00")


def numbers(latency: float = 0.01, parameters: float = 11_181_642.0) -> tuple[Measurement, ...]:
    return (
        Measurement("latency", (latency * 0.9, latency, latency * 1.5)),
        Measurement("accuracy", (0.5, 0.75), 800),
        Measurement("parameters", (parameters,)),
        Measurement("training_energy", ()),
    )


def measured(number: int = 0, case: Case = CASE, hours: float | None = None, **fields: Any) -> Record:
    """A record of a run with a number, which began so many hours after the first; as many as its number if not told."""
    started = FIRST + timedelta(hours=number if hours is None else hours)
    named = {"run": f"run{number:03}", "started": started.isoformat(), "measurements": numbers()}
    return record(case, **{**named, **fields})


def store(results: Path, *records: Record) -> Path:
    path = results / "runs" / records[0].machine / f"{records[0].run}.jsonl"
    for each in records:
        RunFile(path).append(each)
    return path


def kept(results: Path, run: int = 0, **fields: Any) -> str:
    """The answer of adding a run of one record."""
    return add(results, store(results, measured(run, **fields)))


def baseline(hours: float) -> Baseline:
    return baseline_of([measured(hours=hours)])


def test_medians_are_kept_and_of_accuracy_the_mean() -> None:
    assert numbers_of(measured()) == {"latency": 0.01, "accuracy": 0.625, "parameters": 11_181_642.0}


def test_a_run_is_added_and_read_again(tmp_path: Path) -> None:
    broken = failed(OTHER, "crashed", "SIGSEGV", run="run000", started=FIRST.isoformat())
    path = store(tmp_path, measured(), broken)
    place = tmp_path / "baselines" / MACHINE / "run000.json"
    assert add(tmp_path, path).splitlines() == [
        f"added {place}: 1 cell",
        "left out vgg11-linear_probe-cpu: crashed: SIGSEGV",
        f"{MACHINE} has 1 independent run; timings need 8",
    ]
    expected = Baseline(
        1, MACHINE, "run000", LAPTOP.git_sha, False, FIRST.isoformat(), "pytest bench/", PRESETS["quick"],
        {CASE.id: numbers_of(measured())},
    )  # fmt: skip
    assert read_baselines(tmp_path) == ((expected,), ())
    assert expected.time == FIRST


def test_without_a_file_the_newest_run_is_added(tmp_path: Path) -> None:
    for run in (2, 10, 3):
        store(tmp_path, measured(run))
    assert "run010.json: 1 cell" in add(tmp_path)


def test_each_machine_of_a_run_has_its_own_baseline(tmp_path: Path) -> None:
    gpu = measured(case=Case("resnet18", "full", "cuda"), environment=SERVER)
    add(tmp_path, store(tmp_path, measured(), gpu))
    assert [(each.machine, list(each.cells)) for each in read_baselines(tmp_path).baselines] == [
        (MACHINE, ["resnet18-full-cpu"]), (machine_key(SERVER), ["resnet18-full-cuda"]),
    ]  # fmt: skip


def test_of_a_case_measured_twice_in_a_run_the_newest_counts(tmp_path: Path) -> None:
    add(tmp_path, store(tmp_path, measured(), measured(hours=0.5, measurements=numbers(0.02))))
    (only,) = read_baselines(tmp_path).baselines
    assert only.cells[CASE.id]["latency"] == 0.02


def test_a_baseline_never_changes(tmp_path: Path) -> None:
    kept(tmp_path)
    with pytest.raises(FashiontlError, match=r"run000\.json: this run is a baseline already, and baselines never"):
        add(tmp_path)


@pytest.mark.parametrize(
    ("records", "fault"),
    [
        ([failed(CASE, "oom", "too large")], "expected a run with a case that went well"),
        ([measured(0), measured(1, OTHER)], "expected one run with one set of settings, got several in run000"),
        (
            [measured(0), measured(0, OTHER, settings=dataclasses.replace(PRESETS["quick"], epochs=3))],
            "expected one run with one set of settings",
        ),
        (
            [measured(0, run="../../up")],
            r"field run: expected up to 200 letters, digits and \.\+-_, got '\.\./\.\./up'",
        ),
    ],
)
def test_what_cannot_be_a_baseline_is_told(tmp_path: Path, records: list[Record], fault: str) -> None:
    path = tmp_path / "run.jsonl"
    for each in records:
        RunFile(path).append(each)
    with pytest.raises(FashiontlError, match=fault):
        add(tmp_path, path)
    assert not (tmp_path / "baselines").exists()


def test_settings_that_do_not_change_a_number_may_differ(tmp_path: Path) -> None:
    longer = dataclasses.replace(PRESETS["quick"], seconds=9.0)
    assert "2 cells" in add(tmp_path, store(tmp_path, measured(), measured(case=OTHER, settings=longer)))


def test_a_run_with_a_broken_line_is_no_baseline(tmp_path: Path) -> None:
    path = store(tmp_path, measured())
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(FashiontlError, match=r"run000\.jsonl:2: expected one record in JSON"):
        add(tmp_path)


def test_without_runs_the_next_step_is_told(tmp_path: Path) -> None:
    with pytest.raises(FashiontlError, match=r"got none; run pytest bench/ --results .* first, or name a run"):
        add(tmp_path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"schema": 9}, "expected schema 1, got 9"),
        ({"run": "another"}, f"expected the place {MACHINE}/another.json"),
        ({"machine": "another"}, "expected the place another/run000.json"),
        ({"started": "today"}, "field started: expected an ISO time in UTC such as"),
        ({"started": "2099-01-01T00:00:00+00:00"}, "field started: expected a time from 2025-01-01 to "),
        ({"cells": {"a": {"latency": -1.0}}}, "field cells.a.latency: expected a number from 1e-12 to 1e+09, got -1.0"),
        ({"cells": {"a": {"flops": 1e308}}}, "field cells.a.flops: expected a number from 0 to 1e+18, got 1e+308"),
        ({"cells": {"a": {"speed": 1.0}}}, "field cells: unknown metric 'speed'"),
        ({"cells": {"a": {"latency": "1"}}}, "field cells.a.latency: expected a number or a whole number, got text"),
        ({"cells": {"a": [1]}}, "field cells.a: expected an object, got a list"),
        ({"settings": {"epoch": 1}}, "field settings.epoch is unknown"),
        ({"more": 1}, "field more is unknown"),
    ],
)
def test_a_broken_baseline_is_a_fault_and_no_baseline(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    kept(tmp_path, 1)
    kept(tmp_path)
    path = tmp_path / "baselines" / MACHINE / "run000.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    baselines, faults = read_baselines(tmp_path)
    assert [each.run for each in baselines] == ["run001"]
    assert len(faults) == 1
    assert faults[0].startswith(f"{path}: ")
    assert fault in faults[0]
    for text in (listed(tmp_path), shown(tmp_path), prune(tmp_path, 1)):
        assert f"not read: {faults[0]}" in text


def test_a_key_that_a_baseline_has_twice_is_a_fault(tmp_path: Path) -> None:
    kept(tmp_path)
    path = tmp_path / "baselines" / MACHINE / "run000.json"
    path.write_text(path.read_text().replace('"run":', '"run":"other","run":', 1))
    baselines, (fault,) = read_baselines(tmp_path)
    assert baselines == ()
    assert "key 'run' is given twice" in fault


def test_a_setting_from_after_a_baseline_has_its_default(tmp_path: Path) -> None:
    kept(tmp_path)
    path = tmp_path / "baselines" / MACHINE / "run000.json"
    text = json.loads(path.read_text())
    del text["settings"]["half_width"]
    path.write_text(json.dumps(text))
    assert read_baselines(tmp_path).baselines[0].settings == PRESETS["quick"]


def test_runs_an_hour_apart_are_independent() -> None:
    made = [baseline(hours) for hours in (0, 0.5, 1.2, 2, 2.9, 3)]
    assert [each.time for each in independent(made)] == [made[index].time for index in (5, 3, 1)]
    assert independent([]) == []


@given(st.lists(st.floats(0, 12), max_size=12))
def test_no_choice_of_independent_runs_is_larger(hours: list[float]) -> None:
    chosen = [each.time for each in independent([baseline(hour) for hour in hours])]
    assert all(later - earlier >= timedelta(hours=1) for later, earlier in itertools.pairwise(chosen))
    times = sorted(FIRST + timedelta(hours=hour) for hour in hours)
    most, last = 0, FIRST - timedelta(days=1)
    for time in times:
        if time - last >= timedelta(hours=1):
            most, last = most + 1, time
    assert len(chosen) == most


def lines(text: str) -> list[list[str]]:
    return [[part for part in line.split("  ") if part.strip()] for line in text.splitlines()]


def test_the_list_has_a_line_a_machine_and_settings(tmp_path: Path) -> None:
    for run, hours in enumerate((0, 0.5, 30)):
        kept(tmp_path, run, hours=hours)
    kept(tmp_path, 7, settings=PRESETS["smoke"])
    assert [[part.strip() for part in line] for line in lines(listed(tmp_path))] == [
        ["machine", "preset", "runs", "independent", "cells", "from (UTC)", "to (UTC)"],
        ["-" * 28, "-" * 8, "-" * 6, "-" * 13, "-" * 7, "-" * 16, "-" * 16],
        [MACHINE, "quick", "3", "2", "1", "2026-11-01 00:00", "2026-11-02 06:00"],
        [MACHINE, "smoke", "1", "1", "1", "2026-11-01 07:00", "2026-11-01 07:00"],
    ]


def test_medians_and_their_spread_are_shown(tmp_path: Path) -> None:
    for run, latency in enumerate((0.01, 0.01 * math.exp(0.02), 0.01 * math.exp(0.04))):
        kept(tmp_path, run, measurements=numbers(latency, 1e6 if run else 2e6))
    title, *table = lines(shown(tmp_path))
    assert title == [f"{MACHINE}, quick: 3 runs"]
    assert [[part.strip() for part in line] for line in table if not line[0].startswith("-")] == [
        ["cell", "metric", "runs", "median", "spread"],
        [CASE.id, "Latency (ms)", "3", "10.2", "2.0 %"],
        ["Parameters (M)", "3", "1", "differs"],
        ["Accuracy (%)", "3", "62.5", "none"],
    ]


def test_one_machine_can_be_shown(tmp_path: Path) -> None:
    kept(tmp_path)
    assert shown(tmp_path, "amd").startswith(MACHINE)
    assert shown(tmp_path, "nvidia").startswith("no baselines under ")


def test_a_single_run_has_no_spread(tmp_path: Path) -> None:
    kept(tmp_path)
    assert [line[-1].strip() for line in lines(shown(tmp_path))[3:]] == ["—"] * 3


def test_without_baselines_the_command_that_makes_one_is_told(tmp_path: Path) -> None:
    expected = f"no baselines under {tmp_path / 'baselines'}; make one: pytest bench/ && fashiontl baseline add"
    assert listed(tmp_path) == shown(tmp_path) == expected


def test_nothing_is_pruned_without_a_yes(tmp_path: Path) -> None:
    for run in range(4):
        kept(tmp_path, run)
    folder = tmp_path / "baselines" / MACHINE
    assert prune(tmp_path, 2).splitlines() == [
        f"would remove {folder / 'run000.json'}",
        f"would remove {folder / 'run001.json'}",
        f"{MACHINE}: fewer than 8 independent runs stay, too few to judge timings",
        "nothing was removed; repeat it with --yes",
    ]
    assert len(list(folder.iterdir())) == 4


def test_the_newest_stay_of_each_machine_and_settings(tmp_path: Path) -> None:
    for run in range(3):
        kept(tmp_path, run)
    kept(tmp_path, 9, hours=-5, settings=PRESETS["smoke"])
    folder = tmp_path / "baselines" / MACHINE
    assert prune(tmp_path, 1, yes=True).splitlines()[:2] == [
        f"removed {folder / 'run000.json'}", f"removed {folder / 'run001.json'}",
    ]  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == ["run002.json", "run009.json"]
    assert prune(tmp_path, 1, yes=True) == "nothing to remove"


def test_pruning_keeps_one_at_least(tmp_path: Path) -> None:
    with pytest.raises(FashiontlError, match="expected 1 or more baselines to keep, got 0"):
        prune(tmp_path, 0, yes=True)
