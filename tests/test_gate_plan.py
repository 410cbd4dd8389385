import math
import random
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import pytest
from gate_raws import CELL, OTHER, epoch, raw
from hypothesis import given, settings
from hypothesis import strategies as st

from fashiontl.core.stats import student_quantile
from fashiontl.gate.limits import LIMITS
from fashiontl.gate.plan import Plan, Row, Spread, plan, plan_text, spreads_of
from fashiontl.gate.raw import Series
from fashiontl.gate.sequential import LOOKS, Evidence, decide
from fashiontl.gate.verdict import Word

LIMIT = LIMITS["latency"]
NARROW, WIDE, UNKNOWN = (Spread(CELL, "latency", deviation, 2.0, 6) for deviation in (0.008, 0.05, None))


def row(deviation: float | None, seconds: float = 2.0) -> Row:
    (made,) = plan([Spread(CELL, "latency", deviation, seconds, 6)]).rows
    return made


def series(*changes: float, cell: str = CELL, stage: Any = "screen") -> Series:
    return Series(cell, "latency", tuple(epoch(factor=math.exp(each), stage=stage) for each in changes))


def words(deviation: float, slowdown: float, epochs: int, rounds: int = 400) -> list[Word]:
    """What the gate's own rule says of normal epochs, taken up to a look and with all fresh ones."""
    draw = random.Random(f"{deviation} {slowdown} {epochs}")
    found = []
    for _ in range(rounds):
        screen, fresh = ([draw.gauss(math.log1p(slowdown), deviation) for _ in range(n)] for n in (epochs, 16))
        calm = ((0.0,) * epochs, (0.0,) * 16)
        found.append(decide(Evidence(tuple(screen), tuple(fresh), *calm), LIMIT).word)
    return found


@pytest.mark.parametrize("deviation", [0.004, 0.015, 0.026, 0.05])
def test_the_gates_rule_finds_what_was_planned(deviation: float) -> None:
    planned = row(deviation).found
    shares = {look: words(deviation, planned[look], look).count("REGRESSED") / 400 for look in LOOKS}
    # Of 400 gates that find it with a chance of 0.9, 0.855 do but once in a thousand times.
    assert min(shares.values()) > 0.855
    # At the first look, the plan is no bound but the chance itself.
    assert shares[6] < 0.945


@pytest.mark.parametrize(("deviation", "look"), [(0.008, 6), (0.026, 10), (0.05, 24)])
def test_the_gates_rule_passes_what_was_planned_to_pass(deviation: float, look: int) -> None:
    assert row(deviation).passes == look
    assert words(deviation, 0.0, look).count("PASS") / 400 > 0.855


def test_the_first_look_by_hand() -> None:
    # A bound from six values, by Student's t with 5 degrees of freedom, and a chance of 0.9 from the same. At this
    # spread the confirmation, with ten degrees more, finds nearly all that is suspected.
    deviation = 0.05
    half = (student_quantile(5, 0.9) + student_quantile(5, 0.8)) * deviation / math.sqrt(6)
    assert row(deviation).found[6] == pytest.approx(math.expm1(math.log1p(LIMIT.tolerated) + half), rel=0.05)


def test_what_must_be_found_takes_longer_the_wider_the_spread() -> None:
    assert [row(deviation).enough for deviation in (0.0, 0.008, 0.015, 0.026, 0.05)] == [6, 6, 6, 16, None]
    assert row(0.008).seconds == (6 + 16) * 2.0
    assert row(0.026).seconds == (16 + 16) * 2.0
    assert row(0.05).seconds is None


@given(st.floats(0, 0.3), st.floats(0, 0.3))
def test_a_wider_spread_finds_no_less(first: float, second: float) -> None:
    narrow, wide = row(min(first, second)), row(max(first, second))
    for look in LOOKS:
        assert LIMIT.tolerated - 1e-6 <= narrow.found[look] <= wide.found[look] + 1e-4
    assert list(wide.found.values()) == sorted(wide.found.values(), reverse=True)
    assert (narrow.enough or 99) <= (wide.enough or 99)
    assert (narrow.passes or 99) <= (wide.passes or 99)


def test_epochs_that_never_differ_find_all_that_is_not_tolerated() -> None:
    assert row(0.0).found == {look: pytest.approx(LIMIT.tolerated, abs=1e-6) for look in LOOKS}


def test_what_is_not_known_stays_unknown_and_takes_all_its_looks() -> None:
    made = row(None)
    assert (made.found, made.enough, made.passes, made.seconds) == ({}, None, None, None)
    assert plan([NARROW, WIDE, UNKNOWN]) == Plan(
        (row(0.008), row(0.05), made), unchanged=(6 + 24 + 24) * 2.0, longest=3 * (24 + 16) * 2.0
    )


def test_what_the_gate_does_not_time_is_left_out() -> None:
    assert plan([replace(NARROW, metric=metric) for metric in ("parameters", "accuracy", "no_metric")]).rows == ()


@given(st.lists(st.floats(-0.3, 0.3), min_size=2, max_size=7))
def test_of_few_epochs_the_spread_is_the_standard_deviation(changes: list[float]) -> None:
    (found,) = spreads_of(raw(series=(series(*changes),)))
    assert found.deviation == pytest.approx(stdev(changes), abs=1e-9)


def test_the_spread_is_that_of_normal_epochs_whatever_changed() -> None:
    draw = random.Random(1)
    gates = [[draw.gauss(0.1, 0.02) for _ in range(22)] for _ in range(200)]
    found = [spread.deviation for spread in spreads_of(raw(series=tuple(series(*changes) for changes in gates)))]
    assert fmean(each for each in found if each is not None) == pytest.approx(0.02, rel=0.05)


def test_one_epoch_out_of_line_hardly_widens_the_spread() -> None:
    changes = [0.001 * step for step in range(10)]
    calm, stalled = (spreads_of(raw(series=(series(*each),)))[0] for each in (changes, [*changes[:-1], 3.0]))
    assert stalled.deviation == pytest.approx(calm.deviation, rel=1e-6)


def test_epochs_of_both_stages_count_and_share_the_gates_time() -> None:
    both = Series(CELL, "latency", (*series(0.0, 0.02).epochs, *series(0.01, stage="confirm").epochs))
    spreads = spreads_of(raw(series=(both, series(0.0, cell=OTHER)), seconds=40.0))
    assert spreads[0] == Spread(CELL, "latency", pytest.approx(0.01), 10.0, 3)  # type: ignore[arg-type]
    assert spreads[1] == Spread(OTHER, "latency", None, 10.0, 1)


def test_what_cannot_be_judged_has_no_spread() -> None:
    broken = Series(CELL, "latency", (epoch(head=(0.0,) * 4),) * 6)
    strange = replace(broken, metric="no_metric")
    empty = replace(broken, epochs=())
    (found,) = spreads_of(raw(series=(broken, strange, empty)))
    assert found.deviation is None


def test_the_text() -> None:
    assert plan_text(plan([NARROW, replace(WIDE, cell=OTHER), UNKNOWN])).splitlines()[4:] == [
        "cell                 metric       spread      6     10     16     24  must be found",
        "-------------------  --------  ---------  -----  -----  -----  -----  ------------------",
        "resnet18-full-cpu    latency   0.8 % (6)  3.2 %  3.2 %  3.2 %  3.2 %  5 %: in 6, 0.7 min",
        "vgg11-linear_probe-  latency     5 % (6)  9.6 %  8.3 %  7.1 %  6.7 %  5 %: not in 24",
        "cpu",
        "resnet18-full-cpu    latency       — (6)      —      —      —      —  5 %: —",
        "",
        "Nothing changed: 1.8 min. Everything suspected, at the last look: 4.0 min.",
        "",
        "latency: 5 % is found where the spread is 3 % or less; give the gate a quieter machine.",
    ]


def test_the_spread_that_is_asked_for_is_enough() -> None:
    assert row(0.03).enough == 24
    assert row(0.031).enough is None


def test_the_text_of_nothing() -> None:
    assert plan_text(plan([])).startswith("expected epochs of a timed metric, got none")


@settings(max_examples=20)
@given(st.lists(st.floats(0, 5), max_size=2), st.floats(0, 3e3))
def test_the_text_is_no_wider_than_a_terminal(deviations: list[float], seconds: float) -> None:
    cell = "densenet121-linear_probe-cuda:1-bf16-channels_last-compile-64px-batch256"
    spreads = [Spread(cell, "inference_throughput", deviation, seconds, 40) for deviation in (*deviations, 0.026, 2.0)]
    assert max(map(len, plan_text(plan(spreads)).splitlines())) <= 110


def test_the_text_moves_no_cursor() -> None:
    assert "\x1b" not in plan_text(plan([replace(NARROW, cell="a\x1b[31m")]))
