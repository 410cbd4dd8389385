"""When slices are said to fall into two states of a machine."""

import math
import random
from collections.abc import Callable

import pytest

from fashiontl.core.metrics import Measurement, Slices
from fashiontl.core.states import states, undisturbed_speed

SINGLE: dict[str, Callable[[random.Random], float]] = {
    "normal": lambda chance: chance.gauss(0, 0.15),
    "uniform": lambda chance: chance.uniform(0, 0.5),
    "skewed": lambda chance: chance.expovariate(5),
    "heavy tails": lambda chance: 0.1 * chance.gauss(0, 1) / math.sqrt(chance.gammavariate(1, 1)),
}


@pytest.mark.parametrize("kind", SINGLE)
@pytest.mark.parametrize("count", [16, 40])
def test_a_single_state_is_split_in_less_than_one_of_a_hundred_series(kind: str, count: int) -> None:
    chance = random.Random(3)
    split = sum(states([SINGLE[kind](chance) for _ in range(count)]) is not None for _ in range(1000))
    assert split < 10


def test_two_states_are_found_and_told_apart() -> None:
    chance = random.Random(3)
    slow = [chance.random() < 0.4 for _ in range(30)]
    logs = [math.log(0.012 if each else 0.008) + chance.gauss(0, 0.03) for each in slow]
    found = states(logs)
    assert found is not None
    assert list(found.slow) == slow
    assert math.exp(found.fast_log) == pytest.approx(0.008, rel=0.02)
    assert math.exp(found.slow_log) == pytest.approx(0.012, rel=0.02)


@pytest.mark.parametrize(
    "logs",
    [
        [],
        [0.0] * 8 + [1.0] * 7,  # too few
        [0.0] * 20,
        [0.0] * 18 + [1.0] * 2,  # outliers
        [0.0] * 10 + [0.09] * 10,  # a step that does not matter
        [0.0] * 10 + [0.5] * 2 + [1.0] * 10,  # something in between
    ],
)
def test_what_shows_no_two_states(logs: list[float]) -> None:
    assert states(logs) is None


def test_a_process_that_is_slow_throughout_is_no_state_of_the_machine() -> None:
    logs, processes = [0.0] * 20 + [0.3] * 10, [0] * 10 + [1] * 10 + [2] * 10
    assert states(logs) is not None
    assert states(logs, processes) is None
    assert states(logs, [0, 1, 2] * 10) is not None


def measurement(metric: str, values: list[float]) -> Measurement:
    """A slice of three equal values for each, in two processes."""
    count = len(values)
    rounds = tuple(range(count))
    marked = {"other processes used the cores": (1, 3)}
    slices = Slices("run", (3,) * count, tuple(r % 2 for r in rounds), rounds, tuple(map(float, rounds)), marked)
    return Measurement(metric, tuple(value for value in values for _ in range(3)), slices=slices)


def test_the_undisturbed_speed_is_the_fast_states() -> None:
    pattern = [0, 0, 1, 1, 0, 0, 0, 1] * 3
    assert undisturbed_speed(measurement("latency", [(0.004, 0.006)[each] for each in pattern])) == pytest.approx(0.004)
    fast = undisturbed_speed(measurement("train_throughput", [(300.0, 200.0)[each] for each in pattern]))
    assert fast == pytest.approx(300)


def test_one_state_has_no_other_speed() -> None:
    assert undisturbed_speed(measurement("latency", [0.004, 0.0041] * 12)) is None
    assert undisturbed_speed(Measurement("latency", (0.004,) * 20)) is None
