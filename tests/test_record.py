import contextlib
import dataclasses
import json
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import LAPTOP, SERVER, failed, matrix, record

from fashiontl.case import PRESETS, Case
from fashiontl.errors import FashiontlError
from fashiontl.metrics import METRICS, Measurement
from fashiontl.record import (
    Record,
    RunFile,
    check_writable,
    from_json,
    latest,
    line,
    new_run_path,
    read_file,
    read_newest,
    read_runs,
    resumable,
    to_json,
    write_atomically,
)

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
MEASUREMENTS = st.builds(
    Measurement,
    st.sampled_from([name for name in METRICS if name != "accuracy"]),
    st.lists(NUMBERS, max_size=5).map(tuple),
) | st.builds(
    Measurement, st.just("accuracy"), st.lists(st.floats(0, 1), max_size=3).map(tuple), st.integers(1, 10_000)
)
RECORDS = st.builds(
    record,
    st.builds(Case, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS),
    settings=st.builds(dataclasses.replace, st.just(PRESETS["full"]), data_root=TEXTS, epochs=st.integers(0, 99)),
    environment=st.builds(dataclasses.replace, st.just(SERVER), cpu=TEXTS, load=st.none() | st.floats(0, 9)),
    status=st.sampled_from(["ok", "skipped", "oom", "timeout", "crashed", "invalid"]),
    reason=TEXTS,
    warnings=st.lists(TEXTS, max_size=3).map(tuple),
    measurements=st.lists(MEASUREMENTS, max_size=4).map(tuple),
    proof=st.none() | st.dictionaries(TEXTS, JSON, max_size=3),
    provenance=st.dictionaries(TEXTS, JSON, max_size=3),
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
    assert read.warnings == ("first", "latency: a value was not a finite number; shown as unknown")


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
        (changed(status="fine"),
         f"field status: expected one of ok, skipped, oom, timeout, crashed, invalid, got 'fine'; {NEXT}"),
        (changed(started="yesterday"), f"field started: expected an ISO time in UTC, got 'yesterday'; {NEXT}"),
        (changed(started="2026-01-02T03:04:05"),
         f"field started: expected an ISO time in UTC, got '2026-01-02T03:04:05'; {NEXT}"),
        (changed(warnings=[1]), f"field warnings: expected a list of texts; {NEXT}"),
        (changed(case={"architecture": "a", "policy": None, "device": "cpu", "task": "t", "weights": ""}),
         f"field case.policy: expected text, got null; {NEXT}"),
        (changed(measurements=[3]), f"field measurements[]: expected an object, got a whole number; {NEXT}"),
        (changed(measurements=[{"metric": "latency", "values": [1.0]}]),
         f"field measurements[].trials is missing; {NEXT}"),
        (changed(measurements=[{"metric": "latency", "values": [True], "trials": 0}]),
         f"latency: expected a list of finite numbers; {NEXT}"),
        (changed(measurements=[{"metric": "accuracy", "values": [1.5], "trials": 10}]),
         f"accuracy: expected fractions from 0 to 1 of 1 or more trials, got [1.5] of 10; {NEXT}"),
        (changed(measurements=[{"metric": "accuracy", "values": [0.5], "trials": 0}]),
         f"accuracy: expected fractions from 0 to 1 of 1 or more trials, got [0.5] of 0; {NEXT}"),
        (changed(measurements=[{"metric": "speed", "values": [], "trials": 0}]),
         f"field measurements[].metric: expected one of {', '.join(METRICS)}, got 'speed'; {NEXT}"),
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
    assert message(text) == f"runs/m/x.jsonl:3: latency: expected a list of finite numbers; {NEXT}"


@given(st.sampled_from([field.name for field in dataclasses.fields(Record)]), JSON)
def test_any_field_may_hold_anything(name: str, value: Any) -> None:
    line = json.loads(to_json(record(CASE))) | {name: value}
    # Read, or refused with the line's name; nothing else is raised.
    with contextlib.suppress(FashiontlError):
        from_json(json.dumps(line), "x:1")


@pytest.mark.parametrize("digits", ["9" * 400, "-" + "9" * 400])
def test_a_whole_number_too_large_for_a_float_is_a_fault(digits: str) -> None:
    text = changed(measurements=[{"metric": "flops", "values": [85], "trials": 0}]).replace("[85]", f"[{digits}]")
    assert message(text) == f"runs/m/x.jsonl:3: flops: expected a list of finite numbers; {NEXT}"


def test_whole_numbers_stay_whole() -> None:
    text = changed(measurements=[{"metric": "flops", "values": [85, 2.0, 10**30], "trials": 0}])
    read = from_json(text, "x:1")
    assert [repr(value) for value in read.values("flops")] == ["85", "2.0", str(10**30)]


@given(st.sampled_from([field.name for field in dataclasses.fields(Record)]), JSON)
def test_the_quick_way_reads_what_the_thorough_one_does(name: str, value: Any) -> None:
    text = json.dumps(json.loads(to_json(record(CASE))) | {name: value})
    found = line._quickly(text, None)
    assert found is None or repr(found) == repr(line._thoroughly(text, "x:1", None))


@given(RECORDS)
def test_both_ways_read_what_is_written(original: Record) -> None:
    text = to_json(original)
    assert line._thoroughly(text, "x:1", None) == original
    # Texts that no UTF-8 can hold are left to the thorough way.
    assert line._quickly(text, None) in (None, original)


def test_a_plain_line_goes_the_quick_way() -> None:
    original = record(CASE)
    assert line._quickly(to_json(original).encode(), None) == original
    assert line._quickly(to_json(original), ["losses"]) == dataclasses.replace(
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
        RunFile(path).append(record(CASE))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


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
    for read in (line._quickly(text, None), line._thoroughly(text, "x:1", None)):
        assert read is not None
        assert read.environment.threads_limit is None
