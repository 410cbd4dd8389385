"""How small a difference the doctor says that a device shows, from made-up slices."""

import math
import random
from dataclasses import replace
from typing import Any

import pytest

from fashiontl.core.metrics import Measurement, Slices
from fashiontl.core.slices import Components, Series
from fashiontl.core.stats import smallest_difference
from fashiontl.doctor.detection import NETWORKS, Sides, costs, detectable, judge, percent, section, sides_of

SMALL, LARGE = NETWORKS
ROUNDS, PROCESSES = 8, 4


def slices(seed: int, spread: float = 0.1, between: float = 0.02, seconds: float = 0.004, **more: Any) -> Measurement:
    """Slices of three values, a round each 1.5 s; a process costs 6 s."""
    chance = random.Random(seed)
    logs = [
        math.log(seconds) + process + chance.gauss(0, spread)
        for process in [chance.gauss(0, between) for _ in range(PROCESSES)]
        for _ in range(ROUNDS)
    ]
    count = len(logs)
    starts = tuple(1.5 * index + 6.0 * (index // ROUNDS) for index in range(count))
    processes = tuple(index // ROUNDS for index in range(count))
    values = tuple(math.exp(log) * factor for log in logs for factor in (0.9, 1.0, 1.3))
    kept = Slices("doctor", (3,) * count, processes, tuple(range(count)), starts, **more)
    return Measurement("latency", values, slices=kept)


def test_a_process_and_a_round_cost_what_they_took_here() -> None:
    sides = sides_of(SMALL, slices(1), slices(2))
    assert costs(sides.one) == pytest.approx((6.0, 1.5))
    assert costs(Series((0.0, 0.0), (0, 1), (0, 1))) == (0.0, 0.0), "slices that do not say when they began"


def test_a_longer_run_shows_smaller_differences() -> None:
    found = judge(sides_of(SMALL, slices(1), slices(2)))
    five, fifteen, sixty = found.smallest.values()
    assert five is not None
    assert fifteen is not None
    assert sixty is not None
    assert five > fifteen > sixty > 0
    # The error of a mean falls with the square root of the time.
    assert fifteen / sixty == pytest.approx(2, rel=0.1)


def test_the_smallest_difference_is_that_of_the_processes_that_fit() -> None:
    parts = Components(slices=0.1**2, processes=0.02**2, slice_freedom=56, process_freedom=6)
    # sqrt(6 / 1.5) * 0.1 / 0.02 = 10 slices a process, 21 s, of which 14 fit into 300 s.
    expected = math.expm1(smallest_difference(math.sqrt(0.02**2 + 0.1**2 / 10), 14))
    assert detectable(parts, 6.0, 1.5, 300.0) == pytest.approx(expected)


@pytest.mark.parametrize(("process", "round_", "seconds"), [(6.0, 1.5, 40.0), (200.0, 1.5, 300.0), (6.0, 0.0, 300.0)])
def test_a_run_of_less_than_two_processes_shows_nothing(process: float, round_: float, seconds: float) -> None:
    parts = Components(slices=0.1**2, processes=0.02**2, slice_freedom=56, process_freedom=6)
    assert detectable(parts, process, round_, seconds) is None
    assert detectable(None, 6.0, 1.5, 300.0) is None


def test_what_runs_are_said_to_show_they_do_show_in_four_of_five_cases() -> None:
    """Runs of five minutes, simulated with the components that one has, and judged by a t test of processes."""
    spread, between, count, each = 0.1, 0.02, 14, 10
    parts = Components(spread**2, between**2, 1000, 1000)
    difference = detectable(parts, 6.0, 1.5, 300.0)
    assert difference is not None
    chance = random.Random(5)

    def process(mean: float) -> float:
        return mean + chance.gauss(0, between) + chance.gauss(0, spread / math.sqrt(each))

    shown, runs = 0, 2000
    critical = 2.056  # of Student's t with 26 degrees of freedom, two-sided, 95 %
    for _ in range(runs):
        one, other = ([process(mean) for _ in range(count)] for mean in (0.0, math.log1p(difference)))
        means = [sum(side) / count for side in (one, other)]
        squares = sum((value - mean) ** 2 for side, mean in zip((one, other), means, strict=True) for value in side)
        error = math.sqrt(squares / (2 * count - 2) * 2 / count)
        shown += abs(means[1] - means[0]) > critical * error
    assert 0.77 < shown / runs < 0.83


def test_images_a_second_become_seconds_a_call() -> None:
    one = slices(1, seconds=0.2)
    rate = replace_values(one, "train_throughput", tuple(32 / value for value in one.values))
    sides = sides_of(LARGE, rate, rate)
    expected = sides_of(SMALL, one, one)
    assert sides.one.logs == pytest.approx(expected.one.logs)
    assert sides.seconds == pytest.approx(expected.seconds)


def replace_values(measurement: Measurement, metric: str, values: tuple[float, ...]) -> Measurement:
    return Measurement(metric, values, slices=measurement.slices)


def test_disturbed_slices_are_left_out_and_told() -> None:
    marked = slices(
        1, disturbed={"other processes used the cores": (0, 1, 2)}, conditions={"others": (0.8,) * ROUNDS * PROCESSES}
    )
    sides = sides_of(SMALL, marked, slices(2))
    assert (len(sides.one.logs), len(sides.other.logs), sides.slices) == (29, 32, 64)
    assert sides.marked == ("3 of 32 slices: other processes used the cores (0.8 cores)",)
    everything = slices(1, disturbed={"the machine was throttled": tuple(range(32))})
    assert len(sides_of(SMALL, everything, everything).one.logs) == 32, "there are no others"


def both(small: Sides, large: Sides) -> dict[str, Sides]:
    return {"small": small, "large": large}


def test_what_is_said_is_the_worse_of_the_two_networks() -> None:
    quiet, noisy = (sides_of(SMALL, slices(1, spread), slices(2, spread)) for spread in (0.02, 0.6))
    facts, found, shown = section(both(quiet, noisy), {})
    worse = facts["large"]["smallest_difference"]
    assert worse["15"] > facts["small"]["smallest_difference"]["15"]
    assert shown == "in a run of two cells, differences show from " + ", ".join(
        f"{percent(worse[minutes])} ({minutes} minutes)" for minutes in ("5", "15", "60")
    )
    lines = {line.name: line for line in found.lines}
    assert lines["small"].value == "resnet9, inference of one image: 4.02 ms"
    assert lines["small"].advice == "32 and 32 slices, 4 processes a side"
    assert lines["small: slices differ by"].value == percent(facts["small"]["slice_deviation"])
    assert (lines["small: smallest difference"].verdict, lines["large: smallest difference"].verdict) == ("ok", "note")


def test_a_box_that_shows_nothing_is_bad() -> None:
    wild = sides_of(SMALL, slices(1, 0.1, 3.0), slices(2, 0.1, 3.0))
    _, found, _ = section(both(wild, wild), {})
    lines = {line.name: line for line in found.lines}
    assert lines["small: smallest difference"].verdict == "bad"
    assert "shows in 15 minutes; end other work" in lines["small: smallest difference"].advice


def test_too_few_processes_are_bad_and_tell_nothing_else() -> None:
    sides = sides_of(SMALL, slices(1), slices(2))
    single = replace(sides, one=first_process(sides.one), other=first_process(sides.other))
    facts, found, shown = section(both(single, single), {})
    assert shown == ""
    assert [line.verdict for line in found.lines] == ["ok", "bad"] * 2
    assert facts["small"]["log_ratio"][1:] == [None, None]


def first_process(series: Series) -> Series:
    return Series(series.logs[:8], series.processes[:8], series.rounds[:8], series.group, series.starts[:8])


def test_a_network_that_differs_from_itself_beyond_chance_is_a_note() -> None:
    fine = sides_of(SMALL, slices(3, 0.02, 0.0), slices(4, 0.02, 0.0))
    slower = sides_of(SMALL, slices(3, 0.02, 0.0), slices(4, 0.02, 0.0, seconds=0.0044))
    _, found, _ = section(both(fine, slower), {})
    lines = {line.name: line for line in found.lines}
    assert lines["small: against itself"].verdict == "ok"
    assert lines["large: against itself"].verdict == "note"
    assert lines["large: against itself"].value.startswith("-9")
