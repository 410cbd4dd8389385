import json
import math
from dataclasses import asdict, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fashiontl.core.errors import FashiontlError
from fashiontl.profiling.operators import (
    OTHERS,
    Kernel,
    Operator,
    Profile,
    difference,
    folded_kernels,
    folded_operators,
    from_dict,
    idle_share,
    short,
    top,
)

SECONDS = st.floats(0, 10, allow_subnormal=False)


def operator(name: str = "aten::mm", module: str = "head.0", cpu: float = 1.0, **values: object) -> Operator:
    made = Operator(name, module, "forward", 2.0, cpu, 0.0, None, 0.0)
    return replace(made, **values)  # type: ignore[arg-type]


def profile(*operators: Operator, kernels: tuple[Kernel, ...] = ()) -> Profile:
    return Profile(operators, kernels, None, 2, 0.5, "traces/x.pt.trace.json.gz", 1000, ())


OPERATORS = st.lists(
    st.builds(
        Operator,
        st.sampled_from(["aten::mm", "aten::relu", OTHERS]),
        st.text("ab.", max_size=3),
        st.sampled_from(["forward", "backward", "other"]),
        st.integers(1, 100).map(float),
        SECONDS,
        SECONDS,
        st.none() | st.integers(0, 10**12).map(float),
        st.integers(-(10**9), 10**9).map(float),
    ),
    max_size=30,
    unique_by=lambda row: (row.name, row.module, row.phase),
)


@given(OPERATORS, st.sampled_from([0, 0.001, 0.1, 1]), st.integers(1, 10))
def test_folding_keeps_totals(rows: list[Operator], least: float, count: int) -> None:
    folded = folded_operators(rows, least, count)
    assert len(folded) <= count
    for total in ("calls", "self_cpu_s", "self_device_s", "bytes"):
        assert math.fsum(getattr(row, total) for row in folded) == pytest.approx(
            math.fsum(getattr(row, total) for row in rows), rel=1e-9, abs=1e-6
        )
    assert sum(row.flops or 0 for row in folded) == sum(row.flops or 0 for row in rows)
    named = [row for row in folded if row.name != OTHERS]
    assert [row.self_s for row in named] == sorted((row.self_s for row in named), reverse=True)
    assert [row.name for row in folded].count(OTHERS) <= 1
    assert folded_operators(folded, least=0, count=count) == folded


def test_rows_below_a_thousandth_of_the_time_are_folded() -> None:
    rows = [operator("small", cpu=0.0009), operator("large", cpu=0.998), operator("enough", cpu=0.0011)]
    assert [row.name for row in folded_operators(rows)] == ["large", "enough", OTHERS]
    assert folded_operators(rows)[-1] == Operator(OTHERS, "", "other", 2.0, 0.0009, 0.0, None, 0.0)


def test_at_most_two_hundred_rows() -> None:
    rows = [operator(module=str(number), cpu=1, bytes=8.0) for number in range(300)]
    folded = folded_operators(rows)
    assert len(folded) == 200
    assert folded[-1] == Operator(OTHERS, "", "other", 202.0, 101.0, 0.0, None, 808.0)
    kernels = folded_kernels(Kernel("gemm", "aten::mm", str(number), 1.0, 2.0) for number in range(300))
    assert kernels[-1] == Kernel(OTHERS, "", "", 101.0, 202.0)
    assert len(kernels) == 200


@pytest.mark.parametrize(
    ("windows", "busy", "share"),
    [
        ([(0, 10)], [], 1.0),
        ([(0, 10)], [(0, 10)], 0.0),
        ([(0, 10)], [(2, 4), (3, 5), (8, 9)], 0.6),
        ([(0, 10)], [(2, 8), (3, 4)], 0.4),
        ([(0, 10), (20, 30)], [(5, 25)], 0.5),
        ([(0, 10)], [(-5, 1), (9, 20)], 0.8),
    ],
)
def test_idle_is_where_no_interval_reaches(
    windows: list[tuple[float, float]], busy: list[tuple[float, float]], share: float
) -> None:
    assert idle_share(windows, busy) == pytest.approx(share)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted).map(tuple)))
def test_idle_counts_what_no_interval_covers(busy: list[tuple[int, int]]) -> None:
    covered = sum(any(start <= unit < end for start, end in busy) for unit in range(5, 30))
    assert idle_share([(5, 30)], busy) == pytest.approx(1 - covered / 25)


@given(OPERATORS)
def test_nothing_differs_from_itself(rows: list[Operator]) -> None:
    changes = difference(profile(*rows), profile(*rows))
    assert len(changes) == len(rows)
    assert {(change.change_s, change.share) for change in changes} <= {(0.0, None)}


@given(OPERATORS, OPERATORS)
def test_swapping_negates(before: list[Operator], after: list[Operator]) -> None:
    there = difference(profile(*before), profile(*after))
    back = difference(profile(*after), profile(*before))
    assert [(change.operator, change.module, change.phase) for change in there] == [
        (change.operator, change.module, change.phase) for change in back
    ]
    assert [change.change_s for change in there] == [-change.change_s for change in back]
    assert [change.share for change in there] == [change.share for change in back]
    sizes = [abs(change.change_s) for change in there]
    assert sizes == sorted(sizes, reverse=True)


@given(OPERATORS, OPERATORS)
def test_shares_sum_to_one(before: list[Operator], after: list[Operator]) -> None:
    changes = difference(profile(*before), profile(*after))
    # Where changes cancel out all but for rounding, shares are huge and their sum is rounding too.
    assume(abs(math.fsum(change.change_s for change in changes)) > 1e-3)
    assert math.fsum(change.share or 0 for change in changes) == pytest.approx(1)


def test_rows_that_one_profile_lacks_count_as_nothing_there() -> None:
    before = profile(operator("gone", cpu=1.0), operator("stays", cpu=2.0))
    after = profile(operator("stays", cpu=2.5), operator("new", cpu=3.0, self_device_s=0.5))
    changes = [(change.operator, change.before_s, change.after_s, change.share) for change in difference(before, after)]
    assert changes == [
        ("new", 0.0, 3.5, pytest.approx(3.5 / 3)),
        ("gone", 1.0, 0.0, pytest.approx(-1 / 3)),
        ("stays", 2.0, 2.5, pytest.approx(0.5 / 3)),
    ]


@given(OPERATORS)
def test_a_profile_comes_back_from_json(rows: list[Operator]) -> None:
    one = profile(*rows, kernels=(Kernel("gemm", "aten::mm", "head.0", 1.0, 0.25),))
    assert from_dict(json.loads(json.dumps(asdict(one)))) == one


def test_a_later_version_may_have_written_more() -> None:
    values = asdict(profile(operator())) | {"later": 1}
    values["operators"][0]["later"] = 1
    assert from_dict(values) == profile(operator())


def test_what_is_absent_is_named_at_once() -> None:
    values = asdict(profile(operator()))
    del values["steps"], values["doubts"]
    with pytest.raises(FashiontlError, match="expected a profile with steps, doubts, got"):
        from_dict(values)
    values = asdict(profile(operator()))
    values["operators"] = ["aten::mm"]
    with pytest.raises(FashiontlError, match=r"expected an operator with name, .*, got 'aten::mm'"):
        from_dict(values)


def test_the_table_on_a_cpu() -> None:
    rows = (
        operator("aten::mm", cpu=0.75, flops=2.5e9, bytes=3 * 2**20),
        operator("aten::relu", "", cpu=0.15),
        operator("aten::add", cpu=0.06),
        operator("aten::mul", cpu=0.04, bytes=-(2**20)),
    )
    assert top(profile(*rows), 2).splitlines() == [
        "operator    module    phase      calls    self CPU ms    share    GFLOP    MiB",
        "----------  --------  -------  -------  -------------  -------  -------  -----",
        "aten::mm    head.0    forward        2        750.000    75.0%    2.500    3.0",
        "aten::relu            forward        2        150.000    15.0%        —    0.0",
        "(others)                             4        100.000    10.0%        —   -1.0",
    ]


def test_the_table_has_a_column_for_the_device_where_there_is_one() -> None:
    header, _, row = top(profile(operator(cpu=0.1, self_device_s=0.3)), 5).splitlines()
    assert "self device ms" in header
    assert row.split() == ["aten::mm", "head.0", "forward", "2", "100.000", "300.000", "100.0%", "—", "0.0"]


def test_a_table_of_no_time() -> None:
    assert top(profile(operator(cpu=0.0)), 5).splitlines()[-1].split()[-3:] == ["—", "—", "0.0"]
    assert top(profile(), 5).startswith("operator")


@given(st.text(max_size=300), st.integers(8, 150))
def test_names_are_bounded_and_keep_their_ends(name: str, length: int) -> None:
    cut = short(name, length)
    assert len(cut) <= length
    assert cut == name or (len(name) > length and name.startswith(cut.split("…")[0]) and cut[-1] == name[-1])
