"""The simulations' own code, with few repetitions: what the evidence claims, in the small."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from gate_raws import raw

from fashiontl.gate import rawfile
from fashiontl.gate.limits import LIMITS
from fashiontl.gate.sequential import decide, evidence_of, next_action


@pytest.fixture
def simulation(bench_script: Callable[[str], ModuleType]) -> ModuleType:
    return bench_script("gate_simulation")


@pytest.fixture
def peers(bench_script: Callable[[str], ModuleType]) -> ModuleType:
    return bench_script("gate_peers")


def test_unchanged_gates_do_not_fail(simulation: ModuleType) -> None:
    tally = simulation.simulate(simulation.Setup(0.015), 20, (1,))
    assert (tally.failed, tally.gates, tally.words[0.0].total()) == (0, 20, 960)
    assert tally.green >= 19
    assert 6 <= tally.epochs / 960 < 7


def test_slowdowns_are_found_and_rarely_passed(simulation: ModuleType) -> None:
    setup = simulation.Setup(0.026, planted=(0.02, 0.05, 0.10), cells=3)
    tally = simulation.simulate(setup, 300, (2,))
    assert tally.share(0.05, "REGRESSED") >= 0.95
    assert tally.share(0.05, "PASS") <= 0.05
    assert tally.share(0.02, "REGRESSED") <= 0.05
    assert tally.share(0.10, "REGRESSED") >= 0.99


def test_pieces_add_up_and_processes_change_nothing(simulation: ModuleType) -> None:
    setups = [simulation.Setup(0.05, cells=2), simulation.Setup(0.05, planted=(0.05,), cells=2)]
    one, two = (simulation.simulate_all(setups, 120, 3, processes) for processes in (1, 2))
    assert one == two
    assert [tally.gates for tally in one] == [120, 120]
    assert one[1].words[0.05].total() == 120


@pytest.mark.parametrize("shape", ["normal", "heavy tails", "outliers", "modes", "skewed"])
def test_shapes_have_the_spread_they_claim(simulation: ModuleType, shape: str) -> None:
    values = simulation.SHAPES[shape](np.random.default_rng(4), 200_000)
    assert np.std(values) == pytest.approx(1.5 if shape == "outliers" else 1.0, rel=0.1)
    assert np.median(values) == pytest.approx(0.0, abs=0.02)


def test_losses_of_accuracy(simulation: ModuleType) -> None:
    assert simulation.accuracy_words(0.0, 4, (5,))["REGRESSED"] == 0
    assert simulation.accuracy_words(0.01, 4, (6,))["REGRESSED"] == 4


def test_networks_that_are_trained_apart_err_as_the_simulation_says(simulation: ModuleType) -> None:
    first = simulation.trained(0.005, np.random.default_rng(7), 50_000).seeds[0]
    base, head = (np.array([*map(int, right)]) for right in (first.right_base, first.right_head))
    assert 1 - base.mean() == pytest.approx(0.09, abs=0.005)
    assert base.mean() - head.mean() == pytest.approx(0.005, abs=0.003)
    assert (base != head).mean() == pytest.approx(0.06, abs=0.01)


def test_the_runners_entry_and_the_simulations_agree(peers: ModuleType) -> None:
    rng = np.random.default_rng(8)
    epochs = []
    while (action := next_action(epochs, LIMITS["latency"])) != "stop":
        assert action == decide(evidence_of(epochs), LIMITS["latency"]).action
        epochs.append(peers.run_epoch(action, 0.05, 0.02, rng))
    assert decide(evidence_of(epochs), LIMITS["latency"]).word == "REGRESSED"


def test_a_simulated_epoch_takes_turns_abba(peers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "NOISE", 0.0)
    one = peers.run_epoch("screen", 0.05, 0.0, np.random.default_rng(9))
    ratios = np.array(one.head) / np.array(one.base)
    assert np.median(ratios) == pytest.approx(1.05, rel=1e-9)
    assert np.allclose(ratios[::2] / 1.05, 1.05 / ratios[1::2])


def times(*values: float) -> np.ndarray:
    return np.array(values)


def test_rules_on_means_and_minima(peers: ModuleType) -> None:
    rng = np.random.default_rng(0)
    base, slow, spiky = times(1, 1, 1, 1), times(1.06, 1.06, 1.06, 1.06), times(1, 1, 1, 2)
    assert [peers.means(base, head, rng) for head in (base, slow, spiky)] == [False, True, True]
    assert [peers.minima(base, head, rng) for head in (base, slow, spiky)] == [False, True, False]


def test_welchs_test(peers: ModuleType) -> None:
    """With means 1 apart and variances 1 over 10 values a side, t is 2.236; it takes 2.10 at 18 degrees of freedom."""
    rng = np.random.default_rng(0)
    base = np.array([-1.0, 1.0] * 5) * np.sqrt(0.9)
    assert peers.welch(base, base + 1.0, rng)
    assert not peers.welch(base, base + 0.9, rng)
    assert not peers.welch(base, base - 1.0, rng)
    assert peers.welch(times(1, 1), times(2, 2), rng)


def test_mann_whitney_as_in_textbooks(peers: ModuleType) -> None:
    """U = 0 of 25 pairs: z = (12.5 - 0.5) / sqrt(25 * 11 / 12)."""
    low, high = times(1, 2, 3, 4, 5), times(6, 7, 8, 9, 10)
    assert peers.rank_z(low, high) == pytest.approx(12 / np.sqrt(25 * 11 / 12))
    assert peers.rank_z(high, low) == -peers.rank_z(low, high)
    assert peers.rank_z(low, low) == 0
    assert peers.rank_z(times(1, 1), times(1, 1)) == 0


def test_rules_that_test_alarm_as_often_as_they_ask_where_their_assumptions_hold(peers: ModuleType) -> None:
    rng = np.random.default_rng(11)
    for rule in (peers.welch, peers.mann_whitney, peers.bootstrap):
        alarms = sum(rule(rng.normal(10, 1, 24), rng.normal(10, 1, 24), rng) for _ in range(600)) / 600
        assert alarms == pytest.approx(0.025, abs=0.025)


def test_the_gate_beside_its_peers(peers: ModuleType) -> None:
    unchanged = peers.simulate(0.015, 0.0, 40, (12,))
    assert unchanged["REGRESSED"] == 0
    assert unchanged["Welch's t, 0.05"] >= 8
    slowed = peers.simulate(0.015, 0.10, 20, (13,))
    assert slowed["REGRESSED"] == 20


def test_kept_gates_are_judged_too(peers: ModuleType, tmp_path: Path) -> None:
    paths = [tmp_path / f"same-{number:03}.json" for number in range(2)]
    for path in paths:
        rawfile.write(raw(), path)
    (row,) = peers.kept(paths, 0).splitlines()[2:]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:3] == ["same", "2", "10"]
    assert "2 CRASHED" in cells[-1].split(", ")
