import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from records import LAPTOP, PROOF, SERVER, failed, matrix, record, tables

from fashiontl.core.case import PRESETS, Case
from fashiontl.core.errors import FashiontlError
from fashiontl.core.escape import to_markdown
from fashiontl.core.metrics import Measurement
from fashiontl.records import Record, RunFile, runs
from fashiontl.reports.leaderboard import page as leaderboard
from fashiontl.reports.leaderboard.notes import notes
from fashiontl.reports.leaderboard.rows import row_of
from fashiontl.reports.leaderboard.sections import sections, settings_name

CPU = [Case("resnet18", policy) for policy in ("scratch", "linear_probe", "full")]


def small_board(**fields: Any) -> str:
    """Two cells with numbers that can be checked by hand, and one that ended early."""

    def measured(accuracy: float, seconds: float) -> tuple[Measurement, ...]:
        return (
            Measurement("accuracy", (accuracy,), 800),
            Measurement("latency", tuple(seconds * (1 + step / 1000) for step in range(100))),
            Measurement("training_peak_memory", (200 * 2**20,)),
            Measurement("trainable_parameters", (2052.0,)),
        )

    return leaderboard.render(
        [
            failed(CPU[0], "timeout", "train took longer than 600 s", **fields),
            record(CPU[1], measurements=measured(0.9, 0.004), **fields),
            record(CPU[2], measurements=measured(0.95, 0.005), warnings=("latency had not settled",), **fields),
        ]
    ).replace("\xa0", " ")


def test_the_table() -> None:
    assert tables(small_board())[0] == [
        ["Architecture", "Policy", "Weights", "Accuracy (%)", "Training (images/s)", "Inference (images/s)",
         "Latency p50 (ms)", "Latency p90 (ms)", "Training peak (MiB)", "Inference peak (MiB)", "Trainable (M)",
         "Status"],
        ["resnet18", "full", "fashion6", "**95.0 ± 1.7**", "—", "—", "5.25 ± 0.05", "5.45 ± 0.03", "~**200**",
         "—", "0.00205", "ok ¹"],
        ["resnet18", "linear_probe", "fashion6", "90.0 ± 2.3", "—", "—", "**4.20 ± 0.04**", "**4.36 ± 0.02**",
         "~**200**", "—", "0.00205", "ok"],
        ["resnet18", "scratch", "none", "—", "—", "—", "—", "—", "—", "—", "—",
         "**timeout**: train took longer than 600 s"],
    ]  # fmt: skip


def test_devices_are_told_apart_where_there_are_several() -> None:
    board = leaderboard.render([record(Case("vgg11", "full", device)) for device in ("cuda", "cuda:1")])
    assert [line[3] for line in tables(board)[0]] == ["Device", "cuda", "cuda:1"]


def test_the_notes() -> None:
    page = small_board(settings=dataclasses.replace(PRESETS["quick"], epochs=9, timeout=5.0))
    assert page.count("\n## ") == 1
    assert "\n## fashion4, quick with epochs=9, on AMD EPYC 7763 (2 cores, 2 threads)\n" in page
    assert "\nThe first four classes: T-shirt/top, trouser, pullover, dress.\n" in page
    lines = [line for line in page[page.index("- **Command**") :].splitlines() if line.startswith("- ")]
    settings = lines.pop(3)
    assert lines == [
        "- **Command** `pytest bench/`, 2026-01-02 03:00 UTC, commit `01234567`",
        "- **Hardware** AMD EPYC 7763, 2 of 4 cores, 2 threads, 8.0 GiB, load up to 0.25 when cases started "
        "(machine `amd-epyc-7763-2c-2t-edbfa711`)",
        "- **Versions** Python 3.12.4, torch 2.13.0+cpu, torchvision 0.28.0, fashiontl 0.1.0; Linux 6.8.0 x86_64",
        "- **Accuracy** of 1 seed on 800 test images, tested once, at the end of training",
        "- **Data** the package's own selection, SHA-256 `d1d1d1d1d1d1`",
        "- **Timing** 8 loops ended: 4 once their median was precise, 4 as their time was up; all became steady; none "
        "dropped samples of a throttled machine",
        "- **Policy kept** in 2 of 2 trained cells: after training, what was frozen was bit-identical (120 parameter "
        "tensors and 120 buffers compared), and every stage that trains had moved (4 parameter tensors)",
    ]
    assert settings.startswith("- **Settings** `preset=quick data=embedded image_size=")
    assert " epochs=9 " in settings
    assert "data_root" not in settings


def test_notes_name_all_that_differs() -> None:
    dirty = dataclasses.replace(LAPTOP, git_sha="f" * 40, git_dirty=True, load=7.5)
    found = notes(
        [
            row_of(record(CPU[0], command="pytest bench/ -k `x`", environment=SERVER)),
            row_of(record(CPU[1], number=90, environment=dirty, measurements=())),
        ]
    )
    assert found[0] == (
        "**Command** `` pytest bench/ -k `x` ``, `pytest bench/`, 2026-01-02 03:00 to 2026-01-02 03:01 UTC, "
        "commit `01234567`, `ffffffff` with uncommitted changes"
    )
    assert "load up to 7.5 when" in found[1]
    assert "torch 2.13.0+cu130, 2.13.0+cpu, " in found[2]
    assert ", CUDA 13.0, cuDNN 91300, driver 580.65.06; " in found[2]


def test_notes_without_what_is_unknown() -> None:
    bare = dataclasses.replace(LAPTOP, git_sha=None, git_dirty=None, memory=None, load=None, fashiontl="0.2.0")
    found = notes([row_of(failed(CPU[0], "crashed", "", environment=bare))])
    assert found[:3] == [
        "**Command** `pytest bench/`, 2026-01-02 03:00 UTC",
        "**Hardware** AMD EPYC 7763, 2 of 4 cores, 2 threads (machine `amd-epyc-7763-2c-2t-edbfa711`)",
        "**Versions** Python 3.12.4, torch 2.13.0+cpu, torchvision 0.28.0, fashiontl 0.2.0; Linux 6.8.0 x86_64",
    ]
    assert len(found) == 4


def test_sizes_and_weights_are_folded_away() -> None:
    source = {"accuracy": 0.873, "sha256": "e2" * 32}
    measured = record(CPU[2])
    page = leaderboard.render([dataclasses.replace(measured, provenance=measured.provenance | {"pretraining": source})])
    header, row = tables(page[page.index("<summary>Sizes, times and weights</summary>") :])[0]
    assert header[3:] == [
        "Parameters (M)", "Forward (GFLOP/image)", "Training time (s)", "Case time (s)", "Weights' SHA-256",
    ]  # fmt: skip
    assert row[3:5] == ["11.2", "0.0700"]
    assert row[7] == "`e2e2e2e2e2e2`, 87.3 % on their own task"


def test_reference_stands_where_it_can_be_compared() -> None:
    ten = leaderboard.render([record(Case("vgg11", "full", task="fashion10"))])
    assert (
        "- **To beat** a widely read tutorial's figures, 20 naive epochs at batch size 32: 83 % with a VGG-like "
        "network, 89 % with a ResNet-50-like one\n"
    ) in ten
    assert "To beat" not in small_board()


def test_reasons_stay_in_their_cell() -> None:
    page = leaderboard.render([failed(CPU[0], "crashed", "a | b\n*c* <d> " + "e" * 200)])
    assert tables(page)[0][1][-1] == r"**crashed**: a \| b \*c\* &lt;d> " + "e" * 85 + "…"


def test_doubts_are_footnotes() -> None:
    doubted = ("latency had not settled", "clocks were low")
    unmoved = PROOF | {"unmoved": ["a.weight", "b_", "c", "d"]}
    page = leaderboard.render(
        [
            record(CPU[0], warnings=doubted),
            record(CPU[1], warnings=doubted),
            record(CPU[2], proof=unmoved),
            record(Case("vgg11", "full"), warnings=("one",), status="invalid", reason="moved"),
        ]
    )
    statuses = {(row[0], row[1]): row[-1] for row in tables(page)[0][1:]}
    marks = {policy: status for (network, policy), status in statuses.items() if network == "resnet18"}
    assert marks["scratch"] == marks["linear_probe"] != marks["full"]
    assert statuses["vgg11", "full"] == "**invalid**: moved ³"
    number_of = marks["scratch"].removeprefix("ok ")
    assert f"\n{number_of} latency had not settled; clocks were low  \n" in page
    assert (
        f"\n{marks['full'].removeprefix('ok ')} 4 tensors that should train did not move (a.weight, b\\_, c, …)  \n"
        in page
    )


def test_sections_hold_what_can_be_compared() -> None:
    longer = dataclasses.replace(PRESETS["quick"], epochs=99)
    patient = dataclasses.replace(PRESETS["quick"], timeout=99.0)
    found = sections(
        map(
            row_of,
            [
                record(CPU[0], number=1),
                record(CPU[1], number=2, settings=patient),
                record(CPU[1], number=3, settings=longer),
                record(CPU[1], number=4, environment=SERVER),
                record(Case("resnet18", "full", task="fashion10"), number=5),
            ],
        )
    )
    assert [section.title for section in found] == [
        "fashion10, quick, on AMD EPYC 7763 (2 cores, 2 threads)",
        "fashion4, quick, on NVIDIA H100 80GB HBM3",
        "fashion4, quick with epochs=99, on AMD EPYC 7763 (2 cores, 2 threads)",
        "fashion4, quick, on AMD EPYC 7763 (2 cores, 2 threads)",
    ]
    assert [len(section.rows) for section in found] == [1, 1, 1, 2]


def test_settings_of_an_unknown_preset() -> None:
    assert settings_name(dataclasses.replace(PRESETS["quick"], preset="mine")) == "mine"


def test_overview_only_where_there_is_more_than_one_section() -> None:
    broken = failed(Case("vgg11", "full", "cuda"), "oom", "too big", environment=SERVER, number=9)
    page = leaderboard.render([*matrix()[:3], failed(Case("vgg11", "full"), "oom", "too big"), broken])
    assert tables(page)[0] == [
        ["Section", "Cells ok", "Most accurate", "Accuracy (%)"],
        ["fashion4, quick, on NVIDIA H100 80GB HBM3", "0 of 1", "—", "—"],
        [
            "fashion4, quick, on AMD EPYC 7763 (2 cores, 2 threads)",
            "3 of 4",
            "vgg11-last_stage-cpu",
            "90.0\xa0±\xa02.3",
        ],
    ]
    assert "| Section" not in leaderboard.render(matrix())


def test_only_the_newest_of_a_cell_is_shown() -> None:
    page = leaderboard.render([failed(CPU[0], "oom", "new", number=9), record(CPU[0], number=1)])
    assert [row[-1] for row in tables(page)[0][1:]] == ["**oom**: new"]


def test_a_page_of_nothing() -> None:
    assert leaderboard.render([]).startswith("# Leaderboard\n")


NEW_TITLES = (
    "Latency, loading and compiling", "Training step", "Memory", "Arithmetic and energy", "Batch sizes",
)  # fmt: skip


def test_old_records_are_shown_as_before() -> None:
    page = leaderboard.render(matrix(old=True))
    assert re.findall(r"<summary>(.*?)</summary>", page) == [
        "Training speed and memory by architecture and policy", "Sizes, times and weights",
    ]  # fmt: skip
    assert not re.search(r"Variant|p99|\*\*Timing", page)


def test_new_records_have_more_tables() -> None:
    settings = dataclasses.replace(PRESETS["quick"], sweep=64)
    page = leaderboard.render(matrix("cuda", environment=SERVER, settings=settings))
    titles = re.findall(r"<summary>(.*?)</summary>", page)
    assert tuple(titles[1:6]) == NEW_TITLES


def test_p99_stands_in_the_table_when_some_row_has_samples_enough() -> None:
    many = dataclasses.replace(PRESETS["quick"], samples=1000)
    records = [record(CPU[0]), record(CPU[1], settings=many), failed(CPU[2], "oom", "too big")]
    table = tables(leaderboard.render(records))[0]
    place = table[0].index("Latency p99 (ms)")
    assert table[0][place - 2 : place] == ["Latency p50 (ms)", "Latency p90 (ms)"]
    texts = {line[1]: line[place] for line in table[1:]}
    assert texts["scratch"] == texts["full"] == "—"
    assert "±" in texts["linear_probe"]
    assert "p99" not in str(tables(leaderboard.render(records[:1]))[0])


def test_rows_that_differ_in_how_they_run_say_so() -> None:
    variants = ({}, {"batch": 64}, {"image_size": 48}, {"precision": "bf16", "execution": "compile"})
    records = [record(Case("vgg11", "full", **each), number=number) for number, each in enumerate(variants)]
    page = leaderboard.render(records)
    table = tables(page)[0]
    assert table[0][3] == "Variant"
    assert sorted(line[3] for line in table[1:]) == ["", "48px", "batch64", "bf16 compile"]
    assert (
        "\n**Variant**: what of precision, memory format, execution, image size and batch differs from fp32, "
        "contiguous, eager and the settings below.\n"
    ) in page


ANYTHING = st.none() | st.integers() | st.text(max_size=9) | st.lists(st.integers(), max_size=2)
DICTIONARIES = st.dictionaries(
    st.sampled_from(
        [
            "data",
            "weights",
            "pretraining",
            "unmoved",
            "holds",
            "frozen_parameters",
            "sha256",
            "accuracy",
            "evaluation",
            "image_size",
            "validation",
            "deterministic",
            "extensions",
            "trained",
            "timing",
            "sweep",
            "peak",
            "compile",
            "conditions",
        ]
    ),
    ANYTHING
    | st.dictionaries(
        st.sampled_from(["sha256", "source", "accuracy", "inference", "training", "matmul", "latency"]),
        ANYTHING
        | st.dictionaries(
            st.sampled_from(["points", "largest", "limit", "graphs", "recompiles", "ended", "steady", "throttled"]),
            ANYTHING | st.lists(st.dictionaries(st.sampled_from(["batch", "seconds"]), ANYTHING)),
        ),
    )
    | st.lists(
        st.dictionaries(st.sampled_from(["accuracies", "chosen", "confusion", "loss", "calibration_error"]), ANYTHING)
    ),
)


@example({}, {"weights": {"sha256": "|\x1e"}, "data": {"sha256": "`\n"}}, "", "")
@given(DICTIONARIES, DICTIONARIES, st.text(), st.text())
def test_whatever_a_record_holds_the_table_stays_whole(
    proof: dict[str, Any], provenance: dict[str, Any], reason: str, name: str
) -> None:
    case = Case(name, "full", weights=name)
    page = leaderboard.render(
        [record(case, status="crashed", reason=reason, proof=proof, provenance=provenance, measurements=())]
    )
    assert [len(line) for line in tables(page)[0]] == [12, 12]
    assert [len(line) for line in tables(page[page.index("<summary>Sizes, times") :])[0]] == [8, 8]
    assert all(len({len(line) for line in table}) == 1 for table in tables(page))


@given(st.text())
def test_escaped_text_stays_on_its_line(text: str) -> None:
    escaped = to_markdown(text)
    assert len(escaped.splitlines()) <= 1
    assert "<" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*[|*`\[\]~]", escaped)


def save(results: Path, *records: Record, name: str = "run") -> Path:
    path = results / "runs" / "m" / f"{name}.jsonl"
    for each in records:
        RunFile(path).append(each)
    return path


def test_write(tmp_path: Path) -> None:
    save(tmp_path, *matrix())
    page = leaderboard.write(tmp_path)
    assert page == tmp_path / "leaderboard.md"
    assert page.read_text() == leaderboard.render(matrix())
    before = page.read_bytes()
    assert leaderboard.write(tmp_path).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["leaderboard.md", "runs"]


def test_write_names_what_it_could_not_read(tmp_path: Path) -> None:
    path = save(tmp_path, record(CPU[0]))
    path.write_text(path.read_text() + "{\n")
    text = leaderboard.write(tmp_path).read_text()
    section = text[text.index("## Lines that could not be read") :]
    assert section.splitlines()[2].startswith(f"- {to_markdown(str(path))}:2: expected one record in JSON, got: ")
    assert len(tables(text)[0]) == 2


def test_write_without_runs(tmp_path: Path) -> None:
    with pytest.raises(FashiontlError) as caught:
        leaderboard.write(tmp_path / "nowhere")
    assert str(caught.value) == (
        f"expected runs under {tmp_path}/nowhere/runs, got none; run pytest bench/ --results {tmp_path}/nowhere first, "
        "or name another folder with --results"
    )
    assert not (tmp_path / "nowhere").exists()


def test_write_parses_only_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps 100,000 records under 5 seconds: those that are out of date are not parsed."""
    for run in "01234":
        save(tmp_path, *(dataclasses.replace(each, run=run) for each in matrix()), name=run)
    parsed = []
    monkeypatch.setattr(
        runs,
        "from_json",
        lambda line, where, wanted, read=runs.from_json: (parsed.append(where), read(line, where, wanted))[1],
    )
    leaderboard.write(tmp_path)
    assert len(parsed) == 20
    assert {Path(where.rpartition(":")[0]).name for where in parsed} == {"4.jsonl"}


def test_summary() -> None:
    measured = (Measurement("accuracy", (0.9,), 800), Measurement("latency", (0.004,) * 20))
    text = leaderboard.summary([failed(CPU[0], "timeout", "too slow"), record(CPU[1], measurements=measured)])
    assert text == (
        "Cell                         Accuracy      Training     Inference      Latency    Training  Status\n"
        "                                  (%)    (images/s)    (images/s)          p50        peak\n"
        "                                                                          (ms)       (MiB)\n"
        "-------------------------  ----------  ------------  ------------  -----------  ----------  --------\n"
        "resnet18-linear_probe-cpu  90.0 ± 2.3             —             —  4.00 ± 0.00           —  ok\n"
        "resnet18-scratch-cpu                —             —             —            —           —  timeout\n"
        "resnet18-scratch-cpu: timeout: too slow"
    )


def test_a_long_name_takes_several_lines_of_the_summary() -> None:
    case = Case("mean:vgg11+resnet18+mobilenet_v2", "linear_probe", "cuda:1", precision="bf16", execution="compile")
    text = leaderboard.summary([record(case), record(Case("a" * 70, "full"), number=1)])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 110
    names = [line[:32].rstrip() for line in lines[4:]]
    assert sorted(names) == sorted(
        ["mean:vgg11+resnet18+", "  mobilenet_v2-linear_probe-", "  cuda:1-bf16-compile", "a" * 30, "  " + "a" * 30,
         "  aaaaaaaaaa-full-cpu"]
    )  # fmt: skip


def test_summary_of_nothing() -> None:
    assert leaderboard.summary([]) == "no records"
