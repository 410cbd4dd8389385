import math
import random

import pytest
from gate_raws import CELL, raw, trial
from msgspec.structs import replace

from fashiontl.gate.limits import LIMITS
from fashiontl.gate.plan import plan, plan_text, simulate
from fashiontl.gate.raw import Counts, Raw, Series
from fashiontl.gate.sequential import LOOKS

LATENCY = LIMITS["latency"]


def noisy(std: float, count: int = 24) -> Raw:
    """A gate of unchanged code whose trials have this standard deviation, as far as they are many."""
    draw = random.Random(1)
    trials = tuple(trial(factor=math.exp(draw.gauss(0, std)), slices=12) for _ in range(count))
    return raw(series=(Series(CELL, "latency", trials),), seconds=24 * 60.0)


@pytest.mark.parametrize(
    ("std", "low", "high"), [(0.005, 1.0, 1.0), (0.03, 0.9, 1.0), (0.05, 0.3, 0.7), (0.2, 0.0, 0.1)]
)
def test_a_slowdown_of_5_percent_is_detected_where_trials_agree(std: float, low: float, high: float) -> None:
    simulated = simulate(std, math.log1p(0.05), LATENCY)
    assert low <= simulated.detected <= high
    assert simulated.passed <= 0.05, "the rule's alpha"


def test_unchanged_code_passes_early_on_a_quiet_machine_and_is_hardly_ever_blamed() -> None:
    assert simulate(0.005, 0.0, LATENCY).passed == 1
    assert simulate(0.005, 0.0, LATENCY).trials == LOOKS[0]
    for std in (0.02, 0.05, 0.2):
        assert simulate(std, 0.0, LATENCY).detected <= 0.05


def test_a_plan_follows_from_the_trials_of_a_gate() -> None:
    (quiet,) = plan(noisy(0.01))
    (loud,) = plan(noisy(0.10))
    assert quiet.std == pytest.approx(0.01, rel=0.3)
    assert (quiet.taken, quiet.seconds) == (24, 60.0)
    assert quiet.smallest == 0.04
    assert loud.smallest is not None
    assert loud.smallest > 0.10
    assert quiet.slower.detected > loud.slower.detected
    assert quiet.unchanged.trials < loud.unchanged.trials


def test_what_cannot_be_judged_is_left_out() -> None:
    series = noisy(0.01).series[0]
    assert plan(raw(series=(), counts=(Counts(CELL, "flops", (1.0,), (1.0,)),))) == []
    assert plan(raw(series=(replace(series, metric="flops"),))) == []
    assert plan(raw(series=(replace(series, trials=series.trials[:1]),))) == []
    assert plan(raw(series=(replace(series, trials=(*series.trials, trial(slices=0))),))) == []
    one_each = (series.trials[0], replace(series.trials[1], stage="confirm"))
    assert plan(raw(series=(replace(series, trials=one_each),))) == []


def test_the_text_says_what_is_detected_and_in_which_time() -> None:
    text = plan_text(plan(noisy(0.01)) + plan(noisy(3.0)))
    assert max(map(len, text.splitlines())) <= 110
    (quiet, loud) = [line for line in text.splitlines() if CELL in line]
    assert quiet.split()[5:7] == ["4", "%"]
    assert "more" in loud
    assert quiet.endswith(" min")
