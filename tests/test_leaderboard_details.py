import dataclasses
from typing import Any

import pytest
from records import SERVER, failed, record, tables

from fashiontl.core.case import Case
from fashiontl.core.metrics import Measurement
from fashiontl.records import Record
from fashiontl.reports.leaderboard.details import details_text
from fashiontl.reports.leaderboard.names import Names
from fashiontl.reports.leaderboard.rows import row_of


def details(*records: Record) -> dict[str, str]:
    """The folded parts by their titles."""
    rows = [row_of(each) for each in records]
    found = [part.replace("\xa0", " ") for part in details_text(rows, Names.of(rows))]
    return {part[part.index("<summary>") + 9 : part.index("</summary>")]: part for part in found}


def measured(policy: str, *, provenance: dict[str, Any] | None = None, **numbers: float) -> Record:
    case = Case("vgg11", policy, precision="bf16" if policy == "bf16" else "fp32")
    made = tuple(Measurement(metric, (value,)) for metric, value in numbers.items())
    return record(case, measurements=made, provenance=provenance or {})


def headers(part: str) -> list[str]:
    return tables(part)[0][0][3:]


def test_a_table_that_would_only_repeat_others_is_left_out() -> None:
    assert details(record(Case("vgg11", "full"), old=True)) == {}
    assert details(failed(Case("vgg11", "full"), "oom", "too big")) == {}
    numbers = dict.fromkeys(["latency", "train_throughput", "training_peak_memory", "base_memory", "flops"], 2.0)
    assert details(measured("full", **numbers)) == {}


def test_columns_and_rows_without_numbers_are_left_out() -> None:
    found = details(
        measured("full", latency=0.001, load_time=2.0),
        measured("scratch", latency=0.001),
        measured("last_2", load_time=3.0, first_step_time=4.0),
    )
    assert list(found) == ["Latency, loading and compiling"]
    page = found["Latency, loading and compiling"]
    assert tables(page)[0] == [
        ["Architecture", "Policy", "Weights", "Latency p50 (ms)", "Load (s)", "First step (s)"],
        ["vgg11", "full", "fashion6", "~**1.00**", "~**2.00**", "—"],
        ["vgg11", "last_2", "fashion6", "—", "3.00", "4.00"],
    ]
    assert page.count("\n- **") == 3
    assert "**Device latency**" not in page


def test_the_training_step() -> None:
    parts = {"data": 0.001, "forward": 0.002, "backward": 0.004, "optimizer": 0.001}
    numbers = {f"step_{name}_time": seconds for name, seconds in parts.items()}
    page = details(measured("full", train_throughput=200.0, end_to_end_throughput=150.0, **numbers))["Training step"]
    assert headers(page) == [
        "Training (images/s)", "End to end (images/s)", "Data (ms)", "Forward (ms)", "Backward (ms)", "Optimiser (ms)",
        "Waiting for data (%)",
    ]  # fmt: skip
    assert tables(page)[0][1][3:] == ["200", "150", "1.00", "2.00", "4.00", "1.00", "12.5"]


def test_memory_names_only_what_the_device_tells() -> None:
    on_cpu = details(record(Case("vgg11", "full")))["Memory"]
    assert headers(on_cpu) == [
        "Load peak (MiB)", "Inference peak (MiB)", "Training peak (MiB)", "Load process (MiB)",
        "Inference process (MiB)", "Training process (MiB)", "Empty worker (MiB)",
    ]  # fmt: skip
    on_gpu = details(record(Case("vgg11", "full", "cuda"), environment=SERVER))["Memory"]
    assert "Training reserved (MiB)" in headers(on_gpu)
    assert "**Reserved**" in on_gpu
    assert "**Reserved**" not in on_cpu


def peak(policy: str, gigaflops: float, **provenance: Any) -> Record:
    return measured(
        policy, provenance=provenance, training_flops=3e9, train_throughput=10.0, peak_flops=gigaflops * 1e9
    )


def test_which_peak_arithmetic_is_compared_with() -> None:
    matmul, convolution = {"matmul": 1.2e12, "convolution": 1e12}, {"matmul": 1e12, "convolution": 1.25e12}
    page = details(
        peak("full", 1200, peak=matmul), peak("scratch", 1250, peak=convolution), peak("bf16", 4000, peak="garbage")
    )["Arithmetic and energy"]
    assert page.endswith(
        "\n\nPeaks measured on this machine: fp32 1,200 to 1,250 GFLOP/s (matrix product or convolution); "
        "bf16 4,000 GFLOP/s.\n\n</details>"
    )
    assert [line[5] for line in tables(page)[0][1:]] == ["~**2.500**", "2.400", "0.750"]


def test_energy_stands_only_where_it_is_known() -> None:
    on_cpu = details(record(Case("vgg11", "full")))["Arithmetic and energy"]
    on_gpu = details(record(Case("vgg11", "full", "cuda"), environment=SERVER))["Arithmetic and energy"]
    assert "J/image" not in on_cpu
    assert headers(on_gpu)[-3:] == ["Inference (J/image)", "Training (J/image)", "Idle (W)"]


@pytest.mark.parametrize(
    ("graphs", "expected"),
    [
        ({"graphs": 1, "graph_breaks": 0, "recompiles": 0}, "1"),
        ({"graphs": 3, "graph_breaks": 2, "recompiles": 1}, "3, 2 breaks, 1 recompile"),
        ({"graphs": 2, "graph_breaks": 1, "recompiles": 4}, "2, 1 break, 4 recompiles"),
        ({"graphs": "many", "graph_breaks": None}, "—"),
    ],
)
def test_what_the_compiler_made(graphs: dict[str, Any], expected: str) -> None:
    case = Case("vgg11", "full", execution="compile")
    made = dataclasses.replace(record(case), provenance={"compile": {"inference": graphs, "training": "garbage"}})
    page = details(made, record(Case("vgg11", "full")))["Latency, loading and compiling"]
    header, compiled, eager = tables(page)[0]
    assert header[-3:] == ["Compile inference (s)", "Compile training (s)", "Graphs, inference"]
    assert compiled[-1] == expected
    assert eager[-3:] == ["—", "—", "—"]
    assert "\n- **Graphs**: " in page


def test_no_table_is_empty_or_ragged() -> None:
    cases = [Case("vgg11", "full", "cuda"), Case("vgg11", "full", "cuda", execution="compile", precision="bf16")]
    for page in details(*(record(case, environment=SERVER) for case in cases)).values():
        for table in tables(page):
            assert len(table) == 3
            assert len({len(line) for line in table}) == 1
            assert all({line[column] for line in table[1:]} != {"—"} for column in range(len(table[0])))


def period(first: int, epochs: int, *milliseconds: float, **more: Any) -> dict[str, Any]:
    seconds = [each / 1000 for each in milliseconds]
    return {"first_epoch": first, "epochs": epochs, "step_time": seconds, "end_to_end_time": seconds[:1], **more}


def test_steps_of_a_policy_that_changes_by_epoch_and_their_weighted_mean() -> None:
    each = [
        period(1, 3, 10, 12, 90, training_peak_memory=100 * 2**20),
        period(4, 1, 40, training_peak_memory=300 * 2**20),
    ]
    page = details(measured("lp_ft", provenance={"periods": {"each": each}}), measured("full"))[
        "Training step by epoch"
    ]
    (shown,) = tables(page)
    assert shown[0][3:] == ["Epochs", "Share (%)", "Step (ms)", "End to end (ms)", "Training peak (MiB)"]
    assert [line[1:] for line in shown[1:]] == [
        ["lp_ft", "fashion6", "1 to 3", "75", "12.0", "10.0", "100"],
        ["lp_ft", "fashion6", "4", "25", "40.0", "40.0", "300"],
        ["lp_ft", "fashion6", "**mean**", "100", "19.0", "17.5", "150"],
    ]
    assert "weighted by epochs" in page


def test_memory_that_no_period_knows_is_unknown() -> None:
    each = [period(1, 1, 10), period(2, 1, 20, training_peak_memory=5)]
    page = details(measured("lp_ft", provenance={"periods": {"each": each}}))["Training step by epoch"]
    assert [line[-1] for line in tables(page)[0][1:]] == ["—", "0.00000477", "—"]


@pytest.mark.parametrize(
    "foreign",
    [
        3, {}, {"each": 3}, {"each": []}, {"each": [period(1, 1, 10)]}, {"each": [period(1, 1, 10), 3]},
        {"each": [period(1, 1, 10), period(2, 0, 10)]}, {"each": [period(1, 1, 10), period(2, 1)]},
        {"each": [period(1, 1, 10), period(2, 1, 1e300)]}, {"each": [period(1, 1, 10), period(True, 1, 10)]},
        {"each": [period(1, 1, 10), period(10**400, 1, 10)]},
    ],
)  # fmt: skip
def test_periods_that_cannot_be_read_are_not_shown(foreign: Any) -> None:
    assert "Training step by epoch" not in details(measured("lp_ft", provenance={"periods": foreign}))
