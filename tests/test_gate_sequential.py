import math

import numpy as np
import pytest
from gate_raws import trial
from hypothesis import example, given
from hypothesis import strategies as st

from fashiontl.gate.limits import LIMITS
from fashiontl.gate.raw import Trial
from fashiontl.gate.sequential import (
    ALPHA,
    CONFIRMATION,
    LOOKS,
    Evidence,
    decide,
    decide_all,
    evidence_of,
    next_action,
    trial_change,
    trial_errors,
)

LIMIT = LIMITS["latency"]
CHANGES = st.lists(st.floats(-0.2, 0.2), max_size=30)


def around(change: float, count: int, spread: float = 0.01) -> tuple[float, ...]:
    """Logarithms evenly spread about a relative change."""
    return tuple((math.log1p(change) + spread * np.linspace(-1, 1, count)).tolist())


def evidence(screen: tuple[float, ...], confirm: tuple[float, ...] = (), reference: float = 0.0) -> Evidence:
    return Evidence(screen, confirm, (reference,) * len(screen), (reference,) * len(confirm))


def swapped(one: Evidence) -> Evidence:
    return Evidence(*(tuple(-value for value in values) for values in vars(one).values()))


def test_an_unchanged_cell_passes_at_the_first_look() -> None:
    decision = decide(evidence(around(0.0, 6)), LIMIT)
    assert (decision.verdict, decision.action, decision.trials) == ("PASS", "stop", (6, 0))
    assert decision.change is not None
    assert decision.change.low < 0 < decision.change.high < 0.05


def test_a_slow_cell_is_confirmed_before_it_fails() -> None:
    suspect = decide(evidence(around(0.08, 6)), LIMIT)
    assert (suspect.verdict, suspect.action, suspect.suspect) == ("INCONCLUSIVE", "confirm", "slower")
    confirmed = decide(evidence(around(0.08, 6), around(0.08, 16)), LIMIT)
    assert (confirmed.verdict, confirmed.action, confirmed.trials) == ("REGRESSED", "stop", (6, 16))
    assert confirmed.change is not None
    assert confirmed.change.estimate == pytest.approx(0.08)
    assert confirmed.change.low > 0.02
    assert "+8.0 %" in confirmed.reason


def test_a_change_that_fresh_trials_do_not_show_passes() -> None:
    decision = decide(evidence(around(0.08, 6), around(0.0, 16)), LIMIT)
    assert (decision.verdict, decision.suspect) == ("PASS", "slower")


def test_a_confirmation_that_settles_nothing_is_inconclusive_and_says_what_would_settle_it() -> None:
    decision = decide(evidence(around(0.08, 6), around(0.04, 16, 0.08)), LIMIT)
    assert (decision.verdict, decision.action) == ("INCONCLUSIVE", "stop")
    assert decision.needed is not None
    assert decision.needed > CONFIRMATION
    assert f"about {decision.needed} trials" in decision.reason


def test_a_fast_cell_is_confirmed_too_and_passes_meanwhile() -> None:
    suspect = decide(evidence(around(-0.08, 6)), LIMIT)
    assert (suspect.verdict, suspect.action, suspect.suspect) == ("PASS", "confirm", "faster")
    assert decide(evidence(around(-0.08, 6), around(-0.08, 16)), LIMIT).verdict == "IMPROVED"


def test_between_the_limits_it_samples_on_and_ends_inconclusive() -> None:
    alternating = tuple(math.log1p(0.035) + 0.03 * (-1) ** number for number in range(24))
    for taken, following in zip(LOOKS, ["screen", "screen", "screen", "stop"], strict=True):
        decision = decide(evidence(alternating[:taken]), LIMIT)
        assert (decision.verdict, decision.action, decision.trials) == ("INCONCLUSIVE", following, (taken, 0))
    assert decision.needed is not None
    assert decision.needed > 24


@pytest.mark.parametrize("taken", [0, 1, 15])
def test_too_few_fresh_trials_confirm_nothing(taken: int) -> None:
    decision = decide(evidence(around(0.5, 6), around(0.5, taken)), LIMIT)
    assert (decision.verdict, decision.action, decision.trials) == ("INCONCLUSIVE", "confirm", (6, taken))


def test_the_first_look_stops_on_no_prediction_and_later_ones_do() -> None:
    assert decide(evidence((0.5, -0.5) * 3), LIMIT).action == "screen"
    decision = decide(evidence((0.5, -0.5) * 5), LIMIT)
    assert decision.action == "stop"
    assert decision.needed is not None
    assert decision.needed > 48


def test_without_time_for_the_next_look_it_stops() -> None:
    undecided = evidence(around(0.035, 6, 0.05))
    assert decide(undecided, LIMIT, budget=9).action == "stop"
    assert decide(undecided, LIMIT, budget=10).action == "screen"


@pytest.mark.parametrize("change", [0.0, 0.5, -0.5])
@pytest.mark.parametrize("reference", [0.02, -0.02])
def test_a_contaminated_set_says_nothing(change: float, reference: float) -> None:
    decision = decide(evidence(around(change, 24), around(change, 16), reference), LIMIT)
    assert (decision.verdict, decision.action) == ("INCONCLUSIVE", "stop")
    assert "contaminated" in decision.reason


def test_a_noisy_reference_kernel_asks_for_more_trials() -> None:
    noisy = around(0.0, 6, 0.02)
    decision = decide(Evidence(around(0.0, 6), (), noisy, ()), LIMIT)
    assert (decision.verdict, decision.action) == ("INCONCLUSIVE", "screen")
    assert decision.needed is not None
    steady = Evidence(around(0.0, 24), (), noisy + (0.0,) * 18, ())
    assert decide(steady, LIMIT).verdict == "PASS"


# About a change that is near a limit, so that every look and every verdict is met.
NEAR = st.builds(
    lambda change, spread, noise: [change + spread * each for each in noise],
    st.floats(-0.1, 0.1),
    st.sampled_from([0.003, 0.01, 0.03, 0.1]),
    st.lists(st.floats(-1, 1), max_size=30),
)


@given(CHANGES | NEAR, CHANGES | NEAR, st.floats(-0.02, 0.02))
@example([0.01, -0.05] * 3 + [-0.05] * 10, [-0.05] * 16, 0.0)
def test_swapping_the_arms_exchanges_all_but_an_early_pass(
    screen: list[float], confirm: list[float], reference: float
) -> None:
    """PASS looks in one direction: what is surely not slower stops there, though its mirror image is looked at on."""
    there = evidence(tuple(screen), tuple(confirm), reference)
    one, other = decide(there, LIMIT), decide(swapped(there), LIMIT)
    if one.trials != other.trials:
        early, late = sorted((one, other), key=lambda decision: decision.trials[0])
        assert early.trials[0] < late.trials[0]
        assert (early.verdict, early.action, early.suspect) == ("PASS", "stop", "")
        return
    assert (one.suspect, other.suspect) in {("", ""), ("slower", "faster"), ("faster", "slower")}
    assert (one.verdict == "REGRESSED") == (other.verdict == "IMPROVED")
    assert (one.verdict == "IMPROVED") == (other.verdict == "REGRESSED")
    assert (one.change is None) == (other.change is None)
    if one.change and other.change:
        bounds = zip(
            (one.change.low, one.change.estimate, one.change.high),
            (other.change.high, other.change.estimate, other.change.low),
            strict=True,
        )
        for mine, its in bounds:
            assert math.log1p(its) == pytest.approx(-math.log1p(mine), abs=1e-9, rel=1e-9)


@given(CHANGES, CHANGES)
def test_what_regressed_is_beyond_and_what_passed_is_within(screen: list[float], confirm: list[float]) -> None:
    decision = decide(evidence(tuple(screen), tuple(confirm)), LIMIT)
    if decision.verdict == "REGRESSED":
        assert decision.change is not None
        assert decision.change.low > 0.02
        assert decision.trials[1] == CONFIRMATION
    if decision.verdict == "PASS":
        assert decision.change is not None
        assert decision.change.high < 0.05


def test_alarms_at_what_is_tolerated_are_rarer_than_alpha() -> None:
    """A change of exactly the tolerated size, with all looks, at a spread where looks matter."""
    rng = np.random.default_rng(8)
    truth = math.log1p(LIMIT.tolerated)
    alarms = 0
    for _ in range(2000):
        screen, confirm = (tuple((truth + 0.03 * rng.standard_normal(count)).tolist()) for count in (24, 16))
        alarms += decide(evidence(screen, confirm), LIMIT).verdict == "REGRESSED"
    assert alarms / 2000 <= ALPHA


def test_false_passes_at_what_must_be_found_are_rarer_than_alpha() -> None:
    rng = np.random.default_rng(9)
    truth = math.log1p(LIMIT.detect)
    passes = 0
    for _ in range(2000):
        screen, confirm = (tuple((truth + 0.05 * rng.standard_normal(count)).tolist()) for count in (24, 16))
        passes += decide(evidence(screen, confirm), LIMIT).verdict == "PASS"
    assert passes / 2000 <= ALPHA


def test_many_suspects_share_alpha() -> None:
    """One that is confirmed alone is not when nineteen others were suspected with it."""
    weak = evidence(around(0.08, 6), around(0.045, 16, 0.06))
    assert decide_all([(weak, LIMIT)])[0].verdict == "REGRESSED"
    others = [(evidence(around(0.08, 6), around(0.02, 16, 0.02)), LIMIT)] * 19
    assert decide_all([(weak, LIMIT), *others])[0].verdict != "REGRESSED"
    improved = [(swapped(evidence(around(0.08, 6), around(0.02, 16, 0.02))), LIMIT)] * 19
    assert decide_all([(weak, LIMIT), *improved])[0].verdict == "REGRESSED"


def test_a_trials_change_is_the_median_of_its_rounds() -> None:
    base, head = [1.0, 2.0, 4.0, 1.0, 3.0, 2.0], [1.1, 2.2, 40.0, 1.0, 3.3, 2.2]
    assert trial_change(base, head) == pytest.approx(math.log(1.1))


def test_a_drift_through_a_trial_cancels() -> None:
    """The machine slows by 2 % a turn; turns go ABBA."""
    times = [0.01 * 1.02**turn for turn in range(48)]
    base = [seconds for turn, seconds in enumerate(times) if turn % 4 in {0, 3}]
    head = [seconds for turn, seconds in enumerate(times) if turn % 4 in {1, 2}]
    assert trial_change(base, head) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"base": ()}, "as many slices"),
        ({"head": (0.01,) * 3}, "4, 3, 4, 4"),
        ({"reference_head": ()}, "4, 4, 4, 0"),
        ({"base": (), "head": (), "reference_base": (), "reference_head": ()}, "0, 0, 0, 0"),
        ({"head": (0.01, 0.01, 0.0, 0.01)}, "above 0"),
        ({"head": (0.01, 0.01, -1.0, 0.01)}, "above 0"),
        ({"head": (0.01, 0.01, math.nan, 0.01)}, "above 0"),
        ({"reference_base": (0.01, 0.01, math.inf, 0.01)}, "above 0"),
    ],
)
def test_errors_of_trials(fields: dict[str, object], error: str) -> None:
    trials = [trial(), trial(**fields)]
    (found,) = trial_errors(trials)
    assert error in found
    assert found.startswith("trial 2")
    assert next_action(trials, LIMIT) == "stop"


def test_the_runner_is_told_what_the_decision_says() -> None:
    trials: list[Trial] = []
    taken = []
    while (action := next_action(trials, LIMIT)) != "stop":
        taken.append(action)
        trials.append(trial(factor=1.08, stage=action))
    assert next_action([], LIMIT, budget=5) == "stop"
    assert taken == ["screen"] * 6 + ["confirm"] * 16
    decision = decide(evidence_of(trials), LIMIT)
    assert decision.verdict == "REGRESSED"
    assert decision.change is not None
    assert decision.change.estimate == pytest.approx(0.08)


def test_trials_beyond_the_look_that_decided_change_nothing() -> None:
    early = decide(evidence(around(0.0, 6)), LIMIT)
    assert decide(evidence(around(0.0, 6) + (9.0,) * 20), LIMIT) == early


def test_what_the_other_arm_leaves_in_the_caches_cancels() -> None:
    """A slice after one of the other arm takes 20 % longer; the head is 3 % slower, and all slices differ a little."""
    turns = ["base", "head", "head", "base"] * 6
    noise = [1 + 0.001 * (turn * 7 % 11) for turn in range(24)]
    times: dict[str, list[float]] = {"base": [], "head": []}
    for turn, arm in enumerate(turns):
        cold = turns[turn - 1] != arm
        times[arm].append(0.01 * (1.2 if cold else 1.0) * (1.03 if arm == "head" else 1.0) * noise[turn])
    assert trial_change(times["base"], times["head"]) == pytest.approx(math.log(1.03), abs=0.004)
