import contextlib
import dataclasses
import json
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import LAPTOP, SERVER, evaluated, failed, matrix, record

from fashiontl.core.case import PRESETS, Case
from fashiontl.core.errors import FashiontlError
from fashiontl.core.files import write_atomically
from fashiontl.core.metrics import METRICS, Measurement
from fashiontl.records import (
    Record,
    RunFile,
    check_writable,
    from_json,
    latest,
    new_run_path,
    parsing,
    read_file,
    read_newest,
    read_runs,
    resumable,
    to_frame,
    to_json,
)
from fashiontl.records.schema import PROVENANCE
from fashiontl.reports.leaderboard.page import render, summary

CASE = Case("resnet18", "linear_probe")
UPGRADE = "read it with the version of fashiontl that wrote it, or upgrade"
NEXT = "restore the line from git or delete it"
TEXTS = st.text(max_size=20)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2**53)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
# Whole numbers of trials, and of each other metric what may be at all.
ACCURACIES = st.integers(1, 10_000).flatmap(
    lambda trials: st.lists(st.integers(0, trials), max_size=3).map(
        lambda right: Measurement("accuracy", tuple(count / trials for count in right), trials)
    )
)
MEASUREMENTS = ACCURACIES | st.sampled_from([metric for name, metric in METRICS.items() if name != "accuracy"]).flatmap(
    lambda metric: st.builds(
        Measurement,
        st.just(metric.name),
        st.lists(st.floats(metric.least, metric.most) | st.integers(1, int(metric.most)), max_size=5).map(tuple),
    )
)
PROOFS = st.fixed_dictionaries({}, optional={"holds": st.booleans(), "unmoved": st.lists(TEXTS), "own": JSON})
RECORDS = st.builds(
    record,
    st.builds(Case, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS),
    settings=st.builds(dataclasses.replace, st.just(PRESETS["full"]), data_root=TEXTS, epochs=st.integers(1, 99)),
    environment=st.builds(dataclasses.replace, st.just(SERVER), cpu=TEXTS, load=st.none() | st.floats(0, 9)),
    status=st.sampled_from(["ok", "skipped", "oom", "timeout", "crashed", "invalid"]),
    reason=TEXTS,
    warnings=st.lists(TEXTS, max_size=3).map(tuple),
    measurements=st.lists(MEASUREMENTS, max_size=4, unique_by=lambda each: each.metric).map(tuple),
    proof=st.none() | PROOFS,
    provenance=st.dictionaries(TEXTS.filter(lambda name: name not in PROVENANCE), JSON, max_size=3),
    artifacts=st.dictionaries(TEXTS, TEXTS, max_size=2),
)


def store(results: Path, name: str, *records: Record) -> Path:
    path = results / "runs" / "machine" / f"{name}.jsonl"
    for each in records:
        RunFile(path).append(each)
    return path


def changed(**changes: Any) -> str:
    """A good line with top-level fields replaced; None removes one."""
    line = json.loads(to_json(record(CASE))) | changes
    return json.dumps({name: value for name, value in line.items() if value is not None})


def message(text: str | bytes) -> str:
    with pytest.raises(FashiontlError) as caught:
        from_json(text, "runs/m/x.jsonl:3")
    return str(caught.value)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(RECORDS)
def test_a_line_gives_the_record_back(original: Record) -> None:
    line = to_json(original)
    assert "\n" not in line
    assert from_json(line, "x:1") == original
    assert from_json(line.encode(), "x:1") == original


def test_a_name_outside_of_unicode(tmp_path: Path) -> None:
    original = record(CASE, command="pytest --data-root=caf\udce9")
    assert read_file(store(tmp_path, "run", original)) == ((original,), ())


def test_values() -> None:
    measured = record(CASE, measurements=(Measurement("latency", (0.5, 0.25)), Measurement("flops", ())))
    assert measured.values("latency") == (0.5, 0.25)
    assert measured.values("flops") == measured.values("accuracy") == ()
    assert measured.measurement("accuracy") is None


def test_what_is_not_finite_becomes_unknown_with_a_warning() -> None:
    broken = record(
        CASE,
        measurements=(Measurement("latency", (0.5, math.inf)), Measurement("flops", (3.0,))),
        provenance={"losses": [[1.0, math.nan]], "rate": -math.inf},
        warnings=("first",),
    )
    line = to_json(broken)
    json.loads(line, parse_constant=pytest.fail)
    read = from_json(line, "x:1")
    assert read.values("latency") == ()
    assert read.values("flops") == (3.0,)
    assert read.provenance == {"losses": [[1.0, None]], "rate": None}
    assert read.warnings == (
        "first",
        "latency: a value was not a finite number; shown as unknown",
        "expected finite numbers, got provenance.losses[0][1] nan, provenance.rate -inf; written as null",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1]", f"expected a JSON object, got a list; {NEXT}"),
        (changed(schema=2), f"expected schema 1, got 2; {UPGRADE}"),
        (changed(schema=None), f"expected schema 1, got None; {UPGRADE}"),
        (changed(machine=None), f"field machine is missing; {NEXT}"),
        (changed(colour="red"), f"field colour is unknown; {NEXT}"),
        (changed(reason=3, proof=[]),
         "field reason: expected text, got a whole number; field proof: expected an object or null, got a list; "
         f"{NEXT}"),
        (changed(warnings=[1]), f"field warnings[0]: expected text, got a whole number; {NEXT}"),
        (changed(case={"architecture": "a", "policy": None, "device": "cpu", "task": "t", "weights": ""}),
         f"field case.policy: expected text, got null; {NEXT}"),
        (changed(measurements=[3]), f"field measurements[0]: expected an object, got a whole number; {NEXT}"),
        (changed(measurements=[{"metric": "latency", "values": [1.0]}]),
         f"field measurements[0] (latency).trials is missing; {NEXT}"),
        (changed(measurements=[{"metric": "latency", "values": [True], "trials": 0}]),
         f"field measurements[0] (latency).values[0]: expected a number, got true or false; {NEXT}"),
        (changed(measurements=[{"metric": "accuracy", "values": [0.5], "trials": 0}]),
         f"accuracy: expected fractions of 1 or more whole images, got (0.5,) of 0; {NEXT}"),
        (changed(measurements=[{"metric": "speed", "values": [], "trials": 0}]),
         f"field measurements[0].metric: expected one of {', '.join(METRICS)}, got 'speed'; {NEXT}"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_line(text: str, expected: str) -> None:
    assert message(text) == f"runs/m/x.jsonl:3: {expected}"


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"schema": NaN}', b'{"schema": "\xff"}', "[" * 100_000, "<<<<<<< HEAD", to_json(record(CASE))[:-9]],
)
def test_what_is_not_json(text: str | bytes) -> None:
    assert re.fullmatch(r"runs/m/x\.jsonl:3: expected one record in JSON, got: .+; " + NEXT, message(text), re.DOTALL)


def test_a_literal_too_large_for_a_float_is_no_number() -> None:
    text = changed(measurements=[{"metric": "latency", "values": [8.5], "trials": 0}]).replace("8.5", "1e999")
    assert "expected one record in JSON, got: 1e999 is more than a float can hold" in message(text)


@given(st.sampled_from([field.name for field in dataclasses.fields(Record)]), JSON)
def test_any_field_may_hold_anything(name: str, value: Any) -> None:
    line = json.loads(to_json(record(CASE))) | {name: value}
    # Read, or refused with the line's name; nothing else is raised.
    with contextlib.suppress(FashiontlError):
        from_json(json.dumps(line), "x:1")


@pytest.mark.parametrize("digits", ["9" * 400, "-" + "9" * 400])
def test_a_whole_number_too_large_for_a_float_is_a_fault(digits: str) -> None:
    text = changed(measurements=[{"metric": "flops", "values": [85], "trials": 0}]).replace("[85]", f"[{digits}]")
    assert "(flops).values[0]: expected a number from 0 to 1e+18, got " in message(text)


def test_whole_numbers_stay_whole() -> None:
    text = changed(measurements=[{"metric": "flops", "values": [85, 2.0, 10**17], "trials": 0}])
    read = from_json(text, "x:1")
    assert [repr(value) for value in read.values("flops")] == ["85", "2.0", str(10**17)]


@given(st.sampled_from([field.name for field in dataclasses.fields(Record)]), JSON)
def test_the_quick_way_reads_what_the_thorough_one_does(name: str, value: Any) -> None:
    text = json.dumps(json.loads(to_json(record(CASE))) | {name: value})
    found = parsing._quickly(text, None)
    assert found is None or repr(found) == repr(parsing._thoroughly(text, "x:1", None))


@given(RECORDS)
def test_both_ways_read_what_is_written(original: Record) -> None:
    text = to_json(original)
    assert parsing._thoroughly(text, "x:1", None) == original
    # Texts that no UTF-8 can hold are left to the thorough way.
    assert parsing._quickly(text, None) in (None, original)


def test_a_plain_line_goes_the_quick_way() -> None:
    original = record(CASE)
    assert parsing._quickly(to_json(original).encode(), None) == original
    assert parsing._quickly(to_json(original), ["losses"]) == dataclasses.replace(
        original, provenance={"losses": [[1.25, 0.5]]}
    )


@pytest.mark.parametrize("reason", ["", "caf\udce9"])
def test_only_wanted_provenance_is_kept(reason: str) -> None:
    read = from_json(to_json(record(CASE, reason=reason)), "x:1", {"losses", "nothing"})
    assert (read.reason, read.provenance) == (reason, {"losses": [[1.25, 0.5]]})


@pytest.mark.parametrize("part", [b'"\xff"', b"NaN", b"[1,]", b"01", b'"a\tb"'])
def test_what_is_not_wanted_must_be_json_all_the_same(part: bytes) -> None:
    text = to_json(record(CASE)).encode().replace(b"[[1.25,0.5]]", part)
    with pytest.raises(FashiontlError, match="x:1: expected one record in JSON, got: "):
        from_json(text, "x:1", ())


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


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (measured("latency", 0.1, -0.1), "(latency).values[1]: expected a number from 1e-12 to 1e+09, got -0.1"),
        (measured("latency", 0), "(latency).values[0]: expected a number from 1e-12 to 1e+09, got 0"),
        (measured("latency", 1e308), "(latency).values[0]: expected a number from 1e-12 to 1e+09, got 1e+308"),
        (measured("latency", "fast"), "(latency).values[0]: expected a number, got text"),
        (measured("inference_peak_memory", -5), "(inference_peak_memory).values[0]: expected a number from 0 to"),
        (measured("train_throughput", 1e300), "(train_throughput).values[0]: expected a number from 1e-12 to 1e+12"),
        (measured("accuracy", 1.5, trials=800), "(accuracy).values[0]: expected a number from 0 to 1, got 1.5"),
        (measured("accuracy", 0.5, trials=-3), "(accuracy).trials: expected a whole number from 0 to"),
        (measured("accuracy", 0.1234, trials=800), "accuracy: expected fractions of 1 or more whole images"),
        (measured("accuracy", 0.5, 0.5, trials=800), "provenance.evaluation: expected a seed an accuracy, 2, got 1"),
        (measured("accuracy", 0.5, trials=10), "confusion: expected the 10 images of the accuracy, got 800"),
        (lambda line: line["measurements"].append(line["measurements"][2]), "each metric once, got several of latency"),
        (setting("started", "yesterday"), "field started: expected an ISO time in UTC such as"),
        (setting("started", "2026-01-02T03:04:05"), "field started: expected an ISO time in UTC such as"),
        (setting("started", "20260102T030405Z"), "field started: expected an ISO time in UTC such as"),
        (setting("started", "2026-13-02T03:04:05+00:00"), "field started: expected an ISO time in UTC such as"),
        (setting("started", "2099-01-02T03:04:05+00:00"), "field started: expected a time from 2025-01-01 to "),
        (setting("started", "1970-01-01T00:00:00+00:00"), "field started: expected a time from 2025-01-01 to "),
        (setting("machine", "../../x"), "field machine: expected up to 200 letters, digits and .+-_, got '../../x'"),
        (setting("machine", ".."), "field machine: expected up to 200"),
        (setting("run", "a/b"), "field run: expected up to 200 letters"),
        (setting("run", ""), "field run: expected up to 200 letters"),
        (setting("id", "vgg11-full-cpu"), "field id: expected 'resnet18-linear_probe-cpu', as its case says, got 'vgg"),
        (setting("status", "fine"), "field status: expected one of "),
        (setting("settings", "timeout", 1e308), "field settings.timeout: expected a number from 0.001 to"),
        (setting("settings", "seeds", -1), "field settings.seeds: expected a whole number from 1 to"),
        (setting("case", "batch", -1), "field case.batch: expected a whole number from 0 to"),
        (setting("environment", "memory", -1), "field environment.memory: expected a whole number from 0 to"),
        (setting("environment", "threads", 2.5), "field environment.threads: expected a whole number, got a number"),
        (setting("proof", "holds", "yes"), "field proof.holds: expected true or false, got text"),
        (setting("proof", "frozen_buffers", 1e308), "field proof.frozen_buffers: expected a whole number, got a"),
        (setting("provenance", "weights", "sha256", [1]), "weights.sha256: expected text or null, got a list"),
        (setting("provenance", "peak", "matmul", -1), "field provenance.peak.matmul: expected a number from 0 to"),
        (setting("provenance", "image_size", 10**30), "field provenance.image_size: expected a whole number from 1 to"),
        (setting("provenance", "deterministic", 1), "field provenance.deterministic: expected true or false"),
        (setting("provenance", "timing", []), "field provenance.timing: expected an object, got a list"),
        (setting("provenance", "evaluation", 0, "loss", -1), "provenance.evaluation[0].loss: expected a number from 0"),
        (setting("provenance", "evaluation", 0, "confusion", 0, 0, -1), "confusion[0][0]: expected a whole"),
        (setting("provenance", "evaluation", 0, "confusion", 0, []), "confusion: expected as many columns as rows"),
        (setting("provenance", "validation", 0, "chosen", "x"), "provenance.validation[0].chosen: expected a whole"),
        (setting("provenance", "extensions", {"mine": 5}), "field provenance.extensions.mine: expected text"),
        (setting("artifacts", "trace", 5), "field artifacts.trace: expected text, got a whole number"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(change: Callable[[dict[str, Any]], object], told: str) -> None:
    text = message(line_with(change))
    assert text.startswith("runs/m/x.jsonl:3: ")
    assert told in text
    assert text.endswith(NEXT)


def test_the_line_that_others_are_made_of_is_good() -> None:
    soon = (datetime.now(UTC) + timedelta(hours=12)).isoformat(timespec="seconds")
    assert from_json(line_with(setting("started", soon)), "x:1").started == soon


def test_a_clock_that_is_days_ahead_is_told() -> None:
    later = (datetime.now(UTC) + timedelta(days=2)).isoformat(timespec="seconds")
    assert f"got {later}; see that the clocks" in message(line_with(setting("started", later)))


def test_all_faults_of_a_line_are_told_at_once() -> None:
    def change(line: dict[str, Any]) -> None:
        measured("latency", -1.0)(line)
        measured("accuracy", 0.12345, trials=800)(line)
        line |= {"started": "2099-01-01T00:00:00+00:00", "machine": "../x", "status": "fine", "id": "vgg11-full-cpu"}
        line["provenance"]["evaluation"][0]["confusion"][0] = [1]
        line["provenance"]["peak"]["matmul"] = "much"
        line["settings"]["epochs"] = -1

    told = message(line_with(change))
    for name in ("latency", "started", "machine", "status", "provenance.peak.matmul", "settings.epochs", "id",
                 "accuracy", "confusion"):  # fmt: skip
        assert name in told


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('"run":', '"run":"other","run":', "run"),
        ('"run":', '"run" :"other","run":', "run"),
        ('"started":', '"started":"2026-01-01T00:00:00+00:00","started":', "started"),
        ('"epochs":', '"epochs":3,"epochs":', "epochs"),
        ('"policy":', '"policy":"full","policy":', "policy"),
        ('"threads":2', '"threads":2,"threads":2', "threads"),
        ('"metric":"latency",', '"metric":"latency","trials":0,', "trials"),
        ('"sha256":', '"sha256":"a","sha256":', "sha256"),
        ('"losses":', '"losses":[],"losses":', "losses"),
        ('"holds":', '"holds":false,"holds":', "holds"),
        ('"artifacts":{', '"artifacts":{"a\\\\":"","b":"","b":""', "b"),
    ],
)
def test_a_key_that_is_given_twice_is_a_fault(old: str, new: str, key: str) -> None:
    line = to_json(record(CASE))
    assert old in line
    assert f"key '{key}' is given twice" in message(line.replace(old, new, 1))


def test_a_deep_line_is_refused() -> None:
    deep = "[" * 10_000 + "]" * 10_000
    assert "expected one record in JSON" in message(to_json(record(CASE)).replace("[[1.25,0.5]]", deep))


def test_an_enormous_line_is_refused_without_being_held(tmp_path: Path) -> None:
    path = store(tmp_path, "run", record(CASE))
    good = path.read_bytes()
    with path.open("r+b") as file:
        # A hole of zeros, which takes no room on the disk.
        file.truncate(len(good) + 2**26)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + good)
    records, (fault,) = read_runs(tmp_path)
    assert records == (record(CASE), record(CASE))
    assert fault.startswith(f"{path}:2: expected a line of less than ")


def test_good_lines_are_used_beside_refused_ones(tmp_path: Path) -> None:
    good = [record(Case(name, "full"), number=number) for number, name in enumerate(("vgg11", "resnet18"))]
    bad = [
        line_with(setting("started", "2099-01-01T00:00:00+00:00")),
        line_with(setting("case", "task", 5)),
        line_with(measured("latency", -1.0)),
    ]
    path = tmp_path / "runs" / "m" / "a.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join([bad[0], to_json(good[0]), *bad[1:], to_json(good[1])]))
    for kept, faults in (read_runs(tmp_path), read_newest(tmp_path, lambda each: each)):
        assert list(kept) == good
        assert [fault.split(": ")[0] for fault in faults] == [f"{path}:{number}" for number in (1, 3, 4)]


def show(read: Record) -> None:
    render([read])
    summary([read])
    to_frame([read])


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(RECORDS)
def test_whatever_is_read_can_be_shown(original: Record) -> None:
    show(from_json(to_json(original), "x:1"))


@given(st.sampled_from([*sorted(PROVENANCE), "proof"]), JSON)
def test_whatever_provenance_is_read_can_be_shown(name: str, value: Any) -> None:
    line = json.loads(to_json(evaluated(CASE)))
    (line if name == "proof" else line["provenance"])[name] = value
    with contextlib.suppress(FashiontlError):
        show(from_json(json.dumps(line), "x:1"))


def test_append_keeps_what_is_there(tmp_path: Path) -> None:
    records = matrix()[:3]
    path = store(tmp_path, "run", *records)
    assert read_file(path) == (tuple(records), ())
    assert list(path.parent.iterdir()) == [path]
    assert path.read_text().count("\n") == 3


def test_many_writers_share_a_file(tmp_path: Path) -> None:
    records = matrix()
    path = tmp_path / "runs" / "m" / "shared.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda each: RunFile(path).append(each), records))
    assert sorted(each.id for each in read_file(path).records) == sorted(each.id for each in records)


def test_a_failed_write_leaves_the_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store(tmp_path, "run", record(CASE))
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"other")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_record_whose_file_cannot_be_written_is_saved_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = store(tmp_path / "results", "run", record(CASE))
    path.unlink()
    path.mkdir()
    for number in (1, 2):
        with pytest.raises(FashiontlError) as caught:
            RunFile(path).append(record(CASE, number=number))
    place = tmp_path / "fashiontl-run.jsonl"
    assert f"got {path}: Is a directory" in str(caught.value)
    assert f"cat {place} >> {path}" in str(caught.value)
    assert read_file(place) == ((record(CASE, number=1), record(CASE, number=2)), ())


def test_a_record_that_no_file_takes_is_in_the_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FashiontlError, match="No space left") as caught:
        RunFile(tmp_path / "run.jsonl").append(record(CASE))
    assert from_json(str(caught.value).strip().splitlines()[-1], "x:1") == record(CASE)


def test_measurements_are_kept_where_provenance_cannot_be_written(tmp_path: Path) -> None:
    path = store(tmp_path, "run", record(CASE, provenance={"losses": {1.0}}))
    (read,), faults = read_file(path)
    assert faults == ()
    assert read.measurements == record(CASE).measurements
    assert "provenance could not be written" in read.warnings[0]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_folder_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    results = tmp_path / os.fsdecode(b"caf\xe9")
    path = store(results, "run", *matrix()[:2])
    assert read_file(path).records == tuple(matrix()[:2])
    path.write_bytes(path.read_bytes() + b"{broken")
    assert len(RunFile(path).append(record(CASE))) == 1
    assert len(read_runs(results).records) == 3


def test_no_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    assert read_file(store(tmp_path, "run", record(CASE))) == ((record(CASE),), ())


def test_a_last_line_that_lost_its_end_is_continued_after_it(tmp_path: Path) -> None:
    first, second, third = matrix()[:3]
    path = store(tmp_path, "run", first, second)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    assert RunFile(path).append(third) == []
    assert read_runs(tmp_path) == ((first, second, third), ())
    assert list(path.parent.iterdir()) == [path]


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
    assert aside.name.startswith("run.jsonl.broken-")
    assert aside.name in said


def test_repair_without_a_record(tmp_path: Path) -> None:
    path = store(tmp_path, "run", *matrix()[:2])
    whole = path.read_bytes()
    assert (RunFile(path).repair(), path.read_bytes()) == ([], whole)
    path.write_bytes(whole[:-1])
    assert (RunFile(path).repair(), path.read_bytes()) == ([], whole)
    path.write_bytes(whole + bytes(3))
    assert len(RunFile(path).repair()) == 1
    assert path.read_bytes() == whole


def test_a_line_that_is_whole_but_refused_stays_where_it_is(tmp_path: Path) -> None:
    path = store(tmp_path, "run", record(CASE))
    path.write_bytes(path.read_bytes() + b'{"schema":99}')
    assert RunFile(path).append(record(CASE, number=1)) == []
    records, (fault,) = read_file(path)
    assert len(records) == 2
    assert fault.startswith(f"{path}:2: expected schema 1, got 99")


def test_a_file_is_written_in_parts(tmp_path: Path) -> None:
    write_atomically(tmp_path / "page", iter([b"one, ", b"two"]))
    assert (tmp_path / "page").read_bytes() == b"one, two"


def test_written_files_have_the_usual_permissions(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    write_atomically(tmp_path / "page", b"text")
    assert (tmp_path / "page").stat().st_mode == plain.stat().st_mode


def test_new_run_path() -> None:
    now = datetime(2026, 1, 2, 4, 4, 5, tzinfo=timezone(timedelta(hours=1)))
    path = new_run_path(Path("results"), "amd-2c", "0123456789abcdef", now, "abc123")
    assert path == Path("results/runs/amd-2c/20260102T030405Z-01234567-abc123.jsonl")
    path = new_run_path(Path("r"), "m", None, datetime(2026, 1, 2, tzinfo=UTC), "u")
    assert path == Path("r/runs/m/20260102T000000Z-nogit-u.jsonl")


def test_a_clock_that_no_record_can_be_from_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 86400.0)
    with pytest.raises(FashiontlError, match="expected a clock that says 2025 or later, got 1970-01-02; set it"):
        check_writable(tmp_path)


def test_check_writable(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "results")
    assert [path.name for path in (tmp_path / "new" / "results").iterdir()] == ["runs"]
    (tmp_path / "file").write_text("")
    with pytest.raises(FashiontlError) as caught:
        check_writable(tmp_path / "file")
    assert str(caught.value) == (
        f"expected a folder for results that can be written, got {tmp_path / 'file'}: File exists; "
        "free it, or name another with --results DIR"
    )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_check_writable_asks_for_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(FashiontlError, match="Permission denied"):
        check_writable(tmp_path)


def test_a_broken_line_does_not_hide_the_others(tmp_path: Path) -> None:
    first, second = matrix()[:2]
    path = store(tmp_path, "run", first)
    path.write_bytes(path.read_bytes() + b"\n{broken\n" + to_json(second).encode() + b"\n")
    runs = read_runs(tmp_path)
    assert runs.records == (first, second)
    assert len(runs.faults) == 1
    assert runs.faults[0].startswith(f"{path}:3: expected one record in JSON, got: ")


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    store(tmp_path, "b", record(CASE))
    folder = tmp_path / "runs" / "machine" / "a.jsonl"
    folder.mkdir()
    runs = read_runs(tmp_path)
    assert len(runs.records) == 1
    assert runs.faults == (f"{folder}: expected a run's file, got: Is a directory",)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_is_no_run(tmp_path: Path) -> None:
    path = store(tmp_path, "b", record(CASE)).with_name("a.jsonl")
    os.mkfifo(path)
    records, faults = read_runs(tmp_path)
    assert len(records) == 1
    assert faults == (f"{path}: expected a run's file, got a named pipe; move it away",)


def test_no_runs_are_no_records(tmp_path: Path) -> None:
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


def test_latest_of_one_second_is_the_last() -> None:
    assert [each.run for each in latest([record(CASE, run="a"), record(CASE, run="b")])] == ["b"]


@pytest.mark.parametrize("order", [1, -1])
def test_read_newest_agrees_with_latest(tmp_path: Path, order: int) -> None:
    records = variants()[::order]
    store(tmp_path, "a", *records[:3])
    path = store(tmp_path, "b", *records[3:])
    # Lines that were written by another program than this one count too.
    path.write_text("".join(json.dumps(json.loads(line)) + "\n" for line in path.read_text().splitlines()))
    assert read_newest(tmp_path, lambda each: each) == (latest(read_runs(tmp_path).records), [])


def test_a_line_from_before_an_axis_existed_is_of_the_same_case(tmp_path: Path) -> None:
    old, new = (record(Case("resnet18", "full"), number=number) for number in (1, 2))
    line = to_json(old).replace(',"precision":"fp32"', "").replace(',"batch":0', "")
    assert line != to_json(old)
    path = tmp_path / "runs" / "m" / "a.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(f"{to_json(new)}\n{line}\n")
    kept, faults = read_newest(tmp_path, lambda each: each.started)
    assert (kept, faults) == ([new.started], [])


def test_read_newest_falls_back_to_an_older_line(tmp_path: Path) -> None:
    old, new, *_ = variants()
    path = store(tmp_path, "run", old, new)
    path.write_text(path.read_text().replace('"run":"new"', '"run":7'))
    assert read_newest(tmp_path, lambda each: each.run) == (
        ["old"],
        [f"{path}:2: field run: expected text, got a whole number; {NEXT}"],
    )


def test_read_newest_reports_unreadable_settings(tmp_path: Path) -> None:
    path = store(tmp_path, "run", record(CASE))
    path.write_text(path.read_text().replace('"epochs":', '"colour":1,"epochs":'))
    assert read_newest(tmp_path, lambda each: each) == ([], [f"{path}:1: field settings.colour is unknown; {NEXT}"])


def test_read_newest_goes_on_without_a_file_that_disappears(tmp_path: Path) -> None:
    paths = [store(tmp_path, name, record(Case(name, "full"))) for name in ("a", "b")]

    def keep(each: Record) -> str:
        paths[1].unlink(missing_ok=True)
        return each.case.architecture

    assert read_newest(tmp_path, keep) == (["a"], [])


def test_resumable_is_the_newest_run_with_these_settings(tmp_path: Path) -> None:
    quick, full = PRESETS["quick"], PRESETS["full"]
    store(tmp_path, "20260101T000000Z-a", record(CASE))
    other = failed(Case("vgg11", "full"), "crashed", "no reason")
    wanted = store(tmp_path, "20260102T000000Z-a", record(CASE), other)
    store(tmp_path, "20260103T000000Z-a", record(CASE, settings=full))
    assert resumable(tmp_path, "machine", dataclasses.replace(quick, timeout=5.0)) == (wanted, {CASE.id})
    assert resumable(tmp_path, "another", quick) == (None, set())
    assert resumable(tmp_path, "machine", PRESETS["smoke"]) == (None, set())


def test_same_facts_are_shared_by_lines() -> None:
    first, second = (from_json(to_json(each), "x:1") for each in matrix(environment=LAPTOP)[:2])
    assert first.settings is second.settings


def test_a_line_from_before_a_setting_existed_reads_with_its_default() -> None:
    line = json.loads(to_json(record(CASE)))
    del line["settings"]["augment"]
    assert from_json(json.dumps(line), "x:1").settings.augment is False
    del line["case"]["policy"]
    with pytest.raises(FashiontlError, match=r"field case\.policy is missing"):
        from_json(json.dumps(line), "x:1")


def test_a_line_from_before_a_fact_of_the_machine_existed_leaves_it_unknown() -> None:
    older = json.loads(to_json(record(CASE)))
    del older["environment"]["threads_limit"]
    text = json.dumps(older)
    for read in (parsing._quickly(text, None), parsing._thoroughly(text, "x:1", None)):
        assert read is not None
        assert read.environment.threads_limit is None
