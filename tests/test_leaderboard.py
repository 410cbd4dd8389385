"""The leaderboard's page: what is grouped, noted, named, escaped and written."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from records import LAPTOP, PROOF, SERVER, evaluated, failed, matrix, record, sliced, tables

from fashiontl.core.case import PRESETS, Case
from fashiontl.core.errors import FashiontlError
from fashiontl.core.escape import to_markdown
from fashiontl.core.metrics import Measurement
from fashiontl.records import Record, RunFile, to_json
from fashiontl.reports.leaderboard import page as leaderboard
from fashiontl.reports.leaderboard.names import Names, class_names
from fashiontl.reports.leaderboard.notes import Footnotes, notes
from fashiontl.reports.leaderboard.page import section_title, sections, settings_name
from fashiontl.reports.leaderboard.rows import row_of

CPU = [Case("resnet18", policy) for policy in ("scratch", "linear_probe", "full")]
QUICK = PRESETS["quick"]


def with_provenance(case: Case, **parts: Any) -> Record:
    made = record(case, settings=parts.pop("settings", QUICK))
    return replace(made, provenance=made.provenance | parts)


def note(title: str, *records: Record) -> str:
    """The note with this title; empty when there is none."""
    found = [each for each in notes([row_of(each) for each in records]) if each.startswith(f"**{title}**")]
    return found[0].removeprefix(f"**{title}** ") if found else ""


def test_the_table() -> None:
    def measured(accuracy: float, seconds: float) -> tuple[Measurement, ...]:
        return (
            Measurement("accuracy", (accuracy, accuracy + 0.01, accuracy - 0.01), 800),
            sliced(
                "latency", *([seconds * (1 + step / 1000) for step in (0, 5, 3, 2 * process)] for process in range(3))
            ),
            Measurement("training_peak_memory", (200 * 2**20,)),
            Measurement("trainable_parameters", (2052.0,)),
        )

    page = leaderboard.render([
        failed(CPU[0], "timeout", "train took longer than 600 s"),
        record(CPU[1], measurements=measured(0.9, 0.004)),
        record(CPU[2], measurements=measured(0.95, 0.005), warnings=("latency had not settled",)),
    ])  # fmt: skip
    header, *lines = tables(page.replace("\xa0", " "))[0]
    found = [dict(zip(header, line, strict=True)) for line in lines]
    assert [line["Policy"] for line in found] == ["full", "linear_probe", "scratch"]
    assert [line["Accuracy (%)"] for line in found] == ["**95.0 ± 3.0**", "90.0 ± 3.4", "—"]
    assert [line["Latency p50 (ms)"] for line in found] == ["5.01 ± 0.01", "**4.01 ± 0.01**", "—"]
    assert [line["Training peak (MiB)"] for line in found] == ["~**200**", "~**200**", "—"]
    assert [line["Trainable (M)"] for line in found] == ["0.00205", "0.00205", "—"]
    assert [line["Status"] for line in found] == ["ok ¹", "ok", "**timeout**: train took longer than 600 s"]
    assert "\n¹ latency had not settled\n" in page


def test_only_the_newest_of_a_cell_is_shown() -> None:
    page = leaderboard.render([failed(CPU[0], "oom", "new", number=9), record(CPU[0], number=1)])
    assert [row[-1] for row in tables(page)[0][1:]] == ["**oom**: new"]
    assert leaderboard.render([]).startswith("# Leaderboard\n")


def test_reasons_stay_in_their_cell() -> None:
    page = leaderboard.render([failed(CPU[0], "crashed", "a | b\n*c* <d> " + "e" * 200)])
    assert tables(page)[0][1][-1] == r"**crashed**: a \| b \*c\* &lt;d> " + "e" * 85 + "…"


@pytest.mark.parametrize(
    ("cases", "column", "expected"),
    [
        ([Case("vgg11", "full", device) for device in ("cuda", "cuda:1")], "Device", {"cuda", "cuda:1"}),
        ([Case("vgg11", "full", batch=batch) for batch in (0, 64)], "Variant", {"", "batch64"}),
        (
            [Case("vgg11", "full", precision="bf16", execution="compile"), Case("vgg11", "full", image_size=48)],
            "Variant",
            {"bf16 compile", "48px"},
        ),
    ],
)
def test_what_tells_cells_apart_has_a_column(cases: list[Case], column: str, expected: set[str]) -> None:
    page = leaderboard.render([record(case, number=number) for number, case in enumerate(cases)])
    table = tables(page)[0]
    assert {line[table[0].index(column)] for line in table[1:]} == expected
    assert column not in tables(leaderboard.render([record(CPU[0])]))[0][0]


def test_p99_stands_in_the_table_when_some_row_has_samples_enough() -> None:
    many = dataclasses.replace(QUICK, samples=1000)
    records = [record(CPU[0]), record(CPU[1], settings=many)]
    assert "Latency p99 (ms)" in tables(leaderboard.render(records))[0][0]
    assert "p99" not in str(tables(leaderboard.render(records[:1]))[0])


def test_sections_hold_what_can_be_compared() -> None:
    found = sections(
        map(
            row_of,
            [
                record(CPU[0], number=1),
                record(CPU[1], number=2, settings=dataclasses.replace(QUICK, timeout=99.0)),
                record(CPU[1], number=3, settings=dataclasses.replace(QUICK, epochs=99)),
                record(CPU[1], number=4, environment=SERVER),
                record(Case("resnet18", "full", task="fashion10@100"), number=5),
            ],
        )
    )
    assert [(section_title(rows), len(rows)) for rows in found] == [
        ("fashion10, 100 training images a class, quick, on AMD EPYC 7763 (2 cores, 2 threads)", 1),
        ("fashion4, quick, on NVIDIA H100 80GB HBM3", 1),
        ("fashion4, quick with epochs=99, on AMD EPYC 7763 (2 cores, 2 threads)", 1),
        ("fashion4, quick, on AMD EPYC 7763 (2 cores, 2 threads)", 2),
    ]
    assert settings_name(dataclasses.replace(QUICK, preset="mine")) == "mine"


def test_overview_only_where_there_is_more_than_one_section() -> None:
    broken = failed(Case("vgg11", "full", "cuda"), "oom", "too big", environment=SERVER, number=9)
    page = leaderboard.render([*matrix()[:3], failed(Case("vgg11", "full"), "oom", "too big"), broken])
    assert [line[1:3] for line in tables(page)[0][1:]] == [["0 of 1", "—"], ["3 of 4", "vgg11-last_stage-cpu"]]
    assert "| Section" not in leaderboard.render(matrix())


def test_old_records_have_fewer_tables_than_new_ones() -> None:
    def titles(**fields: Any) -> list[str]:
        return re.findall(r"<summary>(.*?)</summary>", leaderboard.render(matrix(**fields)))

    old = ["Training speed and memory by architecture and policy", "Sizes, times and weights"]
    new = ["Latency, loading and compiling", "Training step", "Memory", "Arithmetic and energy", "Batch sizes"]
    assert titles(old=True) == old
    settings = dataclasses.replace(QUICK, sweep=64)
    assert titles(device="cuda", environment=SERVER, settings=settings) == [old[0], *new, old[1]]


def test_weights_say_how_they_were_pretrained() -> None:
    page = leaderboard.render([with_provenance(CPU[2], pretraining={"accuracy": 0.873, "sha256": "e2" * 32})])
    row = tables(page[page.index("<summary>Sizes, times and weights</summary>") :])[0][1]
    assert (row[3], row[7]) == ("11.2", "`e2e2e2e2e2e2`, 87.3 % on their own task")


@pytest.mark.parametrize("task", ["of_a_user", "of_a_user@5", "fashion10@many", "@", ""])
def test_tasks_that_are_not_known_here(task: str) -> None:
    page = leaderboard.render([record(Case("vgg11", "full", task=task))])
    assert page.count("\n## ") == 1
    assert "To beat" in leaderboard.render([record(Case("vgg11", "full", task="fashion10"))])


def test_class_names() -> None:
    assert class_names("fashion10@25", 10)[9] == "Ankle boot"
    assert class_names("fashion4", 3) == ("0", "1", "2")


# --- notes ---


def test_notes_name_all_that_differs() -> None:
    dirty = dataclasses.replace(LAPTOP, git_sha="f" * 40, git_dirty=True, load=7.5, threads=1, threads_limit="quota")
    command, hardware, versions, *_ = notes([
        row_of(record(CPU[0], command="pytest bench/ -k `x`", environment=SERVER)),
        row_of(record(CPU[1], number=90, environment=dirty, measurements=())),
    ])  # fmt: skip
    assert command == (
        "**Command** `` pytest bench/ -k `x` ``, `pytest bench/`, 2026-01-02 03:00 to 2026-01-02 03:01 UTC, "
        "commit `01234567`, `ffffffff` with uncommitted changes"
    )
    assert "1 thread (by quota), 8.0 GiB, load up to 7.5 when" in hardware
    assert "torch 2.13.0+cu130, 2.13.0+cpu, " in versions
    assert ", CUDA 13.0, cuDNN 91300, driver 580.65.06; " in versions


def test_what_is_unknown_has_no_note() -> None:
    bare = dataclasses.replace(LAPTOP, git_sha=None, git_dirty=None, memory=None, load=None)
    found = list(notes([row_of(failed(CPU[0], "crashed", "", environment=bare))]))
    assert [each.split("**")[1] for each in found] == ["Command", "Hardware", "Versions", "Settings"]
    assert "commit" not in found[0]
    assert found[1].endswith("2 threads (machine `amd-epyc-7763-2c-2t-fab27dcd`)")


def test_settings_are_noted_as_options_give_them() -> None:
    found = note("Settings", record(CPU[0], settings=dataclasses.replace(QUICK, epochs=9)))
    assert found.startswith("`preset=quick data=embedded image_size=")
    assert " epochs=9 " in found
    assert "data_root" not in found
    assert " train_per_class" not in note("Settings", record(Case("vgg11", "full", task="fashion10@100")))


def test_the_epoch_that_validation_chose() -> None:
    settings = dataclasses.replace(QUICK, validation_per_class=20)

    def chosen(*epochs: int) -> list[dict[str, Any]]:
        return [{"accuracies": [0.5, 0.6], "chosen": epoch} for epoch in epochs]

    records = [
        with_provenance(CPU[0], validation=chosen(2, 4), settings=settings),
        with_provenance(CPU[1], validation=chosen(8), settings=settings),
    ]
    assert note("Accuracy", *records) == (
        "of 3 seeds on 800 test images, tested once, at the epoch chosen on 20 validation images a class, carved from "
        "training: epochs 3 to 9 of 10"
    )
    older = with_provenance(CPU[2], settings=settings)
    assert "at the epoch chosen in 2 of 3 cells on 20 " in note("Accuracy", *records, older)
    for nothing in ([], [None], [{"accuracies": [], "chosen": 9}]):
        assert note("Accuracy", with_provenance(CPU[0], validation=nothing)).endswith("at the end of training")


def test_how_timing_loops_went() -> None:
    precise = {"warm_up": 6, "steady": True, "drift": 0.0, "noise": 0.0, "ended": "precise", "throttled": 0}
    records = [
        with_provenance(CPU[0], timing={"latency": precise, "train_throughput": precise | {"ended": "time"}}),
        with_provenance(CPU[1], timing={"latency": precise | {"steady": False, "throttled": 12, "ended": "samples"}}),
    ]
    assert note("Timing", *records) == (
        "3 loops ended: 1 when they were precise, 1 when their time was up, 1 with as many samples as a record "
        "holds; 1 never became steady; 1 have samples of a throttled machine"
    )
    assert "; all became steady; none have" in note("Timing", records[0])
    assert note("Timing", with_provenance(CPU[0], timing={})) == ""


def test_proof_determinism_and_extensions() -> None:
    records = [
        with_provenance(case, deterministic=flag, extensions={"its`.py": "ab" * 32})
        for case, flag in zip(CPU, (True, False), strict=False)
    ]
    assert note("Deterministic", *records).startswith("training in 1 of 2 cells")
    assert note("Extensions", *records) == "``its`.py``, SHA-256 `abababababab`"
    assert "2 of 2 trained cells" in note("Policy kept", *records)
    assert "(120 parameter tensors and 120 buffers compared)" in note("Policy kept", *records)
    assert note("Deterministic", record(CPU[0])) == note("Extensions", record(CPU[0])) == ""


# --- how speeds were taken ---


def timed(case: Case, *measurements: Measurement, number: int = 0, **fields: Any) -> Record:
    return record(case, number=number, measurements=measurements, **fields)


def latency(seconds: float, **parts: Any) -> Measurement:
    return sliced("latency", *[[seconds, seconds * 1.02]] * 3, **parts)


def test_single_stretches_are_told() -> None:
    stretch = Measurement("latency", (0.004, 0.005) * 20)
    page = leaderboard.render([timed(CPU[0], stretch), timed(CPU[1], stretch), timed(CPU[2], latency(0.004))])
    assert "- **Single process** in 2 of 3 cells: their speeds are of one stretch in one process" in page
    assert note("Single process", timed(CPU[2], latency(0.004))) == ""
    old = leaderboard.render(matrix(old=True))
    assert "**Single process** in 20 of 20 cells" in old
    assert not re.search(r"\*\*[0-9.]+\s\(", old)
    assert "A later run" not in old


def test_shared_measurements_are_told() -> None:
    ids = tuple(case.id for case in CPU)
    images = sliced("inference_throughput", *[[100.0, 101.0]] * 3, shared=ids)
    records = [timed(case, latency(0.004, shared=ids), images) for case in CPU]
    records.append(timed(Case("vgg11", "full"), latency(0.002)))
    assert note("Shared", *records).startswith("latency, inference: 1 measurement for 3 cells; those of one network ")
    assert note("Shared", records[-1]) == ""


def test_disturbed_slices_are_a_footnote() -> None:
    some = latency(0.004, disturbed={"steal": (0,), "load of others": (0, 3)})
    every = latency(0.001, disturbed={"steal": tuple(range(6))})
    page = leaderboard.render([timed(CPU[0], some), timed(CPU[1], every), timed(CPU[2], latency(0.005))])
    header, *lines = tables(page.replace("\xa0", " "))[0]
    numbers = {line[1]: line[header.index("Latency p50 (ms)")] for line in lines}
    assert numbers["linear_probe"] == "1.01 ± 0.00 disturbed"
    assert numbers["scratch"].startswith("**4.0")
    assert "latency: 2 of 6 slices disturbed (steal, load of others); the number is of the others" in page
    assert "latency: 6 of 6 slices disturbed (steal); the others are too few for a number" in page


def runs_of(case: Case, *seconds: float, **fields: Any) -> list[Record]:
    """The same cell in several runs, one after the other."""
    return [
        timed(case, latency(each), Measurement("load_time", (each,)), number=number, run=f"run{number}", **fields)
        for number, each in enumerate(seconds)
    ]


def shown(records: list[Record], column: str = "Latency p50 (ms)") -> list[str]:
    header, *lines = tables(leaderboard.render(records).replace("\xa0", " "))[0]
    return [line[header.index(column)] for line in lines]


def test_three_runs_of_a_cell_are_combined() -> None:
    one = shown(runs_of(CPU[0], 0.004))
    assert one == ["4.04 ± 0.00"]
    assert shown(runs_of(CPU[0], 0.002, 0.004)) == one  # two say too little
    # The geometric mean of 4, 5 and 6.25 times the mean of a slice, and Student's interval of three logarithms.
    (combined,) = shown(runs_of(CPU[0], 0.004, 0.005, 0.00625))
    assert combined.startswith("5.05 ± ")
    assert float(combined.split(" ")[-1]) == pytest.approx(5.05 * math.expm1(4.303 * math.log(1.25) / 3**0.5), abs=0.01)
    page = leaderboard.render(runs_of(CPU[0], 0.004, 0.005, 0.00625))
    assert "- **Several runs**: in 1 of 1 cells speed is the mean of 3 runs of the same code and settings" in page
    assert "**Several runs**" not in leaderboard.render(runs_of(CPU[0], 0.004, 0.005))


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "invalid"},
        {"run": "run2"},  # a copy of the newest
        {"environment": dataclasses.replace(LAPTOP, fashiontl="0.0.9")},
        {"environment": SERVER},
        {"settings": dataclasses.replace(QUICK, throughput_batch=8)},
        {"measurements": (Measurement("latency", (0.001,) * 20),)},
        {"measurements": (latency(0.001, disturbed={"steal": tuple(range(6))}),)},
        {"provenance": {"extensions": {"mine.py": "ab" * 32}}},
    ],
    ids=["failed", "copy", "version", "machine", "settings", "single stretch", "disturbed", "extensions"],
)
def test_what_is_not_the_same_is_not_combined(fields: dict[str, Any]) -> None:
    first, *rest = runs_of(CPU[0], 0.002, 0.004, 0.004)
    page = leaderboard.render([record(CPU[0], **{"run": "run0", "measurements": first.measurements, **fields}), *rest])
    assert "**Several runs**" not in page
    assert "**Several runs**" in leaderboard.render([first, *rest])


def test_what_is_read_is_combined_as_what_is_given(tmp_path: Path) -> None:
    records = [each for case in CPU for each in runs_of(case, 0.002, 0.0021, 0.004, 0.005)]
    broken = (
        to_json(records[0])
        .replace('"counts":[2,', '"counts":[9,')
        .replace(records[0].started, "2026-01-02T03:00:00+00:00")
    )
    path = save(tmp_path, *records)
    path.write_text(path.read_text() + broken + "\n")
    assert leaderboard.write(tmp_path).read_text() == leaderboard.render(records)


def test_where_a_later_run_should_lie() -> None:
    assert note("A later run", *runs_of(CPU[0], 0.004)).startswith("may lie outside of ±, by how much is unknown")
    one = [each for case in CPU for each in runs_of(case, 0.0040, 0.0041)]
    page = leaderboard.render(one)
    (found,) = re.findall(r"\*\*A later run\*\* (.*)", page)
    assert re.sub(r"\d+ %", "X %", found) == (
        "should lie within, of what one run says: latency ± X %; learned from up to 2 runs of 3 cells on this machine"
    )
    assert "A later run" not in leaderboard.render([timed(CPU[0], Measurement("load_time", (1.0,)))])


# --- footnotes ---


@pytest.mark.parametrize(
    ("asked", "used", "text"),
    [(0, 64, "¹ images of 64 pixels, the least that it takes"), (0, 32, ""), (64, 64, ""), (64, 96, "¹ images of 96")],
)
def test_a_raised_image_size_is_a_footnote(asked: int, used: int, text: str) -> None:
    row = row_of(with_provenance(Case("resnet18", "full", image_size=asked), image_size=used))
    assert Footnotes([row]).text.startswith(text)
    assert bool(Footnotes([row]).text) == bool(text)


def test_footnotes_are_shared_and_stand_after_the_reason() -> None:
    unmoved = replace(PROOF, unmoved=("a.weight", "b_", "c", "d"))
    rows = [
        row_of(record(CPU[0], warnings=("a *doubt*", "another"))),
        row_of(failed(CPU[1], "oom", "too  big", warnings=("a *doubt*", "another"))),
        row_of(record(CPU[2], proof=unmoved)),
        row_of(with_provenance(CPU[2], periods={"each": [{}, {}]})),
    ]
    footnotes = Footnotes(rows)
    assert [footnotes.status(row) for row in rows] == ["ok ¹", "**oom**: too big ¹", "ok ²", "ok ³"]
    first, second, third = footnotes.text.splitlines()
    assert first.strip() == "¹ a \\*doubt\\*; another"
    assert second.strip() == "² 4 tensors that should train did not move (a.weight, b\\_, c, …)"
    assert "the mean over 2 plans" in third


def test_many_footnotes_are_folded_away() -> None:
    rows = [row_of(record(Case("vgg11", f"policy{number}"), warnings=(f"drift {number}",))) for number in range(13)]
    assert Footnotes(rows).text.startswith("<details><summary>13 footnotes</summary>\n\n¹ drift 0  \n")
    assert "<details>" not in Footnotes(rows[:12]).text


# --- names of hybrids ---

FOUR = "vgg11+resnet18+mobilenet_v2+densenet121"


def names(*architectures: str) -> Names:
    return Names.of([row_of(record(Case(name, "full"))) for name in architectures])


def test_long_hybrids_are_called_by_a_letter() -> None:
    found = names(f"mean:{FOUR}", "mean:vgg11+resnet18", "joined:efficientnet_b0+vgg11", f"joined:{FOUR}")
    shown = [f"mean:{FOUR}", f"joined:{FOUR}", "joined:efficientnet_b0+vgg11", "mean:vgg11+resnet18", "a_b_", "x" * 30]
    assert [found.architecture(name) for name in shown] == [
        "mean of A", "joined A", "joined B", "mean:vgg11+resnet18", "a_b\\_", "x" * 30,
    ]  # fmt: skip
    assert found.legend().endswith("A is vgg11 + resnet18 + mobilenet_v2 + densenet121. B is efficientnet_b0 + vgg11.")
    assert names("vgg11").legend() == ""
    many = names(*(f"mean:a_network_called_{number}+another" for number in range(53)))
    assert [*many.letters.values()][25:28] == ["Z", "A2", "B2"]


# --- files ---


def save(results: Path, *records: Record, name: str = "run") -> Path:
    path = results / "runs" / "m" / f"{name}.jsonl"
    for each in records:
        RunFile(path).append(each)
    return path


def test_write(tmp_path: Path) -> None:
    records = [*matrix(), evaluated(Case("vgg11", "full", task="fashion10"), classes=4)]
    path = save(tmp_path, *records)
    assert leaderboard.write(tmp_path) == tmp_path / "leaderboard.md"
    assert (tmp_path / "leaderboard.md").read_text() == leaderboard.render(records)
    path.write_text(path.read_text() + "{\n")
    told: list[str] = []
    text = leaderboard.write(tmp_path, told.append).read_text()
    assert [error.split(": ")[0] for error in told] == [f"{path}:22"]
    assert f"\n\n## Lines that could not be read\n\n- {to_markdown(str(path))}:22: expected JSON" in text


def test_write_without_runs(tmp_path: Path) -> None:
    with pytest.raises(FashiontlError, match=r"got none; run pytest bench/ --results .*nowhere first"):
        leaderboard.write(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


# --- the summary on a terminal ---


def test_summary() -> None:
    measured = (Measurement("accuracy", (0.9,), 800), sliced("latency", *[[0.004] * 8] * 3))
    text = leaderboard.summary([failed(CPU[0], "timeout", "too slow"), record(CPU[1], measurements=measured)])
    *_, best, worst, reason = text.splitlines()
    assert re.split("  +", best) == ["resnet18-linear_probe-cpu", "90.0 ± 2.3", "—", "—", "4.00 ± 0.00", "—", "ok"]
    assert worst.split() == ["resnet18-scratch-cpu", *["—"] * 5, "timeout"]
    assert reason == "resnet18-scratch-cpu: timeout: too slow"
    assert leaderboard.summary([]) == "no records"


def test_a_long_name_takes_several_lines_of_the_summary() -> None:
    case = Case("mean:vgg11+resnet18+mobilenet_v2", "linear_probe", "cuda:1", precision="bf16", execution="compile")
    lines = leaderboard.summary([record(case), record(Case("a" * 70, "full"), number=1)]).splitlines()
    assert max(map(len, lines)) <= 110
    assert {"mean:vgg11+resnet18+", "  mobilenet_v2-linear_probe-", "a" * 28} <= {line[:32].rstrip() for line in lines}
