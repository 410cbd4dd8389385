"""The rules by which other tools compare two runs, beside the gate, on the same simulated machine or on a gate's file.

`python bench/gate_peers.py` prints a Markdown table; `python bench/gate_peers.py FILE ...` judges gates that were kept.
A tool's rule gets what such tools get: one run of the base, and later one run of the head. The first two are what
pytest-benchmark's `--benchmark-compare-fail` offers (`mean:5%`, `min:5%`), Mann-Whitney at 0.05 is what benchstat does.
Called slower when it is not, or not when it is: what a rule says of speedups is not counted.
"""

import argparse
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist

import numpy as np
from gate_simulation import SHAPES, SPREADS, table
from numpy.typing import NDArray

from fashiontl.core.stats import student_quantile
from fashiontl.gate import raw as rawfile
from fashiontl.gate.judge import judge
from fashiontl.gate.limits import LIMITS
from fashiontl.gate.raw import Stage, Trial
from fashiontl.gate.sequential import decide, evidence_of, next_action

Times = NDArray[np.float64]

LIMIT = LIMITS["latency"]
SLICES = 24
SLOWDOWNS = (0.0, 0.05, 0.10)
# Slices of one process scatter to one side; a shared machine's own speed wanders between runs and within them.
NOISE, WANDER, DRIFT = 0.01, 0.01, 0.005


def means(base: Times, head: Times, _: np.random.Generator) -> bool:
    """More than 5 % slower by the mean."""
    return bool(head.mean() > 1.05 * base.mean())


def minima(base: Times, head: Times, _: np.random.Generator) -> bool:
    """More than 5 % slower by the fastest slice."""
    return bool(head.min() > 1.05 * base.min())


def welch(base: Times, head: Times, _: np.random.Generator) -> bool:
    """Slower by Welch's t test, two-sided at 0.05 (Biometrika, 1947); degrees of freedom are rounded down."""
    errors = base.var(ddof=1) / len(base), head.var(ddof=1) / len(head)
    total = sum(errors)
    if not total:
        return bool(head.mean() > base.mean())
    freedom = total**2 / (errors[0] ** 2 / (len(base) - 1) + errors[1] ** 2 / (len(head) - 1))
    return bool((head.mean() - base.mean()) / math.sqrt(total) > student_quantile(max(1, math.floor(freedom)), 0.95))


def mann_whitney(base: Times, head: Times, _: np.random.Generator) -> bool:
    """Slower by the Mann-Whitney test, two-sided at 0.05, by its normal approximation with ties."""
    return rank_z(base, head) > NormalDist().inv_cdf(0.975)


def rank_z(base: Times, head: Times) -> float:
    """How many standard deviations more pairs have a slower head than a slower base; corrected for ties."""
    above = (head[:, None] > base[None, :]).sum() + 0.5 * (head[:, None] == base[None, :]).sum()
    count = len(base) + len(head)
    _, ties = np.unique(np.concatenate([base, head]), return_counts=True)
    spread = len(base) * len(head) / 12 * (count + 1 - (ties**3 - ties).sum() / (count * (count - 1)))
    distance = above - len(base) * len(head) / 2
    return float((distance - 0.5 * np.sign(distance)) / math.sqrt(spread)) if spread else 0.0


def bootstrap(base: Times, head: Times, rng: np.random.Generator, resamples: int = 1000) -> bool:
    """Slower by a percentile interval of the ratio of means at 95 %."""
    again = [times[rng.integers(0, len(times), (resamples, len(times)))].mean(axis=1) for times in (base, head)]
    return bool(np.quantile(again[1] / again[0], 0.025) > 1)


RULES: dict[str, Callable[[Times, Times, np.random.Generator], bool]] = {
    "mean, 5 %": means,
    "minimum, 5 %": minima,
    "Welch's t, 0.05": welch,
    "Mann-Whitney, 0.05": mann_whitney,
    "bootstrap of the mean, 95 %": bootstrap,
}


def process(speed: float, spread: float, rng: np.random.Generator) -> float:
    """Logarithm of how long a fresh process takes: two of them differ by the spread between trials."""
    return speed + float(spread / math.sqrt(2) * SHAPES["heavy tails"](rng, 1)[0])


def noise(rng: np.random.Generator, count: int = SLICES) -> Times:
    return NOISE * (rng.exponential(1, count) - 1)


def run_alone(slowdown: float, spread: float, rng: np.random.Generator) -> Times:
    """Seconds of the slices of one run, which meets the machine as it happens to be."""
    drift = DRIFT * rng.standard_normal() * np.linspace(0, 1, SLICES)
    level = process(math.log1p(slowdown), spread, rng) + WANDER * rng.standard_normal()
    return 0.01 * np.exp(level + drift + noise(rng))


def run_epoch(stage: Stage, slowdown: float, spread: float, rng: np.random.Generator) -> Trial:
    """Two processes that take turns: the machine's wandering meets both, in the order of the turns."""
    drift = WANDER * rng.standard_normal() + DRIFT * rng.standard_normal() * np.linspace(0, 1, 2 * SLICES)
    begins = bool(rng.integers(2))
    # ABBA: the first arm has turns 0, 3, 4, 7, ... and the other 1, 2, 5, 6, ...
    turns = np.arange(2 * SLICES)
    first = (turns % 4 == 0) | (turns % 4 == 3)
    arms = {}
    for arm, slower in (("base", 0.0), ("head", slowdown)):
        mine = first if (arm == "base") == begins else ~first
        arms[arm] = 0.01 * np.exp(process(math.log1p(slower), spread, rng) + drift[mine] + noise(rng))
        arms[f"reference_{arm}"] = 0.005 * np.exp(drift[mine] + noise(rng))
    return Trial(
        stage, "base" if begins else "head", **{name: tuple(times.tolist()) for name, times in arms.items()}
    )  # fmt: skip


def gate(slowdown: float, spread: float, rng: np.random.Generator) -> tuple[str, int]:
    """The gate's verdict on one cell, and how many trials it took."""
    trials: list[Trial] = []
    while (action := next_action(trials, LIMIT)) != "stop":
        trials.append(run_epoch(action, slowdown, spread, rng))
    return decide(evidence_of(trials), LIMIT).verdict, len(trials)


def simulate(spread: float, slowdown: float, repeats: int, seed: Sequence[int]) -> Counter[str]:
    """How often each rule calls the head slower; the gate's verdicts and trials besides."""
    rng = np.random.default_rng(seed)
    found: Counter[str] = Counter()
    for _ in range(repeats):
        base, head = run_alone(0.0, spread, rng), run_alone(slowdown, spread, rng)
        for name, rule in RULES.items():
            found[name] += rule(base, head, rng)
        verdict, trials = gate(slowdown, spread, rng)
        found[verdict] += 1
        found["trials"] += trials
    return found


def simulated(repeats: int, seed: int, processes: int) -> str:
    """The table of alarms and power."""
    lines = [(spread, slowdown) for spread in SPREADS for slowdown in SLOWDOWNS]
    with ProcessPoolExecutor(processes) as pool:
        counters = list(
            pool.map(
                simulate,
                *zip(*lines, strict=True),
                [repeats] * len(lines),
                [(seed, index) for index in range(len(lines))],
            )
        )
    rows = [
        (
            f"{100 * spread:.1f} %", "unchanged" if not slowdown else f"{100 * slowdown:g} % slower",
            *(f"{100 * found[name] / repeats:.1f} %" for name in RULES),
            f"{100 * found['REGRESSED'] / repeats:.1f} ({100 * found['INCONCLUSIVE'] / repeats:.1f})",
            f"{found['trials'] / repeats:.1f}",
        )
        for (spread, slowdown), found in zip(lines, counters, strict=True)
    ]  # fmt: skip
    header = ("spread between processes' ratios", "head", *RULES, "gate: REGRESSED (INCONCLUSIVE)", "its trials")
    return f"{table(rows, header)}\n\n{repeats:,} comparisons a line, seed {seed}."


def kept(paths: Sequence[Path], seed: int) -> str:
    """How often each rule calls a kept gate's head slower, given the base of a trial and the head of the next.

    Files that are named alike but for a number at the end, as `bench/gate_real.py` names them, are one line.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for kind, files in itertools.groupby(sorted(paths), lambda path: re.sub(r"-\d+$", "", path.stem)):
        raws = [rawfile.read(path) for path in files]
        verdicts = Counter(
            finding.verdict for raw in raws for finding in judge(raw, today=datetime.now(UTC).date()).findings
        )
        pairs = [
            (np.array(before.base), np.array(after.head))
            for raw in raws
            for series in raw.series
            for before, after in zip(series.trials, series.trials[1:], strict=False)
        ]
        shares = (sum(rule(*pair, rng) for pair in pairs) / max(1, len(pairs)) for rule in RULES.values())
        said = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
        rows.append((kind, f"{len(raws)}", f"{len(pairs)}", *(f"{100 * share:.1f} %" for share in shares), said))
    return table(rows, ("gate", "n", "pairs of runs", *RULES, "the gate's findings"))


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="raw numbers of gates; without any, a machine is simulated")
    parser.add_argument("--repeats", type=int, default=1000, help="comparisons a line (1000)")
    parser.add_argument("--seed", type=int, default=1, help="of all random numbers (1)")
    parser.add_argument("--processes", type=int, default=2, help="that work at once (2)")
    options = parser.parse_args()
    if options.files:
        print(kept(options.files, options.seed))
    else:
        print(simulated(options.repeats, options.seed, options.processes))


if __name__ == "__main__":
    main()
