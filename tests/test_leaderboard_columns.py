import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import SERVER, record

from fashiontl.core.case import Case
from fashiontl.core.metrics import METRICS, Measurement, Metric
from fashiontl.reports.leaderboard.columns import ALL, ARITHMETIC, LATENCY, Column, columns_of, waiting_share
from fashiontl.reports.leaderboard.rows import column_texts, row_of

# What a raw value in a base unit is multiplied with to be shown in another.
SCALES = {
    ("s", "s"): 1, ("s", "ms"): 1e3, ("B", "MiB"): 2**-20, ("1", "%"): 100, ("1", "M"): 1e-6, ("1", "% of peak"): 100,
    ("FLOP", "GFLOP/image"): 1e-9, ("FLOP/s", "GFLOP/s"): 1e-9, ("images/s", "images/s"): 1, ("images", "images"): 1,
    ("J/image", "J/image"): 1, ("W", "W"): 1,
}  # fmt: skip


def shown_unit(label: str, metric: Metric) -> str:
    """The unit in a header's parentheses; the base unit where there are none."""
    found = re.search(r" \((.*)\)$", label)
    return found[1] if found else metric.unit


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_no_unit_of_a_metric_is_divided_twice(metric: Metric) -> None:
    assert metric.scale == SCALES[metric.unit, shown_unit(metric.label, metric)]


@pytest.mark.parametrize("column", ALL, ids=lambda column: column.label)
def test_no_unit_of_a_column_is_divided_twice(column: Column) -> None:
    assert column.metric.scale == SCALES[column.metric.unit, shown_unit(column.label, column.metric)]


def column(label: str) -> Column:
    return next(each for each in ALL if each.label == label)


def shown(label: str, **measured: float | tuple[float, ...]) -> str:
    """A cell of one record."""
    made = tuple(
        Measurement(metric, values if isinstance(values, tuple) else (values,)) for metric, values in measured.items()
    )
    row = row_of(record(Case("vgg11", "full"), measurements=made))
    return column_texts([row], column(label))[0].replace("\xa0", " ")


@pytest.mark.parametrize(
    ("label", "metric", "value", "expected"),
    [
        ("Latency p50 (ms)", "latency", 0.001, "1.00"),
        ("Latency p50 (ms)", "latency", 1e-6, "0.00100"),
        ("Device latency (ms)", "device_latency", 0.25, "250"),
        ("Load (s)", "load_time", 1.5, "1.50"),
        ("Compile training (s)", "training_compile_time", 60.0, "60.0"),
        ("Optimiser (ms)", "step_optimizer_time", 0.002, "2.00"),
        ("Training peak (MiB)", "training_peak_memory", 2**20, "1.00"),
        ("Inference reserved (MiB)", "inference_reserved_memory", 3 * 2**30, "3072"),
        ("Load process (MiB)", "load_process_memory", 2**29, "512"),
        ("Empty worker (MiB)", "base_memory", 2**28, "256"),
        ("Training (GFLOP/image)", "training_flops", 1.5e9, "1.50"),
        ("Inference (J/image)", "inference_energy", 1e-6, "0.00000100"),
        ("Training (J/image)", "training_energy", 0.25, "0.250"),
        ("Idle (W)", "idle_power", 71.5, "71.5"),
        ("End to end (images/s)", "end_to_end_throughput", 1234.0, "1234"),
        ("Trainable (M)", "trainable_parameters", 11_200_000, "11.2"),
    ],
)
def test_numbers_are_shown_in_their_header_unit(label: str, metric: str, value: float, expected: str) -> None:
    assert shown(label, **{metric: value}) == expected


def test_labels_differ() -> None:
    labels = [each.label for each in ALL]
    assert len(set(labels)) == len(labels)


def test_every_metric_of_speed_memory_and_energy_is_shown() -> None:
    unseen = {"largest_inference_batch", "largest_training_batch"}  # beside the batch sizes, from the sweep itself
    known = {metric for metric in METRICS if any(each.metric.name == metric for each in ALL)}
    assert set(METRICS) - known == unseen


def test_shares_of_the_peak() -> None:
    numbers = {"flops": 2e9, "training_flops": 6e9, "train_throughput": 50.0, "peak_flops": 1e12}
    pace = tuple(100.0 + step for step in range(-5, 6))
    assert shown("Inference (% of peak)", **numbers, inference_throughput=pace) == "20.0 ± 0.8"
    assert shown("Training (% of peak)", **numbers) == "30.0"
    # What is above the peak is not clipped: then one of the two was measured wrongly.
    assert shown("Training (% of peak)", **(numbers | {"train_throughput": 500.0})) == "300"


@pytest.mark.parametrize("missing", ["flops", "inference_throughput", "peak_flops"])
def test_a_share_of_what_is_unknown_is_unknown(missing: str) -> None:
    numbers = {"flops": 2e9, "inference_throughput": 100.0, "peak_flops": 1e12}
    del numbers[missing]
    assert shown("Inference (% of peak)", **numbers) == "—"


@pytest.mark.parametrize(("flops", "peak"), [(0.0, 1e12), (2e9, 0.0), (1e308, 1e-300)])
def test_a_share_that_cannot_be_is_unknown(flops: float, peak: float) -> None:
    assert shown("Inference (% of peak)", flops=flops, inference_throughput=100.0, peak_flops=peak) == "—"


PARTS = ("step_data_time", "step_forward_time", "step_backward_time", "step_optimizer_time")


def parts(*seconds: tuple[float, ...]) -> dict[str, Measurement]:
    return {name: Measurement(name, values) for name, values in zip(PARTS, seconds, strict=False)}


def test_waiting_for_data() -> None:
    found = waiting_share(parts((1.0, 2.0, 3.0), (1.0, 2.0, 1.0), (1.0, 2.0, 1.0), (1.0, 2.0, 1.0)))
    assert found is not None
    assert (found.estimate, found.low, found.high) == (0.25, -math.inf, math.inf)
    assert shown("Waiting for data (%)", **dict.fromkeys(PARTS, (0.001,) * 9)) == "25.0 ± 0.0"


@pytest.mark.parametrize(
    "seconds",
    [((1.0,),), ((1.0,), (1.0,), (1.0,)), ((1.0, 2.0), (1.0,), (1.0,), (1.0,)), ((0.0,), (0.0,), (0.0,), (0.0,))],
)
def test_waiting_is_unknown_where_the_parts_do_not_belong_together(seconds: tuple[tuple[float, ...], ...]) -> None:
    assert waiting_share(parts(*seconds)) is None


@given(st.lists(st.tuples(*[st.floats(1e-9, 1e3)] * 4), min_size=1, max_size=40))
def test_a_share_lies_between_nothing_and_all(steps: list[tuple[float, ...]]) -> None:
    found = waiting_share(parts(*zip(*steps, strict=True)))
    assert found is not None
    assert 0 <= found.estimate <= 1
    assert found.low <= found.estimate <= found.high


def test_circumstances_are_never_the_best() -> None:
    rows = [
        row_of(record(Case("vgg11", policy), measurements=(Measurement("idle_power", (watts,)),)))
        for policy, watts in (("full", 70.0), ("scratch", 75.0))
    ]
    assert column_texts(rows, column("Idle (W)")) == ["70.0", "75.0"]


def test_a_worker_without_memory_on_the_device_has_no_number() -> None:
    assert shown("Empty worker (MiB)", base_memory=0) == "—"


def test_a_record_of_a_gpu_has_all_columns_but_those_of_the_compiler() -> None:
    row = row_of(record(Case("vgg11", "full", "cuda"), environment=SERVER))
    unknown = {each.label for each in ALL if row.interval(each) is None}
    assert unknown == {"Latency p99 (ms)", "Compile inference (s)", "Compile training (s)"}
    assert {LATENCY, *columns_of(ARITHMETIC)} <= set(ALL)
