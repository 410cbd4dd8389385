import dataclasses
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import failed, record

from fashiontl.core.case import PRESETS, Case
from fashiontl.core.metrics import Measurement
from fashiontl.core.stats import Interval
from fashiontl.reports.leaderboard.columns import ALL, LATENCY, P90, P99, Column
from fashiontl.reports.leaderboard.rows import Row, by_accuracy, column_texts, decimals, number, relative_widths, row_of

CPU = [Case("resnet18", policy) for policy in ("scratch", "linear_probe", "full")]


def column(label: str) -> Column:
    return next(column for column in ALL if column.label == label)


def rows(*values: tuple[float, ...], metric: str = "latency", trials: int = 0, **fields: Any) -> list[Row]:
    return [
        row_of(record(case, measurements=(Measurement(metric, numbers, trials),), **fields))
        for case, numbers in zip(CPU, values, strict=False)
    ]


def texts(found: list[Row], shown: Column) -> list[str]:
    return [text.replace("\xa0", " ") for text in column_texts(found, shown)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # Proven: no interval reaches the best one's.
        ([(1.0, 1.0, 1.0, 1.0, 1.0, 1.1), (2.0, 2.0, 2.0, 2.0, 2.0, 2.1)], ["**1000 ± 100**", "2000 ± 100"]),
        # Not proven: they overlap.
        ([(1.0, 1.1, 1.2, 1.3, 1.4, 1.5), (1.1, 1.2, 1.3, 1.4, 1.5, 1.6)], ["~**1250 ± 250**", "1350 ± 250"]),
        # Not proven: one value has no interval.
        ([(1.0,), (2.0,)], ["~**1000**", "2000"]),
        ([(1.0,), (1.0,)], ["~**1000**", "~**1000**"]),
        # Nothing to be better than.
        ([(1.0,)], ["1000"]),
        ([(1.0,), ()], ["1000", "—"]),
    ],
)
def test_best(values: list[tuple[float, ...]], expected: list[str]) -> None:
    assert texts(rows(*values), LATENCY) == expected


def test_best_is_the_highest_where_higher_is_better() -> None:
    found = rows((0.5,), (0.9,), metric="accuracy", trials=800)
    assert texts(found, column("Accuracy (%)")) == ["50.0 ± 3.5", "**90.0 ± 2.3**"]


def test_what_failed_is_never_best() -> None:
    found = rows((3.0,), (2.0,)) + rows((1.0,), status="invalid", reason="moved")
    assert texts(found, LATENCY) == ["3000", "~**2000**", "1000"]


def test_exact_numbers_have_no_best_and_their_own_decimals() -> None:
    found = rows((128_800_000.0,), (2052.0,), metric="trainable_parameters")
    assert texts(found, column("Trainable (M)")) == ["129", "0.00205"]


def test_p90_needs_twenty_samples() -> None:
    few, enough = rows(tuple(range(1, 20)), tuple(range(1, 21)))
    assert texts([few, enough], P90) == ["—", "18100"]


def test_p99_needs_a_thousand_samples() -> None:
    few, enough = rows(tuple(range(1, 1000)), tuple(range(1, 1001)))
    assert texts([few, enough], P99) == ["—", "990010 ± 7010"]


def test_relative_widths() -> None:
    narrow, wide, none = Interval(100, 98, 101), Interval(10, 10, 12), Interval(5, -math.inf, math.inf)
    assert relative_widths([narrow, wide, none]) == "Each number is ± 2 to 20 % of itself."
    assert relative_widths([narrow, none]) == "Each number is ± 2 % of itself."
    assert relative_widths([none]) == relative_widths([Interval(0, 0, 0)]) == ""


def test_a_row_holds_no_list_of_samples() -> None:
    """What keeps very many records in memory."""
    settings = dataclasses.replace(PRESETS["quick"], samples=5000, sweep=4096)
    row = row_of(record(CPU[0], settings=settings))
    assert row.record.measurements == ()
    assert len(repr(row)) < 20_000


@given(st.lists(st.floats(1e-9, 1e12), min_size=1, max_size=20), st.integers(1, 5))
def test_decimals_show_the_digits_asked(values: list[float], digits: int) -> None:
    places = decimals(values, digits)
    assert places >= 0
    smallest = min(value for value in values if value >= max(values) / 100)
    shown = f"{smallest:.{places}f}"
    assert len(re.sub(r"^0\.0*|\.", "", shown)) >= digits


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (Interval(2.0, 1.5, 2.25), "2.00 ± 0.50"),
        (Interval(2.0, 1.5, float("inf")), "2.00"),
        (Interval(0, 0, 0), "0.00 ± 0.00"),
    ],
)
def test_number(interval: Interval, expected: str) -> None:
    assert number(interval, 1, 2) == expected.replace(" ", "\xa0")


def test_order_is_by_accuracy_with_failures_last() -> None:
    sound = rows((0.5,), (0.9,), metric="accuracy", trials=10)
    unknown = row_of(record(Case("vgg11", "full"), measurements=()))
    bad = [row_of(failed(Case("vgg11", "scratch"), status, "why")) for status in ("timeout", "oom", "invalid")]
    ordered = by_accuracy([*bad, unknown, *sound])
    assert [(row.record.status, row.record.case.policy) for row in ordered] == [
        ("ok", "linear_probe"), ("ok", "scratch"), ("ok", "full"), ("invalid", "scratch"), ("oom", "scratch"),
        ("timeout", "scratch"),
    ]  # fmt: skip
