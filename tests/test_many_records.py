import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from records import evaluated, tables

from fashiontl.core.case import Case
from fashiontl.records import Record, RunFile, read_runs, to_json
from fashiontl.reports.leaderboard.page import read_rows


@pytest.fixture
def script(bench_script: Callable[[str], ModuleType]) -> ModuleType:
    return bench_script("many_records")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three records that went well, and a longer one that did not."""
    path = tmp_path / "run.jsonl"
    for words in (1, 2, 3):
        RunFile(path).append(original(command="pytest " * words))
    RunFile(path).append(original(command="pytest " * 99, status="oom"))
    return path


def original(**fields: object) -> Record:
    return evaluated(Case("vgg11", "full"), **fields)


def test_the_record_of_median_length_that_went_well(script: ModuleType, run: Path) -> None:
    assert script.median_record(run).command == "pytest pytest "


def test_every_index_is_a_cell_of_its_own(script: ModuleType) -> None:
    made = [script.cell(index, original()) for index in range(0, 100_000, 7)]
    assert len({(each.case, each.settings) for each in made}) == len(made)
    assert all(each.id == each.case.id for each in made)


def test_records_are_like_the_original_and_differ_in_raw_values(script: ModuleType, tmp_path: Path) -> None:
    size = script.make(tmp_path, original(), 60, 20)
    records, faults = read_runs(tmp_path)
    assert (len(records), faults, len({each.case for each in records})) == (60, (), 20)
    assert size == sum(path.stat().st_size for path in tmp_path.glob("runs/*/*.jsonl"))
    assert 0.9 < size / 60 / len(to_json(original())) < 1.1
    assert len({each.started for each in records}) == len({each.values("latency") for each in records}) == 60
    for each in records:
        assert [(m.metric, len(m.values)) for m in each.measurements] == [
            (m.metric, len(m.values)) for m in original().measurements
        ]
        assert all(value == round(value * 800) / 800 for value in each.values("accuracy"))
        assert each.provenance.keys() == original().provenance.keys()
    rows, _ = read_rows(tmp_path)
    assert len(rows) == 20


def test_digits_are_those_of_the_original(script: ModuleType) -> None:
    assert [script.decimals(value) for value in (327.2891, 5e-7, 3.0)] == [4, 7, 1]


def test_what_a_process_took(script: ModuleType, tmp_path: Path) -> None:
    script.make(tmp_path, original(), 9, 9)
    found = script.read(tmp_path)
    assert found.size == (tmp_path / "leaderboard.md").stat().st_size > 0
    assert found.peak > 2**20
    assert min(dataclasses.astuple(found)) > 0
    assert found.total == found.reading + found.grouping + found.rendering


def test_the_table(script: ModuleType, run: Path) -> None:
    page = script.main(["--records", "6", "--cells", "2", "6", "--run", str(run), "--repeats", "1"])
    header, _, *lines = tables(page)[0]
    assert header[:3] == ["Records", "Cells", "Bytes a record"]
    assert [line[:2] for line in lines] == [["6", "2"], ["6", "6"]]
    assert "The least busy of 1, on " in page
