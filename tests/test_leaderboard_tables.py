"""Tables of the leaderboard: columns and their units, what is best, details, grids and hybrids."""

import dataclasses
import math
import random
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from records import SERVER, evaluated, failed, record, sliced, sweep, tables
from tabulate import tabulate

from fashiontl.core.case import PRESETS, Case
from fashiontl.core.metrics import METRICS, Measurement
from fashiontl.core.stats import Interval, accuracy_interval, wilson
from fashiontl.freezing import POLICIES
from fashiontl.records import Record
from fashiontl.reports.leaderboard import page as leaderboard
from fashiontl.reports.leaderboard.columns import ACCURACY, ALL, LATENCY, P90, P99, Column, waiting_share
from fashiontl.reports.leaderboard.details import classes_text, details_text
from fashiontl.reports.leaderboard.grids import frontier, grids_text
from fashiontl.reports.leaderboard.hybrids import hybrids_text
from fashiontl.reports.leaderboard.markdown import TextColumn, table
from fashiontl.reports.leaderboard.names import Names
from fashiontl.reports.leaderboard.notes import Footnotes
from fashiontl.reports.leaderboard.rows import (
    Row,
    by_accuracy,
    decimals,
    number,
    relative_widths,
    row_of,
    text_column,
)

FULL = Case("vgg11", "full")
CPU = [Case("resnet18", policy) for policy in ("scratch", "linear_probe", "full")]
PARTS = ("step_data_time", "step_forward_time", "step_backward_time", "step_optimizer_time")
OPEN = (-math.inf, math.inf)


def measured(case: Case, trials: int = 0, provenance: dict[str, Any] | None = None, **numbers: Any) -> Record:
    """A record with one value or several of some metrics."""
    found = tuple(
        Measurement(metric, tuple(values) if isinstance(values, tuple | list) else (values,), trials)
        for metric, values in numbers.items()
    )
    return record(case, measurements=found, provenance=provenance or {})


def column(label: str) -> Column:
    return next(each for each in ALL if each.label == label)


def texts(found: list[Row], shown: Column) -> list[str]:
    return [text.replace("\xa0", " ") for text in text_column(found, shown).texts]


# --- columns ---

# What a raw value in a base unit is multiplied with to be shown in another.
SCALES = {
    ("s", "s"): 1, ("s", "ms"): 1e3, ("B", "MiB"): 2**-20, ("1", "%"): 100, ("1", "M"): 1e-6, ("1", "% of peak"): 100,
    ("FLOP", "GFLOP/image"): 1e-9, ("FLOP/s", "GFLOP/s"): 1e-9, ("images/s", "images/s"): 1, ("images", "images"): 1,
    ("J/image", "J/image"): 1, ("W", "W"): 1,
}  # fmt: skip


def test_no_unit_is_divided_twice() -> None:
    for label, metric in [*((m.label, m) for m in METRICS.values()), *((c.label, c.metric) for c in ALL)]:
        unit = re.search(r" \((.*)\)$", label)
        pair = metric.unit, unit[1] if unit else metric.unit
        assert pair in SCALES, (
            f"{label}: add to SCALES by what a value in {pair[0]} is multiplied to be shown in {pair[1]}"
        )
        assert metric.scale == SCALES[pair], label


def test_every_metric_has_a_column() -> None:
    unseen = {"largest_inference_batch", "largest_training_batch"}  # beside the batch sizes, from the sweep itself
    assert set(METRICS) - {each.metric.name for each in ALL} == unseen
    labels = [each.label for each in ALL]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("label", "numbers", "expected"),
    [
        ("Latency p50 (ms)", {"latency": 1e-6}, "0.00100"),
        ("Load (s)", {"load_time": 1.5}, "1.50"),
        ("Inference reserved (MiB)", {"inference_reserved_memory": 3 * 2**30}, "3072"),
        ("Training (GFLOP/image)", {"training_flops": 1.5e9}, "1.50"),
        ("Trainable (M)", {"trainable_parameters": 11_200_000}, "11.2"),
        ("Empty worker (MiB)", {"base_memory": 0}, "—"),
        ("Training (% of peak)", {"training_flops": 6e9, "train_throughput": 50.0, "peak_flops": 1e12}, "30.0"),
        # What is above the peak is not clipped: then one of the two was measured wrongly.
        ("Training (% of peak)", {"training_flops": 6e9, "train_throughput": 500.0, "peak_flops": 1e12}, "300"),
        ("Training (% of peak)", {"training_flops": 6e9, "train_throughput": 50.0}, "—"),
        ("Training (% of peak)", {"training_flops": 6e9, "train_throughput": 50.0, "peak_flops": 0.0}, "—"),
        ("Waiting for data (%)", dict.fromkeys(PARTS, (0.001,) * 9), "25.0 (± 0.0)"),
        ("Waiting for data (%)", dict.fromkeys(PARTS[1:], 1.0), "—"),
        ("Waiting for data (%)", dict.fromkeys(PARTS, 1.0) | {"step_data_time": (1.0, 2.0)}, "—"),
        ("Waiting for data (%)", dict.fromkeys(PARTS, 0.0), "—"),
    ],
)
def test_numbers_are_shown_in_their_header_unit(label: str, numbers: dict[str, Any], expected: str) -> None:
    assert texts([row_of(measured(FULL, **numbers))], column(label)) == [expected]


@settings(max_examples=25, derandomize=True)
@given(st.lists(st.tuples(*[st.floats(1e-9, 1e3)] * 4), min_size=1, max_size=40))
def test_a_share_lies_between_nothing_and_all(steps: list[tuple[float, ...]]) -> None:
    parts = zip(PARTS, zip(*steps, strict=True), strict=True)
    found = waiting_share({name: Measurement(name, values) for name, values in parts})
    assert found is not None
    assert 0 <= found.estimate <= 1
    assert found.low <= found.estimate <= found.high


def test_percentiles_need_enough_samples() -> None:
    counts = (19, 20, 999, 1000)
    rows = [row_of(measured(FULL, latency=tuple(range(1, count + 1)))) for count in counts]
    assert [row.interval(P90) is None for row in rows] == [True, False, False, False]
    assert [row.interval(P99) is None for row in rows] == [True, True, True, False]


# --- what is best, and how numbers are written ---


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # A single measurement says nothing of how far others are.
        ([1.0, 1.0, 2.0], ["~**1.00**", "~**1.00**", "2.00"]),
        ([1.0, (), ()], ["1.00", "—", "—"]),  # nothing to be better than
    ],
)
def test_the_best_of_single_values(values: list[Any], expected: list[str]) -> None:
    rows = [row_of(measured(case, load_time=each)) for case, each in zip(CPU, values, strict=True)]
    assert texts(rows, column("Load (s)")) == expected


def noisy(seconds: float, seed: int = 0, rounds: float = 0.0, noise: float = 0.02, **parts: Any) -> Measurement:
    """A latency in slices of three processes, with noise of its own and, of a seed that others share, of rounds."""
    own, shared = random.Random(seed), random.Random("rounds")
    slices = [seconds * own.lognormvariate(0, noise) * shared.lognormvariate(0, rounds) for _ in range(24)]
    return sliced("latency", slices[:8], slices[8:16], slices[16:], **parts)


def rows_of(*measurements: Measurement) -> list[Row]:
    return [row_of(record(Case(f"net{n}", "full"), measurements=(each,))) for n, each in enumerate(measurements)]


def marked(rows: list[Row], shown: Column = LATENCY) -> list[str]:
    """Only the marks of numbers: `~`, bold or both, and what is said after them."""
    return [re.sub(r"[0-9.]+( \(?± [0-9.]+\)?)?", "", text).strip() for text in texts(rows, shown)]


def test_what_cannot_be_told_from_the_best_is_a_group() -> None:
    assert marked(rows_of(noisy(1.0), noisy(1.2, 1), noisy(1.3, 2))) == ["****", "", ""]
    assert marked(rows_of(noisy(1.0), noisy(1.005, 2), noisy(1.3, 3))) == ["~****", "~", ""]
    assert marked(rows_of(noisy(1.0), noisy(1.0))) == ["~****", "~****"]
    assert marked(rows_of(noisy(1.0))) == [""]


def test_cells_of_the_same_rounds_are_compared_by_round() -> None:
    """What a round does to both is no difference between them."""
    one, other = noisy(1.0, 0, 0.2, 0.005), noisy(1.05, 1, 0.2, 0.005)
    assert marked(rows_of(one, other)) == ["****", ""]
    rows = rows_of(one, other)
    first, second = (row.interval(LATENCY) for row in rows)
    assert first is not None
    assert second is not None
    assert first.overlaps(second)
    assert marked(rows_of(one, noisy(1.05, 1, 0.2, 0.005, group="another"))) == ["~****", "~"]


def test_a_single_stretch_is_never_best_and_its_interval_stands_apart() -> None:
    stretch = Measurement("latency", (0.5, 0.5, 0.5, 0.5, 0.5, 0.6))
    assert texts(rows_of(stretch, stretch), LATENCY) == ["500 (± 100)"] * 2
    assert marked(rows_of(stretch, noisy(1.0), noisy(2.0, 1))) == ["", "****", ""]
    assert marked(rows_of(stretch, noisy(1.0))) == ["", ""]


def test_one_measurement_of_several_cells_is_one_candidate() -> None:
    ids = tuple(f"net{n}-full-cpu" for n in range(2))
    shared = noisy(1.0, shared=ids)
    assert marked(rows_of(shared, shared)) == ["", ""]
    assert marked(rows_of(shared, shared, noisy(1.5, 1))) == ["****", "****", ""]
    assert marked(rows_of(noisy(0.5, 1), shared, shared)) == ["****", "", ""]


def test_what_was_disturbed_all_the_time_says_so_and_is_not_best() -> None:
    spoiled = noisy(0.5, disturbed={"steal": tuple(range(12)), "load of others": tuple(range(6, 24))})
    assert marked(rows_of(spoiled, noisy(1.0, 1), noisy(1.5, 2))) == ["disturbed", "****", ""]
    partly = noisy(1.0, 1, disturbed={"steal": (0, 1)})
    assert marked(rows_of(partly, noisy(1.5, 2))) == ["****", ""]


def test_of_very_many_cells_the_best_are_marked_too() -> None:
    rows = rows_of(*(noisy(1 + n / 20, n) for n in range(60)))
    assert marked(rows) == ["****", *[""] * 59]
    accuracies = [row_of(measured(Case(f"net{n}", "full"), 1000, accuracy=(0.9 - n / 100,) * 3)) for n in range(60)]
    assert marked(accuracies, ACCURACY)[0] == "~****"
    assert {*marked(accuracies, ACCURACY)[20:]} == {""}


def test_accuracies_are_compared_by_seed() -> None:
    seeds = (0.0, 0.03, -0.03)
    pairs = [(CPU[0], 0.80), (CPU[1], 0.85), (CPU[2], 0.5)]
    rows = [row_of(measured(case, 10_000, accuracy=[at + seed for seed in seeds])) for case, at in pairs]
    assert marked(rows, ACCURACY) == ["", "****", ""]
    assert marked([rows[0], row_of(measured(CPU[1], 10_000, accuracy=(0.81, 0.8, 0.84)))], ACCURACY) == ["~", "~****"]
    assert marked([row_of(measured(case, 10_000, accuracy=at)) for case, at in pairs], ACCURACY) == ["", "~****", ""]


def test_what_failed_or_is_no_merit_is_never_best() -> None:
    rows = [row_of(measured(case, load_time=seconds)) for case, seconds in zip(CPU, (3.0, 2.0, 1.0), strict=True)]
    rows[2] = row_of(replace(measured(CPU[2], load_time=1.0), status="invalid"))
    assert texts(rows, column("Load (s)")) == ["3.00", "~**2.00**", "1.00"]
    watts = [row_of(measured(case, idle_power=power)) for case, power in zip(CPU, (70.0, 75.0), strict=False)]
    assert texts(watts, column("Idle (W)")) == ["70.0", "75.0"]


def test_order_is_by_accuracy_with_failures_last() -> None:
    sound = [row_of(measured(case, 10, accuracy=value)) for case, value in zip(CPU, (0.5, 0.9), strict=False)]
    bad = [row_of(failed(Case("vgg11", "scratch"), status, "why")) for status in ("timeout", "oom", "invalid")]
    ordered = by_accuracy([*bad, row_of(measured(FULL)), *sound])
    assert [(row.record.status, row.record.case.policy) for row in ordered] == [
        ("ok", "linear_probe"), ("ok", "scratch"), ("ok", "full"), ("invalid", "scratch"), ("oom", "scratch"),
        ("timeout", "scratch"),
    ]  # fmt: skip


def test_a_row_holds_no_list_of_samples() -> None:
    """What keeps very many records in memory."""
    row = row_of(record(CPU[0], settings=dataclasses.replace(PRESETS["quick"], samples=5000, sweep=4096)))
    assert row.record.measurements == ()
    assert len(repr(row)) < 20_000


@settings(max_examples=50, derandomize=True)
@given(st.lists(st.floats(1e-9, 1e12), min_size=1, max_size=20), st.integers(1, 5))
def test_decimals_show_the_digits_asked(values: list[float], digits: int) -> None:
    places = decimals(values, digits)
    smallest = min(value for value in values if value >= max(values) / 100)
    assert len(re.sub(r"^0\.0*|\.", "", f"{smallest:.{places}f}")) >= digits


def test_intervals_in_words() -> None:
    assert number(Interval(2.0, 1.5, 2.25), 1, 2) == "2.00\xa0±\xa00.50"
    assert number(Interval(2.0, 1.5, math.inf), 1, 2) == "2.00"
    narrow, wide, none = Interval(100, 98, 101), Interval(10, 10, 12), Interval(5, *OPEN)
    assert relative_widths([narrow, wide, none]) == "Each number is ± 2 to 20 % of itself."
    assert relative_widths([narrow, none]) == "Each number is ± 2 % of itself."
    assert relative_widths([none]) == relative_widths([Interval(0, 0, 0)]) == ""


@settings(max_examples=25, derandomize=True)
@given(
    st.lists(st.tuples(*[st.text("ab \xa0±—★|*", max_size=9)] * 2), min_size=1, max_size=5),
    st.tuples(*[st.sampled_from(["left", "right"])] * 2),
)
def test_a_table_is_as_tabulate_makes_it(lines: list[tuple[str, ...]], aligns: tuple[Any, ...]) -> None:
    made = table([TextColumn(*each) for each in zip("ab", zip(*lines, strict=True), aligns, strict=True)])
    assert made == tabulate(lines, ("a", "b"), tablefmt="pipe", colalign=aligns, disable_numparse=True)


# --- folded tables ---


def details(*records: Record) -> dict[str, str]:
    """The folded parts by their titles."""
    rows = [row_of(each) for each in records]
    found = [part.replace("\xa0", " ") for part in details_text(rows, Names.of(rows))]
    return {part[part.index("<summary>") + 9 : part.index("</summary>")]: part for part in found}


def headers(part: str) -> list[str]:
    return tables(part)[0][0][3:]


def test_a_table_that_would_only_repeat_others_is_left_out() -> None:
    assert details(record(FULL, old=True)) == details(failed(FULL, "oom", "too big")) == {}
    numbers = dict.fromkeys(["latency", "train_throughput", "training_peak_memory", "base_memory", "flops"], 2.0)
    assert details(measured(FULL, **numbers)) == {}


def test_columns_and_rows_without_numbers_are_left_out() -> None:
    (page,) = details(
        measured(FULL, latency=0.001, load_time=2.0),
        measured(Case("vgg11", "scratch"), latency=0.001),
        measured(Case("vgg11", "last_2"), load_time=3.0, first_step_time=4.0),
    ).values()
    assert tables(page)[0] == [
        ["Architecture", "Policy", "Weights", "Latency p50 (ms)", "Load (s)", "First step (s)"],
        ["vgg11", "full", "fashion6", "1.00", "~**2.00**", "—"],
        ["vgg11", "last_2", "fashion6", "—", "3.00", "4.00"],
    ]
    assert page.count("\n- **") == 3


def test_a_device_has_the_columns_that_it_knows() -> None:
    on_cpu = details(record(FULL))
    on_gpu = details(record(Case("vgg11", "full", "cuda"), environment=SERVER))
    assert "Training reserved (MiB)" in headers(on_gpu["Memory"])
    assert "Training reserved (MiB)" not in headers(on_cpu["Memory"])
    assert {"Inference (J/image)", "Idle (W)"} <= set(headers(on_gpu["Arithmetic and energy"]))
    assert "J/image" not in on_cpu["Arithmetic and energy"]
    assert headers(on_cpu["Arithmetic and energy"])[-1] == "Measured peak (GFLOP/s)"


@pytest.mark.parametrize(
    ("graphs", "expected"),
    [
        ({"graphs": 1, "graph_breaks": 0, "recompiles": 0}, "1"),
        ({"graphs": 3, "graph_breaks": 2, "recompiles": 1}, "3, 2 breaks, 1 recompile"),
        ({}, "—"),
    ],
)
def test_what_the_compiler_made(graphs: dict[str, Any], expected: str) -> None:
    made = replace(record(Case("vgg11", "full", execution="compile")), provenance={"compile": {"inference": graphs}})
    header, compiled, eager = tables(details(made, record(FULL))["Latency, loading and compiling"])[0]
    assert header[-3:] == ["Compile inference (s)", "Compile training (s)", "Graphs, inference"]
    assert (compiled[-1], eager[-3:]) == (expected, ["—", "—", "—"])


def test_throughput_by_batch_size() -> None:
    def points(*seconds: float) -> list[dict[str, Any]]:
        return [{"batch": 2**power, "seconds": [value] * 9} for power, value in enumerate(seconds)]

    first = {"points": points(0.01, 0.01, 0.02), "largest": 4, "limit": "memory"}
    second = {"points": points(0.02, 0.02), "largest": 2, "limit": "time"}
    records = [
        measured(FULL, provenance={"sweep": {"inference": first, "training": second}}),
        measured(Case("vgg11", "scratch"), provenance={"sweep": {"inference": {"points": points(0.01, 0.02)}}}),
        replace(measured(Case("vgg11", "last_1"), provenance={"sweep": {"training": second}}), status="invalid"),
        record(Case("vgg11", "last_2")),
    ]
    page = details(*records)["Batch sizes"]
    inference, training = tables(page)
    assert [line[3:] for line in inference] == [
        ["1", "2", "4", "Largest"], ["100", "~**200**", "~**200**", "4 (memory)"], ["~**100**", "~**100**", "—", "—"],
    ]  # fmt: skip
    assert [line[3:] for line in training[1:]] == [["50.0", "~**100**", "2 (time)"], ["50.0", "100", "2 (time)"]]
    swept = replace(record(FULL), provenance={"sweep": {"training": sweep(16, 4, "memory", 1.0)}})
    assert headers(details(swept)["Batch sizes"]) == ["1", "2", "4", "Largest"]


# --- classes ---


def classes(*records: Record) -> str:
    rows = [row_of(each) for each in records]
    return classes_text(rows, Names.of(rows)).replace("\xa0", " ")


def answered(case: Case, *right: int, images: int = 100, accuracy: float = 0.9, loss: float | None = 0.25) -> Record:
    """One seed with so many right of each class; the others went to the next class."""
    confusion = [[0] * len(right) for _ in right]
    for label, count in enumerate(right):
        confusion[label][label] = count
        confusion[label][(label + 1) % len(right)] += images - count
    evaluation = {"confusion": confusion, "loss": loss, "calibration_error": 0.031}
    return measured(case, 800, {"evaluation": [evaluation]}, accuracy=accuracy)


def test_the_table_of_classes() -> None:
    page = classes(
        answered(FULL, 100, 50, 60, 70),
        answered(Case("resnet18", "full"), 40, 55, 100, 90, loss=0.125, accuracy=0.6),
        record(Case("densenet121", "full")),
    )
    assert tables(page)[0] == [
        ["Architecture", "Policy", "Weights", "Accuracy (%)", "T-shirt/top", "Trouser", "Pullover", "Dress",
         "Test loss (nats)", "ECE (%)"],
        ["vgg11", "full", "fashion6", "~**90.0 ± 2.3**", "**100.0**", "~50.0", "60.0", "70.0", "0.250", "~**3.1**"],
        ["resnet18", "full", "fashion6", "60.0 ± 3.4", "40.0", "~**55.0**", "**100.0**", "**90.0**", "~**0.125**",
         "~**3.1**"],
    ]  # fmt: skip
    assert "Accuracy by class" not in leaderboard.render([record(FULL)])
    assert "Accuracy by class" in leaderboard.render([evaluated(Case("vgg11", "full", task="fashion10"), classes=10)])


def test_answers_are_means_over_seeds() -> None:
    first, second = answered(FULL, 80, 100), answered(FULL, 90, 100, loss=0.75)
    seeds = [*first.provenance["evaluation"], *second.provenance["evaluation"]]
    found = row_of(measured(FULL, provenance={"evaluation": seeds})).answers
    assert found is not None
    assert found.classes == (accuracy_interval((0.8, 0.9), 100), wilson(100, 100))
    assert found.loss == Interval(0.5, *OPEN)
    seeds[0] = {}
    assert row_of(measured(FULL, provenance={"evaluation": seeds})).answers is None


@pytest.mark.parametrize(
    ("records", "line", "expected"),
    [
        ([answered(FULL, 0, 0, images=0)], 1, ["—", "—", "0.250", "3.1"]),
        ([answered(Case("vgg11", "full", task="mine"), *range(99, 86, -1))], 1, ["12 87.0, 11 88.0, 10 89.0"]),
        # Other counts of classes in one section are unknown.
        ([answered(FULL, 1, 2, 3, 4), answered(CPU[2], 1, 2)], 2, ["—", "—", "—", "—", "~**0.250**"]),
        ([replace(answered(FULL, 100, 100), status="invalid"), answered(CPU[2], 10, 10)], 1, ["100.0", "100.0"]),
    ],
    ids=["no images", "many classes", "other counts", "failed"],
)
def test_classes_that_are_unknown_or_many(records: list[Record], line: int, expected: list[str]) -> None:
    assert tables(classes(*records))[0][line][4:][: len(expected)] == expected


# --- grids ---


def cell(architecture: str, policy: str, accuracy: float, speed: Sequence[float] = (), **axes: Any) -> Record:
    case = Case(architecture, policy, **axes)
    found = (
        Measurement("accuracy", tuple(accuracy + seed / 10_000 for seed in (-1, 0, 1)), 10_000),
        sliced("train_throughput", *[speed] * 3) if speed else Measurement("train_throughput", ()),
    )
    return record(case, measurements=found)


def grids(records: Sequence[Record]) -> str:
    rows = by_accuracy([row_of(each) for each in records])
    return grids_text(rows, Names.of(rows), Footnotes(rows)).replace("\xa0", " ")


def fourteen() -> list[Record]:
    """Two architectures and seven policies, accuracies from 60 % in steps of one point."""
    policies = ["mine", "full", "scratch", "linear_probe", "bn_only", "last_2", "last_stage"]
    pairs = [(network, policy) for network in ("vgg11", "resnet18") for policy in policies]
    return [
        cell(*pair, (60 + number) / 100, [(100 + number) * (1 + step / 1000) for step in range(9)])
        for number, pair in enumerate(pairs)
    ]


def test_the_grid() -> None:
    records = fourteen()
    records[9] = failed(Case("resnet18", "scratch"), "oom", "too big")
    records[1] = replace(records[1], warnings=("a doubt",))
    del records[3]
    page = grids(records)
    assert tables(page)[0] == [
        ["Architecture", "scratch", "linear_probe", "last_stage", "last_2", "full", "bn_only", "mine"],
        ["resnet18", "oom", "70.0", "~**73.0** ★", "~72.0", "68.0", "71.0", "67.0"],
        ["vgg11", "62.0", "—", "~**66.0**", "~65.0", "61.0 ¹", "64.0", "60.0"],
    ]
    assert "Each number is ± 0.9 to 1.0 points. ★ is the best of all by its estimate; 1 other cannot be" in page
    speed, _ = tables(page[page.index("<details>") :])
    assert speed[1] == ["resnet18", "oom", "110", "**113** ★", "112", "108", "111", "107"]


def test_whether_the_best_is_proven() -> None:
    records = fourteen()
    records[5] = cell("vgg11", "last_2", 0.9, [1.0])
    assert "★ is the best of all, proven." in grids(records)
    single = [
        measured(Case(*key), 800, accuracy=0.5)
        for key in ((n, p) for n in ("vgg11", "resnet18") for p in list(POLICIES)[:7])
    ]
    assert "★ is the best of all, not proven: of one measurement or one seed" in grids(single)


@pytest.mark.parametrize(("networks", "policies"), [(2, 6), (1, 13), (13, 1)])
def test_small_sections_have_no_grid(networks: int, policies: int) -> None:
    cases = [Case(f"net{network}", policy) for network in range(networks) for policy in list(POLICIES)[:policies]]
    assert grids([record(case) for case in cases]) == ""


def test_many_policies_are_cut_into_even_grids() -> None:
    policies = [f"policy{number:02}" for number in range(19)]
    page = grids([cell(network, policy, 0.9) for network in ("vgg11", "resnet18") for policy in policies])
    assert [len(block[0]) - 1 for block in tables(page[: page.index("Each number")])] == [7, 7, 5]


def test_scratch_stands_beside_every_start_of_its_architecture() -> None:
    cases = [
        (network, policy, weights)
        for network in ("vgg11", "resnet18")
        for policy in ("linear_probe", "full", "last_2")
        for weights in ("imagenet", "some/where/mine.pt")
    ]
    records = [cell(n, p, (50 + number) / 100, weights=w) for number, (n, p, w) in enumerate(cases)]
    page = grids([*records, cell("vgg11", "scratch", 0.9), cell("densenet121", "scratch", 0.2)])
    assert tables(page)[0] == [
        ["Architecture", "Weights", "scratch", "linear_probe", "last_2", "full"],
        ["vgg11", "imagenet", "**90.0** ★", "50.0", "54.0", "52.0"],
        ["vgg11", "mine.pt", "**90.0** ★", "51.0", "55.0", "53.0"],
        ["resnet18", "mine.pt", "—", "57.0", "**61.0**", "59.0"],
        ["resnet18", "imagenet", "—", "56.0", "**60.0**", "58.0"],
        ["densenet121", "none", "20.0", "—", "—", "—"],
    ]


@pytest.mark.parametrize(
    ("axis", "values", "shown"), [("device", ("cuda", "cuda:1"), None), ("precision", ("fp32", "bf16"), ("", "bf16"))]
)
def test_devices_and_variants_have_lines_of_their_own(axis: str, values: Any, shown: Any) -> None:
    keys = [(n, p, value) for n in ("vgg11", "resnet18") for p in list(POLICIES)[:4] for value in values]
    page = grids([cell(n, p, 0.9, [1.0], **{axis: value}) for n, p, value in keys])
    lines = {tuple(line[:2]) for line in tables(page)[0][1:]}
    assert lines == {(network, value) for network in ("vgg11", "resnet18") for value in shown or values}


def test_without_accuracy_costs_are_open() -> None:
    page = grids([replace(each, measurements=each.measurements[1:]) for each in fourteen()])
    assert page.startswith("**Training (images/s)** by architecture and policy\n\n")
    assert not re.search(r"<details>|\*\*Accuracy", page)


def test_the_frontier_in_the_page() -> None:
    header, best, *_ = tables(grids([*fourteen()[:-1], cell("resnet18", "last_stage", 0.8, [90.0])]))[1]
    assert header[3:5] == ["Accuracy (%)", "Training (images/s)"]
    assert best[:5] == ["resnet18", "last_stage", "fashion6", "**80.0 ± 0.8**", "90.0 ± 0.0"]
    pairs = [(network, f"policy{number}") for number in range(7) for network in ("vgg11", "resnet18")]
    page = grids([cell(*pair, (90 - n) / 100, [100.0 + n]) for n, pair in enumerate(pairs)])
    assert "the most accurate 10 of 14." in page
    assert len(tables(page)[1]) == 11


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(1, 10)), max_size=12))
def test_the_frontier_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    rows = [row_of(cell("vgg11", f"policy{n}", accuracy / 10, [speed])) for n, (accuracy, speed) in enumerate(points)]
    worse = [row_of(replace(cell("vgg11", "failed", 0.99, [99.0]), status="invalid")), row_of(cell("a", "b", 0.9))]
    unbeaten = {
        f"policy{number}"
        for number, (accuracy, speed) in enumerate(points)
        if not any(a >= accuracy and s >= speed and (a, s) != (accuracy, speed) for a, s in points)
    }
    assert {row.record.case.policy for row in frontier([*rows, *worse])} == unbeaten


def test_large_tables_are_folded_and_grouped() -> None:
    policies = list(POLICIES)[:13]
    records = [
        cell(network, policy, (60 + 2 * n + other) / 100, [1.0])
        for other, network in enumerate(("vgg11", "resnet18"))
        for n, policy in enumerate(policies)
    ]
    page = leaderboard.render(records)
    lines = tables(page[page.index("<details><summary>All 26 cells</summary>") :])[0][1:]
    assert [line[:2] for line in lines] == [[n, policy] for n in ("resnet18", "vgg11") for policy in policies[::-1]]
    assert "cells</summary>" not in leaderboard.render(records[:24])


# --- hybrids ---

PAIR = "mean:vgg11+resnet18"
FOUR = "mean:vgg11+resnet18+mobilenet_v2+densenet121"


def network(architecture: str, accuracy: float, seconds: float = 0.01, policy: str = "full", **axes: Any) -> Record:
    numbers = {"latency": (seconds,) * 9, "inference_peak_memory": seconds * 1e9}
    seeds = [accuracy - 0.0001, accuracy, accuracy + 0.0001]
    return measured(Case(architecture, policy, **axes), 10_000, accuracy=seeds, **numbers)


def hybrids(records: Sequence[Record]) -> str:
    rows = by_accuracy([row_of(each) for each in records])
    return hybrids_text(rows, Names.of(rows)).replace("\xa0", " ")


def test_whether_combining_helps() -> None:
    page = hybrids([
        network("vgg11", 0.9, 0.02),
        network("resnet18", 0.85),
        network(PAIR, 0.95, 0.03),
        network("joined:vgg11+resnet18", 0.905, 0.03),
        network("mean:resnet18+vgg11", 0.5, 0.03),
    ])  # fmt: skip
    assert [line[:1] + line[3:] for line in tables(page)[0]] == [
        ["Architecture", "Accuracy (%)", "Best member", "Difference (points)", "It helps", "Latency (times)",
         "Inference peak (times)", "Training speed (times)"],
        [PAIR, "**95.0 ± 0.4**", "vgg11", "+5.0 ± 0.7", "yes", "1.5", "1.5", "—"],
        ["joined:vgg11+resnet18", "90.5 ± 0.6", "vgg11", "+0.5 ± 0.8", "not proven", "1.5", "1.5", "—"],
        ["mean:resnet18+vgg11", "50.0 ± 1.0", "vgg11", "-40.0 ± 1.1", "no, it harms", "1.5", "1.5", "—"],
    ]  # fmt: skip
    assert page.startswith("**Does combining help?** Proven in 1 of 3 comparisons")


@pytest.mark.parametrize(
    "axes", [{"policy": "last_2"}, {"weights": "imagenet"}, {"device": "cuda"}, {"precision": "bf16"}, {"batch": 64}]
)
def test_only_like_is_compared(axes: dict[str, Any]) -> None:
    page = hybrids([network(PAIR, 0.95), network("vgg11", 0.99, **axes), network("densenet121", 0.99)])
    assert page.startswith("**Does combining help?** No member went well under the same policy.\n\n|")
    assert tables(page)[0][1][-6:] == ["—"] * 6


@pytest.mark.parametrize(
    ("records", "member", "gain"),
    [
        # A member that was not measured is said.
        ([network(FOUR, 0.95), network("vgg11", 0.9), network("resnet18", 0.95)], "resnet18 (of 2 measured)", "+0.0"),
        # A small loss is no negative zero.
        ([network(PAIR, 0.8999), network("vgg11", 0.9), network("resnet18", 0.1)], "vgg11", "+0.0"),
    ],
)
def test_the_best_member(records: list[Record], member: str, gain: str) -> None:
    line = tables(hybrids(records))[0][1]
    assert (line[4], line[5].split(" ")[0]) == (member, gain)


def test_without_hybrids_of_known_accuracy_there_is_nothing() -> None:
    unknown = replace(network(PAIR, 0.9), measurements=())
    assert hybrids([network("vgg11", 0.9), failed(Case(PAIR, "full"), "oom", "too big"), unknown]) == ""


def test_many_comparisons_are_folded_away() -> None:
    records = [network(PAIR, 0.9, policy=f"policy{n:02}") for n in range(13)]
    assert "<details><summary>All comparisons</summary>" in hybrids(records)
    assert "<details>" not in hybrids(records[1:])


def test_of_one_seed_no_difference_is_proven() -> None:
    records = [
        measured(Case(name, "full"), 10_000, accuracy=fraction) for name, fraction in ((PAIR, 0.95), ("vgg11", 0.5))
    ]
    line = tables(hybrids(records))[0][1]
    assert line[5:7] == ["+45.0", "not proven"]
