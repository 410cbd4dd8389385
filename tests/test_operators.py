import json
import math
from dataclasses import asdict, replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fashiontl.core.errors import FashiontlError
from fashiontl.profiling.operators import (
    OTHERS,
    Kernel,
    Operator,
    Profile,
    difference,
    folded,
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
        st.sampled_from(["", "a", "b", "a.b", "b.a"]),
        st.sampled_from(["forward", "backward", "other"]),
        st.integers(1, 100).map(float),
        SECONDS,
        SECONDS,
        st.none() | st.integers(0, 10**12).map(float),
        st.integers(-(10**9), 10**9).map(float),
    ),
    max_size=12,
    unique_by=lambda row: (row.name, row.module, row.phase),
)


@settings(max_examples=40)
@given(OPERATORS, st.sampled_from([0, 0.001, 0.1, 1]), st.integers(1, 10))
def test_folding_keeps_totals(rows: list[Operator], least: float, count: int) -> None:
    result = folded(rows, least, count)
    assert len(result) <= count
    for total in ("calls", "self_cpu_s", "self_device_s", "bytes"):
        assert math.fsum(getattr(row, total) for row in result) == pytest.approx(
            math.fsum(getattr(row, total) for row in rows), rel=1e-9, abs=1e-6
        )
    assert sum(row.flops or 0 for row in result) == sum(row.flops or 0 for row in rows)
    named = [row for row in result if row.name != OTHERS]
    assert [row.self_s for row in named] == sorted((row.self_s for row in named), reverse=True)
    assert [row.name for row in result].count(OTHERS) <= 1
    assert folded(result, least=0, count=count) == result


def test_small_rows_and_those_past_two_hundred_are_folded() -> None:
    rows = [operator("small", cpu=0.0009), operator("large", cpu=0.998), operator("enough", cpu=0.0011)]
    assert [row.name for row in folded(rows)] == ["large", "enough", OTHERS]
    assert folded(rows)[-1] == Operator(OTHERS, "", "other", 2.0, 0.0009, 0.0, None, 0.0)
    many = folded(operator(module=str(number), cpu=1, bytes=8.0) for number in range(300))
    assert len(many) == 200
    assert many[-1] == Operator(OTHERS, "", "other", 202.0, 101.0, 0.0, None, 808.0)
    kernels = folded(Kernel("gemm", "aten::mm", str(number), 1.0, 2.0) for number in range(300))
    assert kernels[-1] == Kernel(OTHERS, "", "", 101.0, 202.0)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted).map(tuple)))
def test_idle_counts_what_no_interval_covers(busy: list[tuple[int, int]]) -> None:
    covered = sum(any(start <= unit < end for start, end in busy) for unit in [*range(5, 15), *range(20, 30)])
    assert idle_share([(5, 15), (20, 30)], busy) == pytest.approx(1 - covered / 20)


@settings(max_examples=40)
@given(OPERATORS, OPERATORS)
def test_a_difference_of_two_profiles(before: list[Operator], after: list[Operator]) -> None:
    there = difference(profile(*before), profile(*after))
    back = difference(profile(*after), profile(*before))
    assert [change.change_s for change in there] == [-change.change_s for change in back]
    assert [change.share for change in there] == [change.share for change in back]
    sizes = [abs(change.change_s) for change in there]
    assert sizes == sorted(sizes, reverse=True)
    assert {(change.change_s, change.share) for change in difference(profile(*before), profile(*before))} <= {(0, None)}
    # Where changes cancel out all but for rounding, shares are huge and their sum is rounding too.
    assume(abs(math.fsum(change.change_s for change in there)) > 1e-3)
    assert math.fsum(change.share or 0 for change in there) == pytest.approx(1)


def test_rows_that_one_profile_lacks_count_as_nothing_there() -> None:
    before = profile(operator("gone", cpu=1.0), operator("stays", cpu=2.0))
    after = profile(operator("stays", cpu=2.5), operator("new", cpu=3.0, self_device_s=0.5))
    changes = [(change.operator, change.before_s, change.after_s, change.share) for change in difference(before, after)]
    assert changes == [
        ("new", 0.0, 3.5, pytest.approx(3.5 / 3)),
        ("gone", 1.0, 0.0, pytest.approx(-1 / 3)),
        ("stays", 2.0, 2.5, pytest.approx(0.5 / 3)),
    ]


def test_a_profile_comes_back_from_json_of_this_an_older_or_a_later_version() -> None:
    one = profile(operator(), kernels=(Kernel("gemm", "aten::mm", "head.0", 1.0, 0.25),))
    values = json.loads(json.dumps(asdict(one)))
    assert from_dict(values) == one
    assert from_dict({**values, "later": 1, "operators": [{**values["operators"][0], "later": 1}]}) == one
    del values["warnings"]
    assert from_dict({**values, "doubts": ["no trace"]}).warnings == ("no trace",)


@pytest.mark.parametrize(
    ("change", "fault"),
    [({"steps": "two"}, "`str` - at `\\$.steps`"), ({"operators": ["aten::mm"]}, r"at `\$.operators\[0\]`")],
)
def test_a_damaged_profile_is_refused(change: dict[str, object], fault: str) -> None:
    values = asdict(profile(operator())) | change
    with pytest.raises(FashiontlError, match=f"expected a profile, .*{fault}; profile the case again"):
        from_dict(values)


def test_the_table_of_operators() -> None:
    rows = (
        operator("aten::mm", cpu=0.75, flops=2.5e9, bytes=3 * 2**20),
        operator("aten::relu", "", cpu=0.15),
        operator("aten::add", cpu=0.06),
        operator("aten::mul", cpu=0.04, bytes=-(2**20)),
    )
    shown = [line.split() for line in top(profile(*rows), 2).splitlines()]
    assert shown[0] == ["operator", "module", "phase", "calls", "self", "CPU", "ms", "share", "GFLOP", "MiB"]
    assert shown[2] == ["aten::mm", "head.0", "forward", "2", "750.000", "75.0%", "2.500", "3.0"]
    assert shown[-1] == ["(others)", "4", "100.000", "10.0%", "—", "-1.0"]
    header, _, row = top(profile(operator(cpu=0.1, self_device_s=0.3)), 5).splitlines()
    assert "self device ms" in header
    assert row.split() == ["aten::mm", "head.0", "forward", "2", "100.000", "300.000", "100.0%", "—", "0.0"]
    assert top(profile(operator(cpu=0.0)), 5).splitlines()[-1].split()[-3:] == ["—", "—", "0.0"]
    assert top(profile(), 5).startswith("operator")
    assert short("cut::" * 40) == f"{('cut::' * 40)[:79]}…{'cut::' * 8}"
