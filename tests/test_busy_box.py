"""The page about planted neighbours: how runs are judged, and that neighbours end."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from records import record

from fashiontl.core.case import Case
from fashiontl.core.metrics import Measurement, Slices
from fashiontl.records import to_json


@pytest.fixture(scope="module")
def busy_box() -> ModuleType:
    path = Path(__file__).parent.parent / "bench" / "busy_box.py"
    spec = importlib.util.spec_from_file_location("busy_box", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["busy_box"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def latency(seconds: float, slow: float = 0.0, marked: bool = False) -> Measurement:
    """Twelve slices in three processes, each within 1 % of `seconds`; a third of them `slow` in its place."""
    values, third = [], tuple(range(0, 12, 3))
    for index in range(12):
        usual = slow if slow and index in third else seconds
        values.append(usual * (1 + 0.01 * (-1) ** index))
    processes = tuple(index // 4 for index in range(12))
    disturbed = {"other processes used the cores": third} if marked else {}
    slices = Slices("run", (1,) * 12, processes, tuple(range(12)), tuple(map(float, range(12))), disturbed)
    return Measurement("latency", tuple(values), slices=slices)


def kept(folder: Path, *runs: tuple[str, str, Measurement]) -> Path:
    for index, (neighbour, pattern, measurement) in enumerate(runs):
        place = folder / f"{index:03}"
        file = place / "results" / "runs" / "box" / "run.jsonl"
        file.parent.mkdir(parents=True)
        (place / "run.json").write_text(json.dumps({"neighbour": neighbour, "pattern": pattern}))
        file.write_text(to_json(record(Case("resnet18", "full"), measurements=(measurement,))) + "\n")
    return folder


def rows(busy_box: ModuleType, folder: Path, capsys: Any) -> dict[str, list[str]]:
    busy_box.main(["--judge", str(folder)])
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    return {line[0]: line[1:] for line in lines if len(line) > 1}


def test_a_marked_disturbance_leaves_the_number_right(busy_box: ModuleType, tmp_path: Path, capsys: Any) -> None:
    quiet = ("none", "", latency(0.004))
    found = rows(
        busy_box, kept(tmp_path, quiet, ("one spinning", "a third", latency(0.004, 0.03, True)), quiet), capsys
    )
    # runs, numbers, slices marked, numbers with a mark, wrong, wrong with all slices, largest error, unmarked wrong
    assert found["none"] == ["2", "2", "0%", "0", "0", "0", "0%", "0"]
    assert found["one spinning, a third"][:5] == ["1", "1", "33%", "1", "0"]
    assert found["one spinning, a third"][7] == "0"


def test_what_is_wrong_without_a_mark_is_told(busy_box: ModuleType, tmp_path: Path, capsys: Any) -> None:
    quiet = ("none", "", latency(0.004))
    found = rows(busy_box, kept(tmp_path, quiet, ("copying memory", "all", latency(0.008)), quiet), capsys)
    assert found["copying memory, all"] == ["1", "1", "0%", "0", "1", "1", "100%", "1"]


def test_each_busy_run_is_between_two_quiet_ones(busy_box: ModuleType) -> None:
    plan = busy_box.planned(["one spinning", "copying memory"], ["all"], 2)
    assert [run.name for run in plan] == [
        "none", "one spinning, all", "none", "copying memory, all", "none", "one spinning, all", "none",
        "copying memory, all", "none",
    ]  # fmt: skip


def test_a_folder_without_runs_is_told(busy_box: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="make them with --keep"):
        busy_box.main(["--judge", str(tmp_path)])


@pytest.mark.parametrize("pattern", ["all", "a third"])
def test_neighbours_end_with_the_run(
    busy_box: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pattern: str
) -> None:
    monkeypatch.setattr(busy_box.time, "sleep", lambda seconds: None)
    monkeypatch.setitem(busy_box.NEIGHBOURS, "one spinning", ["threading.Event().wait()"])
    before = {child.pid for child in psutil.Process().children()}
    seen: list[psutil.Process] = []

    def fail() -> None:
        with busy_box.planted(busy_box.Run("one spinning", pattern), tmp_path):
            seen.extend(child for child in psutil.Process().children() if child.pid not in before)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    (child,) = seen
    assert not psutil.pid_exists(child.pid)


def test_a_neighbour_ends_when_nobody_is_left_to_end_it(busy_box: ModuleType, tmp_path: Path) -> None:
    code = busy_box._ENDS + "threading.Event().wait()"
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "scrap")], stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(timeout=30) == 0
