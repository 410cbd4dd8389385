"""How often intervals of slices hold: fashiontl's own and other candidates, on simulated and on recorded series.

`python bench/slices_simulation.py` takes some two minutes on one core and prints Markdown. Nothing is timed, so it does
not mind a busy machine; the same seed gives the same tables. `--recorded FILES` adds series in JSON lines, one slice
each: subject, metric, process, round, values.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from fashiontl.core.slices import Series, best_group, half_width_of, log_interval, prior_of
from fashiontl.core.stats import Interval, drift_test, mean_interval, student_quantile

Array = NDArray[np.float64]
# Standard deviations of log seconds as measured (docs/evidence/slices.md); each cell gets one, in turns.
NOISY = (0.08, 0.11, 0.15, 0.19)
PRECISE = 0.05


@dataclass(frozen=True)
class World:
    """What varies, as standard deviations of log seconds.

    Attributes:
        slices: of each cell, of one process.
        processes: of each cell.
        rounds: common to all cells.
        alike: correlation of a process's neighbouring slices.
        modes: whether each process of a cell lies, with one chance in three, 27 % lower than the others.
        skewed: whether slices are held up at times, and never sped up.
    """

    slices: Sequence[float]
    processes: Sequence[float]
    rounds: float
    alike: float
    modes: bool = False
    skewed: bool = False

    def draw(self, rng: np.random.Generator, cells: int, processes: int, slices: int) -> Array:
        """Log seconds of two sides of each cell: [2, cells, processes, slices]; their mean is 0."""
        shape = (2, cells, processes, slices)
        noise = rng.standard_normal(shape)
        for number in range(1, slices):
            fresh = math.sqrt(1 - self.alike**2) * noise[..., number]
            noise[..., number] = self.alike * noise[..., number - 1] + fresh
        if self.skewed:
            noise = (np.exp(noise / 2) - math.exp(1 / 8)) / math.sqrt((math.exp(1 / 4) - 1) * math.exp(1 / 4))
        moved = rng.standard_normal(shape[:3]) * np.resize(self.processes, cells)[:, None]
        if self.modes:
            moved[:, 0] += np.where(rng.random((2, processes)) < 1 / 3, -0.18, 0.09)
        rounds = rng.standard_normal((processes, slices)) * self.rounds
        drawn: Array = noise * np.resize(self.slices, cells)[:, None, None] + moved[..., None] + rounds
        return drawn


WORLDS = {
    "busy virtual machine": World(NOISY, (0.0, 0.01, 0.02, 0.03), 0.06, 0.27),
    "slices alike by 0.5": World(NOISY, (0.0, 0.01, 0.02, 0.03), 0.06, 0.5),
    "skewed slices": World(NOISY, (0.0, 0.01, 0.02, 0.03), 0.06, 0.27, skewed=True),
    "one cell's processes 10 %": World(NOISY, (0.0, 0.1, 0.02, 0.04), 0.05, 0.14),
    "one cell of two modes": World(NOISY, (0.02,), 0.05, 0.14, modes=True),
    "quiet": World((0.003,), (0.001, 0.002, 0.003, 0.01), 0.001, 0.1),
    "GPU, algorithms differ": World((0.003,), (0.0, 0.01, 0.02, 0.0), 0.001, 0.1),
    "quiet, but one cell": World((0.003,), (0.0, 0.0, 0.0, 0.03), 0.001, 0.1),
}


def series(logs: Array) -> Series:
    """[processes, slices] as a cell's series: each process takes its rounds before the next begins."""
    processes, slices = logs.shape
    numbers = range(processes * slices)
    return Series(tuple(logs.ravel().tolist()), tuple(number // slices for number in numbers), tuple(numbers), "")


def means(cell: Series) -> list[float]:
    return [fmean(logs) for logs in cell.by_process().values()]


def pooled(cells: Sequence[Series]) -> list[Interval]:
    """Student's t over processes, with one variance for all cells."""
    all_means = [means(cell) for cell in cells]
    freedom = sum(len(values) - 1 for values in all_means)
    spread = sum((value - fmean(values)) ** 2 for values in all_means for value in values) / freedom
    found = []
    for values in all_means:
        half = student_quantile(freedom, 0.95) * math.sqrt(spread / len(values))
        found.append(Interval(fmean(values), fmean(values) - half, fmean(values) + half))
    return found


def own(cells: Sequence[Series]) -> list[Interval]:
    return [log_interval(cell, prior_of([*cells[:index], *cells[index + 1 :]])) for index, cell in enumerate(cells)]


Candidate = Callable[[Sequence[Series]], list[Interval]]
USED = "**moderated ratio**"
CANDIDATES: dict[str, Candidate] = {
    "slices as if independent": lambda cells: [mean_interval(cell.logs) for cell in cells],
    "t over processes": lambda cells: [mean_interval(means(cell)) for cell in cells],
    "pooled variance": pooled,
    USED: own,
}


@dataclass
class Tally:
    """What happened to the cells of one candidate, and, of each cell, how often its interval held."""

    held: list[list[bool]]
    disjoint: list[bool]
    widths: list[float]
    processes: list[int]


def simulate(world: World, cells: int, slices: int, looks: range, repeats: int, seed: int) -> dict[str, Tally]:
    """Sample until each cell is precise or the processes are used up; the interval is that of its last look."""
    rng = np.random.default_rng(seed)
    tallies = {name: Tally([[] for _ in range(cells)], [], [], []) for name in CANDIDATES}
    for _ in range(repeats):
        drawn = world.draw(rng, cells, looks[-1], slices)
        for name, candidate in CANDIDATES.items():
            sides = [sample(side, candidate, looks) for side in drawn]
            tally = tallies[name]
            for index, pair in enumerate(zip(*sides, strict=True)):
                tally.held[index] += [interval.low <= 0 <= interval.high for interval, _ in pair]
                tally.disjoint.append(not pair[0][0].overlaps(pair[1][0]))
                tally.widths += [half_width_of(interval) for interval, _ in pair]
                tally.processes += [processes for _, processes in pair]
    return tallies


def sample(logs: Array, candidate: Candidate, looks: range) -> list[tuple[Interval, int]]:
    """Of each cell its interval and processes; the first look is at `looks[0]` processes."""
    counts = [looks[0]] * len(logs)
    while True:
        found = candidate([series(cell[:count]) for cell, count in zip(logs, counts, strict=True)])
        more = [
            half_width_of(interval) > PRECISE and count < looks[-1]
            for interval, count in zip(found, counts, strict=True)
        ]
        if not any(more):
            return list(zip(found, counts, strict=True))
        counts = [count + wanted for count, wanted in zip(counts, more, strict=True)]


def row(name: str, tallies: Sequence[Tally]) -> tuple[str, ...]:
    """All worlds together, and the worst cell of any."""
    cells = [cell for tally in tallies for cell in tally.held]
    disjoint = [one for tally in tallies for one in tally.disjoint]
    width = math.exp(fmean(math.log(width) for tally in tallies for width in tally.widths))
    processes = fmean(count for tally in tallies for count in tally.processes)
    return (
        name, f"{100 * fmean(one for cell in cells for one in cell):.1f} %", f"{100 * min(map(fmean, cells)):.0f} %",
        f"{100 * fmean(disjoint):.1f} %", f"{100 * width:.1f} %", f"{processes:.1f}",
    )  # fmt: skip


def candidate_tables(repeats: int, seed: int) -> Iterator[str]:
    """The candidates over all worlds, by how sampling goes; then the one that is used, by world."""
    plans = {
        "3 processes of 6 slices": (6, range(3, 4)),
        "3 to 8 processes of 2 slices, until ± 5 %": (2, range(3, 9)),
        "3 to 8 processes of 6 slices, until ± 5 %": (6, range(3, 9)),
        "3 to 8 processes of 12 slices, until ± 5 %": (12, range(3, 9)),
    }
    used: dict[str, list[Tally]] = defaultdict(list)
    for title, (slices, looks) in plans.items():
        found = {
            name: [simulate(world, cells, slices, looks, repeats, seed) for cells in (4, 8)]
            for name, world in WORLDS.items()
        }
        rows = [row(name, [one[name] for pair in found.values() for one in pair]) for name in CANDIDATES]
        yield f"### {title}\n\n{table(rows, HEADER)}"
        for world, pair in found.items():
            used[world] += [one[USED] for one in pair]
    rows = [row(world, tallies) for world, tallies in used.items()]
    yield f"### {USED} in each world\n\n{table(rows, HEADER)}"


def best_table(repeats: int, seed: int) -> str:
    """How often the best is in its group of 8 cells, of which half are as good and half 30 % worse."""
    rows = []
    for name, world in WORLDS.items():
        rng = np.random.default_rng(seed)
        groups = []
        for _ in range(repeats):
            drawn = world.draw(rng, 8, 4, 6)[0] + np.repeat([0.0, 0.26], 4)[:, None, None]
            groups.append(best_group([series(cell) for cell in drawn], "lower"))
        rows.append((
            name, f"{100 * fmean(0 in group for group in groups):.1f} %",
            f"{100 * fmean({0, 1, 2, 3} <= set(group) for group in groups):.1f} %",
            f"{100 * fmean(index not in group for group in groups for index in range(4, 8)):.1f} %",
        ))  # fmt: skip
    return table(rows, ("", "one of the best is in", "all four are", "a worse one is out"))


def drift_table(repeats: int, seed: int) -> str:
    """Warm-ups' test at 6 % noise: false alarms, and how often a drift of 10 % from first to last is seen."""
    rows = []
    for alike in (0.0, 0.15, 0.3):
        for count in (12, 24, 60, 90):
            rng = np.random.default_rng(seed)
            noise = World((0.06,), (0.0,), 0.0, alike).draw(rng, repeats, 1, count)[0, :, 0]
            still, moving, stepping = (
                fmean(drift_test((1 + noise_of + moved).tolist()).seen for noise_of in noise)
                for moved in (0.0, np.linspace(0, 0.1, count), 0.1 * (np.arange(count) >= count / 2))
            )
            rows.append((f"{count}", f"{alike:g}", *(f"{100 * share:.0f} %" for share in (still, moving, stepping))))
    return table(rows, ("calls", "neighbours alike", "false alarms", "steady 10 % seen", "step of 10 % seen"))


def recorded_table(files: Sequence[Path]) -> str:
    """Each cell's rounds dealt to two sides in turn: intervals must overlap."""
    slices: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for file in files:
        for line in file.read_text().splitlines():
            one = json.loads(line)
            slices[file.name, one["metric"], one["subject"]].append(one)
    sides: dict[tuple[str, str], list[list[Series]]] = defaultdict(lambda: [[], []])
    for (name, metric, _), taken in slices.items():
        for side in (0, 1):
            chosen = taken[side::2]
            logs = tuple(math.log(median(one["values"])) for one in chosen)
            processes = tuple(one["process"] for one in chosen)
            sides[name, metric][side].append(Series(logs, processes, tuple(one["round"] for one in chosen), name))
    rows = []
    for name, candidate in CANDIDATES.items():
        pairs = [
            pair
            for one, other in sides.values()
            for pair in zip(candidate(one), candidate(other), strict=True)
            if math.isfinite(pair[0].high) and math.isfinite(pair[1].high)
        ]
        disjoint = sum(not one.overlaps(other) for one, other in pairs)
        width = median(half_width_of(interval) for pair in pairs for interval in pair)
        rows.append((name, f"{disjoint} of {len(pairs)}", f"{100 * width:.1f} %"))
    return table(rows, ("", "disjoint", "half-width"))


HEADER = ("", "covers", "worst cell", "A/A disjoint", "half-width", "processes")


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    right = ["right"] * (len(header) - 1)
    return tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True, colalign=("left", *right))


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=100, help="sessions a world, plan and number of cells (100)")
    parser.add_argument("--seed", type=int, default=1, help="of all random numbers (1)")
    parser.add_argument("--recorded", type=Path, nargs="*", default=[], help="recorded series in JSON lines")
    options = parser.parse_args()
    for text in candidate_tables(options.repeats, options.seed):
        print(text, end="\n\n", flush=True)
    print(f"### The group of the best\n\n{best_table(2 * options.repeats, options.seed)}\n", flush=True)
    print(f"### Drift\n\n{drift_table(5 * options.repeats, options.seed)}\n", flush=True)
    if options.recorded:
        print(f"### Recorded series\n\n{recorded_table(options.recorded)}")


if __name__ == "__main__":
    main()
