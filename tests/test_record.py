"""Records: one line of JSON each, read strictly, and files of runs that lose nothing."""

import dataclasses
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from records import SERVER, evaluated, failed, matrix, record, sliced

from fashiontl.core.case import PRESETS, Case
from fashiontl.core.errors import FashiontlError
from fashiontl.core.files import write_atomically
from fashiontl.core.metrics import METRICS, Measurement, Slices
from fashiontl.records import (
    Record,
    RunFile,
    check_writable,
    from_json,
    journal_folder,
    latest,
    new_run_path,
    read_file,
    read_newest,
    read_runs,
    resumable,
    to_frame,
    to_json,
)
from fashiontl.records.facts import Facts, Proof
from fashiontl.reports.leaderboard.page import render, summary

CASE = Case("resnet18", "linear_probe")
RESULTS = Path(__file__).parent.parent / "results"
TEXTS = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
MEASUREMENTS = st.sampled_from([metric for name, metric in METRICS.items() if name != "accuracy"]).flatmap(
    lambda metric: st.builds(
        Measurement, st.just(metric.name), st.lists(st.floats(metric.least, metric.most), max_size=5).map(tuple)
    )
)
RECORDS = st.builds(
    record,
    st.builds(Case, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS),
    settings=st.builds(dataclasses.replace, st.just(PRESETS["full"]), data_root=TEXTS, epochs=st.integers(1, 99)),
    environment=st.builds(dataclasses.replace, st.just(SERVER), cpu=TEXTS, load=st.none() | st.floats(0, 9)),
    status=st.sampled_from(["ok", "skipped", "oom", "timeout", "crashed", "invalid"]),
    reason=TEXTS,
    warnings=st.lists(TEXTS, max_size=3).map(tuple),
    measurements=st.lists(MEASUREMENTS, max_size=4, unique_by=lambda each: each.metric).map(tuple),
    proof=st.none() | st.builds(Proof, holds=st.booleans(), unmoved=st.lists(TEXTS).map(tuple)),
    provenance=st.dictionaries(TEXTS.filter(lambda name: name not in Facts.__struct_fields__), JSON, max_size=3),
    artifacts=st.dictionaries(TEXTS, TEXTS, max_size=2),
)


def store(results: Path, name: str, *records: Record) -> Path:
    path = results / "runs" / "machine" / f"{name}.jsonl"
    for each in records:
        RunFile(path).append(each)
    return path


def message(text: str | bytes) -> str:
    with pytest.raises(FashiontlError) as caught:
        from_json(text, "runs/m/x.jsonl:3")
    told = str(caught.value)
    assert told.startswith("runs/m/x.jsonl:3")
    return told


def line_with(change: Callable[[dict[str, Any]], object]) -> str:
    """A good line after a change."""
    values = json.loads(to_json(evaluated(CASE)))
    change(values)
    return json.dumps(values)


def setting(*path: Any) -> Callable[[dict[str, Any]], None]:
    """A change that sets the last of a path to entries: names, places in lists, and last the value."""

    def change(values: Any) -> None:
        *where, name, value = path
        for each in where:
            values = values[each]
        values[name] = value

    return change


def measured(metric: str, *values: Any, trials: int = 0) -> Callable[[dict[str, Any]], None]:
    def change(line: dict[str, Any]) -> None:
        (entry,) = (entry for entry in line["measurements"] if entry["metric"] == metric)
        entry.update(values=list(values), trials=trials or entry["trials"])

    return change


# --- a line ---


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=30, derandomize=True)
@given(RECORDS)
def test_a_line_gives_the_record_back_and_can_be_shown(original: Record) -> None:
    line = to_json(original)
    assert "\n" not in line
    read = from_json(line, "x:1")
    assert read == from_json(line.encode(), "x:1") == original
    render([read])
    summary([read])
    to_frame([read])


def test_every_committed_record_is_read() -> None:
    records, errors = read_runs(RESULTS)
    assert (len(records), errors) == (165, ())
    made = render(records)
    assert made == (RESULTS / "leaderboard.md").read_text(), "run `fashiontl leaderboard` and commit the page"


def test_what_is_not_finite_becomes_unknown_with_a_warning() -> None:
    broken = record(
        CASE,
        measurements=(Measurement("latency", (0.5, math.inf)), Measurement("flops", (3.0,))),
        provenance={"losses": [[1.0, math.nan]], "lr": -math.inf},
        warnings=("first",),
    )
    read = from_json(to_json(broken), "x:1")
    assert (read.values("latency"), read.values("flops")) == ((), (3.0,))
    assert read.provenance == {"losses": [[1.0, None]], "lr": None}
    assert len(read.warnings) == 3
    assert "latency" in read.warnings[1]


IN_SLICES = sliced(
    "latency", (0.004, 0.005), (0.006,), conditions={"steal": (0.0, 0.0, 0.1)}, disturbed={"load": (1,)},
    prior=(0.01, 4.0), shared=(CASE.id,),
)  # fmt: skip


def test_slices_that_are_not_finite_are_left_out_with_a_warning() -> None:
    assert IN_SLICES.slices is not None
    read = from_json(to_json(record(CASE, measurements=(IN_SLICES, Measurement("flops", (3.0,))))), "x:1")
    assert (read.measurements[0], read.warnings) == (IN_SLICES, ())
    odd = replace(
        IN_SLICES.slices,
        conditions={"load": (1.0, math.nan, 2.0), "steal": (0.0,) * 3},
        prior=(0.1, math.inf),
        common=(0.0, math.nan, 0.0),
    )
    read = from_json(to_json(record(CASE, measurements=(replace(IN_SLICES, slices=odd),))), "x:1")
    kept = read.measurements[0].slices
    assert kept == replace(odd, conditions={"steal": (0.0,) * 3}, prior=None, common=())
    assert read.warnings == (
        "latency: what its slices say of the machine was not all finite numbers; such lists are left out",
    )
    timeless = replace(IN_SLICES, slices=replace(odd, starts=(0.0, math.inf, 1.0)))
    read = from_json(to_json(record(CASE, measurements=(timeless,))), "x:1")
    assert read.measurements == (Measurement("latency", ()),)


def slices_with(**parts: Any) -> Callable[[dict[str, Any]], None]:
    """A change that gives the latency values in slices, with some parts replaced."""

    def change(line: dict[str, Any]) -> None:
        (entry,) = (entry for entry in line["measurements"] if entry["metric"] == "latency")
        made = json.loads(to_json(record(CASE, measurements=(IN_SLICES,))))["measurements"][0]
        entry |= made | {name: parts.pop(name) for name in ("values",) if name in parts}
        entry["slices"] |= parts

    return change


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"counts": [2, 2, 3]}, "'latency': expected counts of slices that sum to its 6 values, got 7"),
        ({"counts": [2, 4]}, "expected one of slices.processes for each of the 2 slices, got 3"),
        ({"processes": [0, 0]}, "expected one of slices.processes for each of the 3 slices, got 2"),
        ({"rounds": []}, "expected one of slices.rounds for each of the 3 slices, got 0"),
        ({"starts": [0.0] * 4}, "expected one of slices.starts for each of the 3 slices, got 4"),
        ({"conditions": {"load": [1.0]}}, "expected one of slices.conditions['load'] for each of the 3 slices, got 1"),
        ({"disturbed": {"steal": [0, 3]}}, "expected slices.disturbed['steal'] to be below 3, got 3"),
        ({"starts": [0.0, -1.0, 1.0]}, "expected slices.starts of 0 or more seconds, got -1"),
        ({"common": [0.1]}, "expected one of slices.common for each of the 3 slices, got 1"),
        ({"common": [0.1, -99, 0]}, "expected slices.common from -20 to 20, got 99 without its sign"),
        ({"counts": [-2, 2, 6]}, "slices.counts[0]: expected `int` >= 0, got -2"),
        ({"disturbed": {"steal": [-1]}}, "slices.disturbed[...][0]: expected `int` >= 0"),
        ({"prior": [0.1]}, "slices.prior: expected `array` of length 2"),
        ({"prior": [-0.1, 1]}, "slices.prior[0]: expected `float` >= 0.0, got -0.1"),
        ({"group": None}, "slices.group: expected `str`, got `null`"),
        ({"starts": ["now"] * 3}, "slices.starts[0]: expected `float`, got `str`"),
    ],
)
def test_slices_that_cannot_be_are_refused(parts: dict[str, Any], told: str) -> None:
    assert told in message(line_with(slices_with(**parts)))


def test_all_faults_of_slices_are_told_at_once() -> None:
    told = message(line_with(slices_with(counts=[1], rounds=[], disturbed={"load": [9]}, starts=[-1.0])))
    for part in ("counts of slices", "slices.processes", "slices.rounds", "slices.disturbed['load']", "slices.starts"):
        assert part in told


@pytest.mark.parametrize("value", [0.0, -0.5])
def test_logarithms_of_slices_take_nothing_but_not_less(value: float) -> None:
    part = sliced("a_metric_of_later", (0.1, value))
    line = to_json(record(CASE, measurements=(part,)))
    if value < 0:
        assert "'a_metric_of_later': expected values of 0 or more in slices, got -0.5" in message(line)
    else:
        assert from_json(line, "x:1").measurements == (part,)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.sampled_from([*Slices.__struct_fields__]), JSON | st.lists(st.integers(-2, 9) | st.floats(-1, 9), max_size=4))
def test_whatever_stands_in_slices_is_refused_or_can_be_shown(name: str, value: Any) -> None:
    try:
        read = from_json(line_with(slices_with(**{name: value})), "x:1")
    except FashiontlError:
        return
    render([read])
    summary([read])
    to_frame([read])


def test_a_metric_that_this_version_does_not_know_is_kept() -> None:
    unknown = Measurement("load_peak_memory", (2.0**20,))
    read = from_json(to_json(record(CASE, measurements=(unknown,))), "x:1")
    assert read.measurements == (unknown,)
    assert to_frame([read]).unit.tolist() == [""]


def test_parts_that_older_lines_lack_take_their_defaults() -> None:
    line = json.loads(to_json(record(CASE)))
    del line["settings"]["augment"], line["case"]["precision"], line["environment"]["threads_limit"]
    line["provenance"], line["proof"] = {}, None
    read = from_json(json.dumps(line), "x:1")
    assert (read.settings.augment, read.case.precision, read.environment.threads_limit) == (False, "fp32", None)
    assert (read.facts(), read.proof) == (Facts(), None)


def test_a_name_outside_of_unicode_is_read_with_question_marks(tmp_path: Path) -> None:
    original = record(CASE, command="pytest --data-root=caf\udce9")
    (read,), errors = read_file(store(tmp_path, "run", original))
    assert (read, errors) == (replace(original, command="pytest --data-root=caf?"), ())
    assert read_newest(tmp_path, lambda each, earlier: each) == ([read], [])


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"schema": NaN}', b'{"schema": "\xff"}', "[" * 100_000, "<<<<<<< HEAD", to_json(record(CASE))[:-9],
     to_json(record(CASE)).replace("[[1.25,0.5]]", "[" * 10_000 + "]" * 10_000), "[1]", "3"],
)  # fmt: skip
def test_what_is_not_an_object_of_json(text: str | bytes) -> None:
    assert ": expected " in message(text)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (setting("schema", 2), "expected schema 1, got 2; read it with the version"),
        (lambda line: line.pop("schema"), "expected a field `schema`, got none"),
        (lambda line: line.pop("machine"), "expected a field `machine`, got none"),
        (lambda line: line["case"].pop("policy"), "$.case: expected a field `policy`, got none"),
        (setting("colour", "red"), "$: expected known fields only, got 'colour'"),
        (setting("settings", "colour", 1), "$.settings: expected known fields only, got 'colour'"),
        (setting("warnings", [1]), "$.warnings[0]: expected `str`, got `int`"),
        (measured("latency", 0.1, -0.1), "latency: expected numbers from 1e-12 to 1e+09, got -0.1"),
        (measured("latency", "fast"), "values[0]: expected `float`, got `str`"),
        (measured("flops", 10**400), "values[0]: expected a number that a float holds, got a larger one"),
        (measured("accuracy", 1.5, trials=800), "accuracy: expected numbers from 0 to 1, got 1.5"),
        (measured("accuracy", 0.1234, trials=800), "accuracy: expected fractions of 1 or more whole images"),
        (measured("accuracy", 0.5, 0.5, trials=800), "evaluation: expected one entry per accuracy (2), got 3"),
        (measured("accuracy", 0.5, trials=10), "confusion: expected the 10 images of the accuracy, got 800"),
        (lambda line: line["measurements"].append(line["measurements"][2]), "got several of 'latency'"),
        (setting("started", "yesterday"), "$.started: expected an ISO time in UTC such as"),
        (setting("started", "2099-01-02T03:04:05+00:00"), "$.started: expected a time from 2025-01-01 to "),
        (setting("started", "2026-13-02T03:04:05+00:00"), "$.started: expected an ISO time in UTC such as"),
        (setting("started", "1970-01-01T00:00:00+00:00"), "$.started: expected a time from 2025-01-01 to "),
        (setting("machine", "../../x"), "$.machine: expected `str` matching regex"),
        (setting("id", "vgg11-full-cpu"), "$.id: expected 'resnet18-linear_probe-cpu', as its case says, got 'vgg"),
        (setting("status", "fine"), "$.status: expected one of the known values, got 'fine'"),
        (setting("settings", "seeds", -1), "$.settings.seeds: expected `int` >= 1, got -1"),
        (setting("case", "batch", -1), "$.case.batch: expected `int` >= 0, got -1"),
        (setting("environment", "memory", -1), "$.environment.memory: expected `int` >= 0, got -1"),
        (setting("proof", "holds", "yes"), "$.proof.holds: expected `bool`, got `str`"),
        (setting("provenance", "weights", "sha256", [1]), "$.provenance.weights.sha256: expected `str | null`"),
        (setting("provenance", "peak", "matmul", -1), "$.provenance.peak[...]: expected `float` >= 0"),
        (setting("provenance", "evaluation", 0, "confusion", 0, 0, -1), "confusion[0][0]: expected `int` >= 0"),
        (setting("provenance", "evaluation", 0, "confusion", 0, []), "confusion: expected as many columns as rows"),
        (setting("provenance", "evaluation", 0, "confusion", []), "confusion: expected as many columns as rows"),
        (setting("artifacts", "trace", 5), "$.artifacts[...]: expected `str`, got `int`"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(change: Callable[[dict[str, Any]], object], told: str) -> None:
    assert told in message(line_with(change))


def test_a_fault_of_each_field_is_told() -> None:
    def change(line: dict[str, Any]) -> None:
        line |= {"machine": "../x", "status": "fine", "reason": 3}
        line["provenance"]["evaluation"][0]["loss"] = "much"
        line["provenance"]["image_size"] = 0
        line["settings"]["epochs"] = line["settings"]["seeds"] = -1

    told = message(line_with(change))
    for name in ("machine", "status", "reason", "evaluation[0].loss", "image_size", "settings.epochs", "seeds"):
        assert name in told


def test_all_that_cannot_be_is_told_at_once() -> None:
    def change(line: dict[str, Any]) -> None:
        measured("latency", -1.0)(line)
        measured("accuracy", 0.12345, trials=800)(line)
        line |= {"started": "2099-01-01T00:00:00+00:00", "id": "vgg11-full-cpu"}

    told = message(line_with(change))
    assert all(name in told for name in ("latency:", "accuracy:", "started:", "id:"))


@pytest.mark.parametrize("hours", [12, 48])
def test_a_clock_may_be_ahead_by_a_day(hours: int) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=hours)).isoformat(timespec="seconds")
    line = line_with(setting("started", soon))
    if hours < 24:
        assert from_json(line, "x:1").started == soon
    else:
        assert "check the clocks" in message(line)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('"run":', '"run":"other","run":', "run"),
        ('"run":', '"run" :"other","run":', "run"),
        ('"epochs":', '"epochs":3,"epochs":', "epochs"),
        ('"sha256":', '"sha256":"a","sha256":', "sha256"),
        ('"losses":', '"losses":[],"losses":', "losses"),
        ('"artifacts":{', '"artifacts":{"a\\\\":"","b":"","b":""', "b"),
        ('"artifacts":{', '"artifacts":{"b":"\\u0022:","b":""', "b"),
    ],
)
def test_a_key_that_is_given_twice_is_a_fault(old: str, new: str, key: str) -> None:
    line = to_json(record(CASE))
    assert old in line
    assert f"the key '{key}' twice" in message(line.replace(old, new, 1))


@settings(max_examples=50, derandomize=True)
@given(st.sampled_from([*Record.__struct_fields__, *(f"provenance.{name}" for name in Facts.__struct_fields__)]), JSON)
def test_whatever_stands_in_a_field_is_refused_or_can_be_shown(name: str, value: Any) -> None:
    text = line_with(setting(*name.split("."), value))
    try:
        read = from_json(text, "x:1")
    except FashiontlError:
        return
    render([read])


# --- files of runs ---


def test_append_keeps_what_is_there(tmp_path: Path) -> None:
    records = matrix()[:3]
    path = store(tmp_path, "run", *records)
    assert read_file(path) == (tuple(records), ())
    assert list(path.parent.iterdir()) == [path]


def test_many_writers_share_a_file(tmp_path: Path) -> None:
    records = matrix()
    path = tmp_path / "runs" / "m" / "shared.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda each: RunFile(path).append(each), records))
    assert sorted(each.id for each in read_file(path).records) == sorted(each.id for each in records)


def full_disk(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_failed_write_leaves_the_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store(tmp_path, "run", record(CASE))
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"other")
    assert (path.read_bytes(), list(path.parent.iterdir())) == (before, [path])


def test_a_record_whose_file_cannot_be_written_is_saved_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / "run.jsonl"
    path.mkdir()
    for number in (1, 2):
        with pytest.raises(FashiontlError, match=f"got {path}: Is a directory"):
            RunFile(path).append(record(CASE, number=number))
    saved = read_file(tmp_path / "fashiontl-run.jsonl")
    assert saved == ((record(CASE, number=1), record(CASE, number=2)), ())


def test_a_record_that_no_file_takes_is_in_the_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(FashiontlError, match="No space left") as caught:
        RunFile(tmp_path / "run.jsonl").append(record(CASE))
    assert from_json(str(caught.value).strip().splitlines()[-1], "x:1") == record(CASE)


def test_measurements_are_kept_where_provenance_cannot_be_written(tmp_path: Path) -> None:
    (read,), errors = read_file(store(tmp_path, "run", record(CASE, provenance={"losses": object()})))
    assert (read.measurements, errors) == (record(CASE).measurements, ())
    assert "provenance could not be written" in read.warnings[0]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_folder_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    results = tmp_path / os.fsdecode(b"caf\xe9")
    path = store(results, "run", *matrix()[:2])
    path.write_bytes(path.read_bytes() + b"{broken")
    assert len(RunFile(path).append(record(CASE))) == 1
    assert len(read_runs(results).records) == 3


def test_no_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    assert read_file(store(tmp_path, "run", record(CASE))) == ((record(CASE),), ())


@pytest.mark.parametrize("left", [1, 200, -2])
def test_a_last_line_that_was_cut_off_is_moved_aside(tmp_path: Path, left: int) -> None:
    first, second, third = matrix()[:3]
    path = store(tmp_path, "run", first, second)
    lines = path.read_bytes().splitlines(keepends=True)
    cut = lines[1][:left]
    path.write_bytes(lines[0] + cut)
    (said,) = RunFile(path).append(third)
    assert read_runs(tmp_path) == ((first, third), ())
    (aside,) = set(path.parent.iterdir()) - {path}
    assert aside.read_bytes() == cut
    assert aside.name in said


def test_repair_without_a_record(tmp_path: Path) -> None:
    path = store(tmp_path, "run", *matrix()[:2])
    whole = path.read_bytes()
    for left, said in ((whole, 0), (whole[:-1], 0), (whole + bytes(3), 1)):
        path.write_bytes(left)
        assert len(RunFile(path).repair()) == said
        assert path.read_bytes() == whole


def test_a_line_that_is_whole_but_refused_stays_where_it_is(tmp_path: Path) -> None:
    path = store(tmp_path, "run", record(CASE))
    path.write_bytes(path.read_bytes() + b'{"schema":99}')
    assert RunFile(path).append(record(CASE, number=1)) == []
    records, (error,) = read_file(path)
    assert len(records) == 2
    assert error.startswith(f"{path}:2: expected schema 1, got 99")


def test_written_files_have_the_usual_permissions(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    write_atomically(tmp_path / "page", iter([b"one, ", b"two"]))
    assert (tmp_path / "page").read_bytes() == b"one, two"
    assert (tmp_path / "page").stat().st_mode == plain.stat().st_mode


def test_new_run_path() -> None:
    now = datetime(2026, 1, 2, 4, 4, 5, tzinfo=timezone(timedelta(hours=1)))
    path = new_run_path(Path("results"), "amd-2c", "0123456789abcdef", now, "abc123")
    assert path == Path("results/runs/amd-2c/20260102T030405Z-01234567-abc123.jsonl")
    assert "Z-nogit-u" in str(new_run_path(Path("r"), "m", None, now, "u"))


def test_check_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "new" / "results")
    assert [path.name for path in (tmp_path / "new" / "results").iterdir()] == ["runs"]
    (tmp_path / "file").write_text("")
    with pytest.raises(FashiontlError, match="File exists; free it, or name another with --results DIR"):
        check_writable(tmp_path / "file")
    monkeypatch.setattr(time, "time", lambda: 86400.0)
    with pytest.raises(FashiontlError, match="expected a clock that says 2025 or later, got 1970-01-02; set it"):
        check_writable(tmp_path)


def test_good_lines_are_used_beside_refused_ones(tmp_path: Path) -> None:
    good = [record(Case(name, "full"), number=number) for number, name in enumerate(("vgg11", "resnet18"))]
    bad = [line_with(setting("case", "task", 5)), "{broken", line_with(measured("latency", -1.0))]
    path = tmp_path / "runs" / "m" / "a.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join([bad[0], to_json(good[0]), "", *bad[1:], to_json(good[1])]))
    for kept, errors in (read_runs(tmp_path), read_newest(tmp_path, lambda each, earlier: each)):
        assert list(kept) == good
        assert [error.split(": ")[0].split(",")[0] for error in errors] == [f"{path}:{number}" for number in (1, 4, 5)]


def test_what_is_no_file_is_a_fault(tmp_path: Path) -> None:
    path = store(tmp_path, "c", record(CASE))
    path.with_name("a.jsonl").mkdir()
    os.mkfifo(path.with_name("b.jsonl"))
    records, errors = read_runs(tmp_path)
    assert len(records) == 1
    assert [error.rpartition("got")[2] for error in errors] == [": Is a directory", " a named pipe; move it away"]
    assert read_runs(tmp_path / "nowhere") == ((), ())


def variants() -> list[Record]:
    """Two records of one cell, of which the second is newer, and four that differ in what matters."""
    longer = dataclasses.replace(PRESETS["quick"], epochs=9)
    patient = dataclasses.replace(PRESETS["quick"], preset="mine", timeout=9.0, samples=50, data_root="a {b} \\ c")
    return [
        record(CASE, number=0, run="old"),
        record(CASE, number=9, run="new", settings=patient),
        record(CASE, number=5, run="epochs", settings=longer),
        record(CASE, number=5, run="machine", environment=SERVER),
        record(Case("resnet18", "full"), number=5, run="policy"),
        record(Case("resnet18", "full", weights="{a}/b.pt"), number=5, run="weights"),
    ]


def test_latest() -> None:
    expected = ["new", "epochs", "machine", "policy", "weights"]
    assert [each.run for each in latest(variants())] == expected
    assert sorted(each.run for each in latest(reversed(variants()))) == sorted(expected)
    # Of one second the last.
    assert [each.run for each in latest([record(CASE, run="a"), record(CASE, run="b")])] == ["b"]


@pytest.mark.parametrize("order", [1, -1])
def test_read_newest_agrees_with_latest(tmp_path: Path, order: int) -> None:
    records = variants()[::order]
    store(tmp_path, "a", *records[:3])
    path = store(tmp_path, "b", *records[3:])
    # Lines that were written by another program than this one count too.
    path.write_text("".join(json.dumps(json.loads(line)) + "\n" for line in path.read_text().splitlines()))
    assert read_newest(tmp_path, lambda each, earlier: each) == (latest(read_runs(tmp_path).records), [])


def test_only_the_newest_line_of_a_cell_is_parsed(tmp_path: Path) -> None:
    old, new, *_ = variants()
    path = store(tmp_path, "run", old, new)
    path.write_text(path.read_text().replace('"run":"old"', '"run":7'))
    assert read_newest(tmp_path, lambda each, earlier: each.run) == (["new"], [])


def test_read_newest_takes_an_older_line_where_the_newest_is_broken(tmp_path: Path) -> None:
    old, new, *_ = variants()
    path = store(tmp_path, "run", old, new)
    path.write_text(path.read_text().replace('"run":"new"', '"run":7'))
    kept, (error,) = read_newest(tmp_path, lambda each, earlier: each.run)
    assert kept == ["old"]
    assert error.startswith(f"{path}:2: $.run: expected `str`, got `int`")


def test_read_newest_goes_on_without_a_file_that_disappears(tmp_path: Path) -> None:
    paths = [store(tmp_path, name, record(Case(name, "full"))) for name in ("a", "b")]

    def keep(each: Record, _: object) -> str:
        paths[1].unlink(missing_ok=True)
        return each.case.architecture

    kept, errors = read_newest(tmp_path, keep)
    assert (kept, len(errors)) == (["a"], 1)


def test_resumable_is_the_newest_run_with_these_settings(tmp_path: Path) -> None:
    quick, full = PRESETS["quick"], PRESETS["full"]
    store(tmp_path, "20260101T000000Z-a", record(CASE))
    other = failed(Case("vgg11", "full"), "crashed", "no reason")
    wanted = store(tmp_path, "20260102T000000Z-a", record(CASE), other)
    store(tmp_path, "20260103T000000Z-a", record(CASE, settings=full))
    assert resumable(tmp_path, "machine", dataclasses.replace(quick, timeout=5.0)) == (wanted, {CASE.id})
    assert resumable(tmp_path, "another", quick) == (None, set())
    assert resumable(tmp_path, "machine", PRESETS["smoke"]) == (None, set())


def test_a_run_that_has_slices_and_no_record_yet_is_resumed(tmp_path: Path) -> None:
    quick, folder = PRESETS["quick"], journal_folder(tmp_path, "machine")
    folder.mkdir(parents=True)
    (folder / "20260102T030405Z-abc-1.cpu.jsonl").write_bytes(msgspec.json.encode(quick) + b"\n{}\n")
    (folder / "20260102T030406Z-abc-2.cpu.jsonl").write_bytes(msgspec.json.encode(PRESETS["smoke"]) + b"\n")
    (folder / "20260102T030407Z-abc-3.cpu.jsonl").write_bytes(b"torn")
    path = tmp_path / "runs" / "machine" / "20260102T030405Z-abc-1.jsonl"
    assert resumable(tmp_path, "machine", quick) == (path, set())
    assert resumable(tmp_path, "another", quick) == (None, set())
    later = store(tmp_path, "20260102T030408Z-abc-4", record(CASE))
    assert resumable(tmp_path, "machine", quick)[0] == later, "the newest"


# --- pandas ---


def test_values_in_slices_say_how_they_were_taken() -> None:
    frame = to_frame([record(CASE, measurements=(IN_SLICES, Measurement("flops", (3.0,))))])
    shown = frame[["group", "slice", "process", "round", "start", "disturbed", "value"]]
    assert shown[1:5].values.tolist() == [
        ["group", 0, 0, 0, 0.0, False, 0.004],
        ["group", 1, 0, 1, 1.5, True, 0.005],
        ["group", 1, 0, 1, 1.5, True, 0.005],
        ["group", 2, 1, 2, 3.0, False, 0.006],
    ]
    assert shown.iloc[-1].isna().tolist() == [True] * 5 + [False] * 2
    assert [str(kind) for kind in shown.dtypes[1:]] == ["Int64"] * 3 + ["float64", "bool", "float64"]


def test_each_raw_value_is_a_row_of_the_table() -> None:
    found = (Measurement("accuracy", (0.5, 0.75), 40), Measurement("flops", ()), Measurement("latency", (2e-3,)))
    frame = to_frame([record(Case("vgg11", "full"), measurements=found)])
    assert frame[["architecture", "policy", "metric", "unit", "trials", "sample", "value"]].values.tolist() == [
        ["vgg11", "full", "accuracy", "1", 40, 0, 0.5],
        ["vgg11", "full", "accuracy", "1", 40, 1, 0.75],
        ["vgg11", "full", "latency", "s", 0, 0, 2e-3],
    ]
    assert str(frame["started"].dt.tz) == "UTC"
    empty = to_frame([])
    assert (list(empty.columns), len(empty)) == (list(frame.columns), 0)
    assert pd.api.types.is_float_dtype(empty["value"])
