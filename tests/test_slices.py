"""Statistics of slices: what varies is known, since it is drawn here with a seed."""

import math
from statistics import fmean, variance

import msgspec
import numpy as np
import pytest

from fashiontl.core.metrics import Measurement, Slices
from fashiontl.core.slices import (
    Components,
    Prior,
    Series,
    allocation,
    best_group,
    common_effects,
    components,
    difference,
    exp_interval,
    half_width_of,
    interval_of,
    log_interval,
    paired,
    prior_of,
    processes_needed,
    quantile_interval,
    series_of,
    session_drift,
    used_series,
)
from fashiontl.core.stats import mean_interval


def series(
    rng: np.random.Generator, processes: int, slices: int, of_slices: float, of_processes: float, mean: float = 0.0
) -> Series:
    logs = rng.normal(mean, of_slices, (processes, slices)) + rng.normal(0, of_processes, (processes, 1))
    return as_series(logs)


def as_series(logs: np.ndarray, group: str = "") -> Series:
    processes, slices = logs.shape
    owners = tuple(process for process in range(processes) for _ in range(slices))
    return Series(tuple(logs.ravel().tolist()), owners, tuple(range(logs.size)), group)


def measurement(values: tuple[float, ...], slices: Slices) -> Measurement:
    return Measurement("latency", values, slices=slices)


def test_a_slice_counts_by_its_median_and_marked_ones_do_not() -> None:
    slices = Slices("g", (3, 1, 2), (0, 0, 1), (0, 1, 2), (0.5, 1.5, 2.5), disturbed={"steal": (1,)})
    found = series_of(measurement((1.0, 9.0, 2.0, 50.0, 4.0, 4.0), slices))
    assert found == Series((math.log(2), math.log(4)), (0, 1), (0, 2), "g", (0.5, 2.5))
    everything = series_of(measurement((1.0, 9.0, 2.0, 50.0, 4.0, 4.0), slices), disturbed=True)
    assert everything.logs == (math.log(2), math.log(50), math.log(4))


def test_an_interval_is_in_the_metrics_unit_and_leaves_no_slice_out_if_all_are_marked() -> None:
    slices = Slices("g", (1, 1), (0, 1), (0, 1), (0.0, 1.0), disturbed={"steal": (0, 1)})
    found = interval_of(measurement((2.0, 8.0), slices))
    assert found.estimate == pytest.approx(4)
    assert found.low * found.high == pytest.approx(16)


def test_one_process_alone_says_nothing_of_another() -> None:
    single = Series((0.1, 0.2, 0.15), (0, 0, 0), (0, 1, 2))
    assert log_interval(single).high == math.inf
    assert half_width_of(log_interval(single)) == math.inf
    # Two degrees of freedom within it, and 20 of the prior: 1 / (1/2 + 1/20) together, so that of one.
    assert math.isfinite(log_interval(single, Prior(2.0, 20.0)).high)
    assert math.isnan(log_interval(Series((), (), ())).estimate)
    assert prior_of([single]) is None
    assert components([single]) is None


def test_without_a_prior_it_is_students_t_of_the_processes_means() -> None:
    cell = series(np.random.default_rng(1), 5, 4, 0.1, 0.05)
    found = log_interval(cell)
    means = [fmean(logs) for logs in cell.by_process().values()]
    plain = mean_interval(means)
    assert found.estimate == pytest.approx(plain.estimate)
    # A little wider, since it is of 96 %: the quantiles of 4 degrees of freedom.
    assert (found.high - found.low) / (plain.high - plain.low) == pytest.approx(2.9985 / 2.7764, rel=1e-4)


def test_the_prior_is_one_where_only_independent_slices_vary_and_more_where_processes_do() -> None:
    rng = np.random.default_rng(2)
    alike = prior_of([series(rng, 4, 6, 0.01 * number, 0.0) for number in range(1, 301)])
    assert alike is not None
    # However unlike the noise of their slices is.
    assert alike.ratio == pytest.approx(1, rel=0.1)
    assert alike.freedom > 30
    apart = prior_of([series(rng, 4, 6, 0.1, 0.1) for _ in range(300)])
    assert apart is not None
    # (0.01 + 0.01 / 6) / (0.01 / 6)
    assert apart.ratio == pytest.approx(7, rel=0.15)
    mixed = prior_of([series(rng, 4, 6, 0.01, 0.1 * (number % 2)) for number in range(40)])
    assert mixed is not None
    assert mixed.freedom < 3


def test_a_cell_whose_processes_differ_keeps_its_own_width() -> None:
    """A prior of quiet cells must not make it look quiet."""
    rng = np.random.default_rng(3)
    prior = prior_of([series(rng, 4, 6, 0.01, 0.0) for _ in range(10)])
    cell = as_series(rng.normal(0, 0.01, (4, 6)) + np.array([[-0.2], [0.1], [0.2], [-0.1]]))
    assert half_width_of(log_interval(cell, prior)) > 0.95 * half_width_of(log_interval(cell))
    quiet = series(rng, 4, 6, 0.01, 0.0)
    assert half_width_of(log_interval(quiet, prior)) < 0.02


@pytest.mark.parametrize("of_processes", [0.0, 0.05])
def test_intervals_hold_and_pairs_of_one_network_overlap(of_processes: float) -> None:
    """Eight cells of unlike noise, three processes each: 1,200 intervals of 95 %."""
    rng = np.random.default_rng(4)
    noise = (0.08, 0.1, 0.15, 0.2)
    held, disjoint = [], []
    for _ in range(75):
        cells = [series(rng, 3, 6, noise[number % 4], of_processes) for number in range(16)]
        found = [log_interval(cells[i], prior_of(cells[:i] + cells[i + 1 :])) for i in range(16)]
        held += [interval.low <= 0 <= interval.high for interval in found]
        disjoint += [not found[i].overlaps(found[i + 4]) for i in (0, 1, 2, 3, 8, 9, 10, 11)]
    assert fmean(held) >= 0.95
    assert fmean(disjoint) <= 0.01


def test_nested_components_are_found() -> None:
    rng = np.random.default_rng(5)
    found = components([series(rng, 5, 6, 0.1, 0.05) for _ in range(100)])
    assert found is not None
    assert found.slices == pytest.approx(0.01, rel=0.1)
    assert found.processes == pytest.approx(0.0025, rel=0.25)
    assert (found.slice_freedom, found.process_freedom) == (2500, 400)
    none = components([as_series(np.tile([[-0.1, 0.1]], (3, 1)))])
    assert none is not None
    assert none.processes == 0


def test_the_best_allocation_is_narrowest_for_the_time() -> None:
    parts = Components(slices=0.02, processes=0.002, slice_freedom=100, process_freedom=20)
    # sqrt(3 * 0.02 / (0.4 * 0.002)) is 8.7.
    assert allocation(parts, process_seconds=3, slice_seconds=0.4) == 9

    def error(slices: int) -> float:
        return (parts.processes + parts.slices / slices) * (3 + 0.4 * slices)

    assert min(range(2, 13), key=error) == 9
    assert allocation(Components(0.02, 0.0, 9, 2), 3, 0.4) == 12
    assert allocation(Components(0.0, 0.1, 9, 2), 3, 0.4) == 2


def test_as_many_processes_as_are_needed_make_it_precise() -> None:
    rng = np.random.default_rng(6)
    cells = [series(rng, 4, 6, 0.15, 0.01) for _ in range(8)]
    prior = prior_of(cells[1:])
    more = processes_needed(cells[0], prior, 0.05)
    assert more is not None
    assert 2 <= more <= 20
    widths = []
    for _ in range(20):
        grown = as_series(rng.normal(0, 0.15, (4 + more, 6)) + rng.normal(0, 0.01, (4 + more, 1)))
        widths.append(half_width_of(log_interval(grown, prior)))
    assert fmean(widths) == pytest.approx(0.05, rel=0.25)
    assert processes_needed(cells[0], prior, 1.0) == 0
    assert processes_needed(cells[0], prior, 1e-5) is None
    assert processes_needed(Series((0.1, 0.2), (0, 0), (0, 1)), None, 0.05) is None


def test_what_a_round_does_to_both_cancels_in_their_difference() -> None:
    rng = np.random.default_rng(7)
    held = []
    for _ in range(100):
        rounds = rng.normal(0, 0.3, (4, 5))
        one, other = (as_series(rounds + rng.normal(mean, 0.01, (4, 5))) for mean in (0.05, 0.0))
        found = difference(one, other)
        assert found.high - found.low < 0.06
        held.append(found.low < 0.05 < found.high)
    assert fmean(held) >= 0.93
    assert exp_interval(found).estimate == pytest.approx(1.05, rel=0.02)
    elsewhere = Series(other.logs, other.processes, other.rounds, "another session")
    assert paired(one, elsewhere) is None
    unpaired = difference(one, elsewhere)
    assert unpaired.estimate == pytest.approx(found.estimate)
    assert unpaired.high - unpaired.low > 0.15


def test_differences_use_the_rounds_in_common() -> None:
    one = Series((1.0, 2.0, 9.0, 3.0, 4.0), (0, 0, 0, 1, 1), (0, 1, 2, 3, 4))
    other = Series((0.5, 1.0, 2.0, 5.0), (7, 7, 8, 9), (0, 1, 3, 99))
    assert paired(one, other) == Series((0.5, 1.0, 1.0), (0, 0, 1), (0, 1, 3))
    # Only one pair of processes has any: that says nothing of another pair.
    assert paired(one, Series((0.5, 1.0), (7, 7), (0, 1))) is None


def test_the_best_stays_in_its_group_and_clear_losers_leave_it() -> None:
    rng = np.random.default_rng(8)
    kept, lost, sizes = [], [], []
    for _ in range(150):
        rounds = rng.normal(0, 0.06, (4, 6))
        shifts = (0.0, 0.0, 0.0, 0.0, 0.5)
        cells = [
            as_series(rounds + shift + rng.normal(0, 0.12, (4, 6)) + rng.normal(0, 0.02, (4, 1))) for shift in shifts
        ]
        group = best_group(cells, "lower")
        kept.append(0 in group)
        lost.append(4 not in group)
        sizes.append(len(group))
    assert fmean(kept) >= 0.95
    assert fmean(lost) == 1
    assert fmean(sizes) > 3.8


def test_higher_may_be_better_and_cells_without_slices_are_no_candidates() -> None:
    rng = np.random.default_rng(9)
    cells = [series(rng, 4, 6, 0.01, 0.0, mean) for mean in (0.0, 1.0, 1.0, 0.5)]
    cells.append(Series((), (), ()))
    assert best_group(cells, "lower") == [0]
    assert best_group(cells, "higher") == [1, 2]
    assert best_group([cells[-1]], "lower") == []
    assert best_group(cells[:1], "lower") == [0]


def test_a_cell_that_may_be_anything_cannot_be_told_from_the_best() -> None:
    rng = np.random.default_rng(10)
    single = Series((0.3, 0.4), (0, 0), (0, 1), "another session")
    assert best_group([series(rng, 4, 6, 0.01, 0.0), single], "lower") == [0, 1]


def test_two_cells_of_one_shared_measurement_are_equally_good() -> None:
    cell = series(np.random.default_rng(11), 3, 4, 0.1, 0.02)
    assert best_group([cell, cell], "lower") == [0, 1]
    assert variance(difference(cell, cell).__dict__.values()) == 0


def spread_over_slices(rng: np.random.Generator, of_slices: float, prior: Prior | None = None) -> Measurement:
    """5 processes with 6 slices of 40 samples each, whose logs lie up to 1 above their slice's level."""
    levels = np.repeat(rng.normal(0, of_slices, 30) + np.repeat(rng.normal(0, 0.02, 5), 6), 40)
    values = np.exp(levels + rng.random(1200))
    processes = tuple(number // 6 for number in range(30))
    taken = Slices(
        "g", (40,) * 30, processes, tuple(range(30)), tuple(map(float, range(30))),
        prior=(prior.ratio, prior.freedom) if prior else None,
    )  # fmt: skip
    return measurement(tuple(values.tolist()), taken)


def test_a_quantiles_interval_holds_where_samples_of_a_slice_are_alike() -> None:
    rng = np.random.default_rng(12)
    truth = float(np.percentile(np.exp(rng.random(400_000) + rng.normal(0, math.hypot(0.1, 0.02), 400_000)), 90))
    found = [quantile_interval(spread_over_slices(rng, 0.1), 90) for _ in range(120)]
    assert fmean(interval.low <= truth <= interval.high for interval in found) >= 0.95
    assert fmean(math.log(interval.high / interval.low) / 2 for interval in found) < 0.12


def test_a_quantiles_interval_repeats_and_is_unbounded_where_few_slices_reach_it() -> None:
    rng = np.random.default_rng(13)
    one = spread_over_slices(rng, 0.02)
    assert quantile_interval(one, 90) == quantile_interval(one, 90)
    assert quantile_interval(one, 90).estimate == pytest.approx(np.percentile(one.values, 90))
    assert math.isfinite(quantile_interval(one, 99).high)
    apart = quantile_interval(spread_over_slices(rng, 1.0), 99)
    assert (apart.low, apart.high) == (0, math.inf)
    assert one.slices is not None
    single = msgspec.structs.replace(one.slices, processes=(0,) * 30)
    assert quantile_interval(measurement(one.values, single), 90).high == math.inf


def test_a_machine_that_warms_up_shows_in_all_cells_and_one_cells_drift_is_diluted() -> None:
    rng = np.random.default_rng(14)
    warming = np.linspace(0, 0.1, 40).reshape(5, 8)
    cells = [as_series(warming + rng.normal(0, 0.06, (5, 8)) + level) for level in (0, 1, 2, 3)]
    found = session_drift(cells)
    assert found is not None
    assert found.seen
    assert found.change == pytest.approx(0.05, abs=0.03)
    assert session_drift([as_series(warming[:1, :5])]) is None
    still = [
        session_drift(
            [as_series(rng.normal(0, 0.1, (5, 8)) + rng.normal(0, 0.02, (5, 1))) for _ in range(4)]
        )
        for _ in range(150)
    ]  # fmt: skip
    assert fmean(one is not None and one.seen for one in still) <= 0.07


def in_rounds(level: float, first: int, last: int, effects: list[float], noise: np.ndarray | None = None) -> Series:
    """A cell with one slice in each round from the first until before the last."""
    rounds = range(first, last)
    logs = [level + effects[round_] + (0.0 if noise is None else noise[round_]) for round_ in rounds]
    return Series(tuple(logs), tuple(round_ // 6 for round_ in rounds), tuple(rounds))


def test_what_rounds_do_to_all_cells_is_found() -> None:
    effects = [0.0, 0.3, -0.1, 0.2, 0.05, -0.45]
    assert sum(effects) == pytest.approx(0)
    cells = [in_rounds(number, 0, 6, effects) for number in range(8)]
    assert common_effects(cells) == pytest.approx(dict(enumerate(effects)))
    # What has a level of its own does not: the mean of all rounds is nothing.
    assert common_effects([in_rounds(3.0, 0, 6, [effect + 1 for effect in effects])] * 8) == pytest.approx(
        dict(enumerate(effects))
    )


def test_a_cells_own_noise_is_hardly_taken_for_what_is_common() -> None:
    rng = np.random.default_rng(15)
    effects = rng.normal(0, 0.2, 30)
    effects -= effects.mean()
    cells = [in_rounds(number, 0, 30, effects.tolist(), rng.normal(0, 0.1, 30)) for number in range(20)]
    found = common_effects(cells)
    left = [found[round_] - effects[round_] for round_ in range(30)]
    # 0.1 / sqrt(20)
    assert math.sqrt(fmean(error**2 for error in left)) == pytest.approx(0.0224, rel=0.3)


def test_cells_of_some_rounds_are_put_on_the_level_of_all() -> None:
    """Twelve rounds, the last six half as fast; some cells are in the first, some in the last, some in all."""
    effects = [-0.5 * math.log(2)] * 6 + [0.5 * math.log(2)] * 6
    cells = [in_rounds(1.0, 0, 6, effects)] * 4 + [in_rounds(1.0, 6, 12, effects)] * 4
    cells += [in_rounds(2.0, 0, 12, effects)] * 12
    found = common_effects(cells)
    assert found == pytest.approx(dict(enumerate(effects)), abs=0.001)
    early, late = (
        fmean(log - found[round_] for log, round_ in zip(cell.logs, cell.rounds, strict=True))
        for cell in (cells[0], cells[4])
    )
    assert early == pytest.approx(1.0, abs=0.001)
    assert late == pytest.approx(1.0, abs=0.001)


def test_a_round_of_few_slices_has_no_effect() -> None:
    cells = [in_rounds(0.0, 0, 2, [0.0, 0.5])] * 7
    assert common_effects(cells) == {}
    assert common_effects([*cells, in_rounds(0.0, 0, 1, [0.0])]) == {0: 0.0}
    assert common_effects([]) == {}


def test_a_number_rests_on_what_is_not_disturbed_unless_that_is_of_a_single_process() -> None:
    def of(*disturbed: int) -> Series:
        slices = Slices("g", (1,) * 4, (0, 0, 1, 1), (0, 1, 2, 3), (0.0, 1.0, 2.0, 3.0), {"steal": disturbed})
        return used_series(measurement((1.0, 2.0, 4.0, 8.0), slices))

    assert of().rounds == (0, 1, 2, 3)
    assert of(1).rounds == (0, 2, 3)
    assert of(1, 2).rounds == (0, 3)
    assert of(2, 3).rounds == (0, 1, 2, 3), "one process says nothing of another"
    assert of(0, 1, 2, 3).rounds == (0, 1, 2, 3)
    alone = Slices("g", (1, 1), (0, 0), (0, 1), (0.0, 1.0), {"steal": (1,)})
    assert used_series(measurement((1.0, 2.0), alone)).rounds == (0,), "where there is no other, what is sound does"
