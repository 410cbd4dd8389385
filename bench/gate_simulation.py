"""How often the gate errs: its own judging code on simulated trials of unchanged, slowed and less accurate cells.

`python bench/gate_simulation.py` takes some minutes on two cores and prints Markdown. Nothing is timed, so it does not
mind a busy machine; the same seed gives the same tables.
"""

import argparse
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from fashiontl.core.stats import wilson
from fashiontl.gate.accuracy import judge_answers
from fashiontl.gate.limits import LIMITS
from fashiontl.gate.raw import Answers, SeedPair
from fashiontl.gate.sequential import CONFIRMATION, LOOKS, Decision, Evidence, decide, decide_all

LIMIT = LIMITS["latency"]
CELLS = 48
SPREADS = (0.008, 0.015, 0.026, 0.05)
PLANTED = (0.02, 0.05, 0.07, 0.10)

# Each has a median of 0 and, but for `outliers`, a standard deviation of 1.
SHAPES: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "normal": lambda rng, count: rng.standard_normal(count),
    "heavy tails": lambda rng, count: rng.standard_t(4, count) / math.sqrt(2),
    # Its quartiles are those of a standard normal distribution, its standard deviation is half as large again.
    "outliers": lambda rng, count: rng.standard_t(3, count) * (0.6745 / 0.7649),
    # Two processes that fall into one of two modes each, as with addresses of memory.
    "modes": lambda rng, count: (
        (rng.integers(0, 2, count) - rng.integers(0, 2, count)) * 1.2 + rng.standard_normal(count) * math.sqrt(0.28)
    ),
    # One arm is held up at times, and never sped up.
    "skewed": lambda rng, count: (rng.lognormal(0, 0.5, count) - 1) / 0.6039,
}


@dataclass(frozen=True)
class Setup:
    """One line of a table.

    Attributes:
        spread: standard deviation between an unchanged cell's trials, of logarithms.
        shape: a key of `SHAPES`.
        reference: standard deviation between the reference kernel's trials.
        planted: slowdowns, one a cell; the other cells are unchanged.
        cells: of a gate.
    """

    spread: float
    shape: str = "heavy tails"
    reference: float = 0.003
    planted: tuple[float, ...] = ()
    cells: int = CELLS


@dataclass
class Tally:
    """What happened in some gates.

    Attributes:
        gates: how many.
        failed: in how many an unchanged cell was said to have regressed.
        green: in how many of them all unchanged cells passed.
        verdicts: of unchanged cells under 0, of slowed ones under their slowdown.
        trials: taken, of unchanged cells.
    """

    gates: int
    failed: int
    green: int
    verdicts: dict[float, Counter[str]]
    trials: int

    def __add__(self, other: "Tally") -> "Tally":
        verdicts = {slowdown: self.verdicts[slowdown] + other.verdicts[slowdown] for slowdown in self.verdicts}
        return Tally(
            self.gates + other.gates, self.failed + other.failed, self.green + other.green, verdicts,
            self.trials + other.trials,
        )  # fmt: skip

    def share(self, slowdown: float, verdict: str) -> float:
        """Of the cells with a slowdown, how many got a verdict."""
        return self.verdicts[slowdown][verdict] / self.verdicts[slowdown].total()


def take_epochs(setup: Setup, slowdown: float, rng: np.random.Generator) -> Evidence:
    """The trials of a cell, for as long as the gate asks for more."""

    def draw(count: int) -> tuple[float, ...]:
        return tuple((math.log1p(slowdown) + setup.spread * SHAPES[setup.shape](rng, count)).tolist())

    def reference(count: int) -> tuple[float, ...]:
        return tuple((setup.reference * rng.standard_normal(count)).tolist())

    evidence = Evidence()
    while True:
        action = decide(evidence, LIMIT).action
        taken = len(evidence.screen)
        if action == "screen":
            more = next(look for look in LOOKS if look > taken) - taken
            evidence = replace(
                evidence,
                screen=evidence.screen + draw(more),
                screen_reference=evidence.screen_reference + reference(more),
            )
        elif action == "confirm":
            evidence = replace(evidence, confirm=draw(CONFIRMATION), confirm_reference=reference(CONFIRMATION))
        else:
            return evidence


def simulate(setup: Setup, gates: int, seed: Sequence[int]) -> Tally:
    """Take and judge some gates."""
    rng = np.random.default_rng(seed)
    slowdowns = [*setup.planted, *[0.0] * (setup.cells - len(setup.planted))]
    tally = Tally(gates, 0, 0, {slowdown: Counter() for slowdown in slowdowns}, 0)
    for _ in range(gates):
        found = [take_epochs(setup, slowdown, rng) for slowdown in slowdowns]
        decisions = decide_all([(evidence, LIMIT) for evidence in found])
        unchanged = list(zip(slowdowns, found, decisions, strict=True))[len(setup.planted) :]
        tally.failed += any(decision.verdict == "REGRESSED" for _, _, decision in unchanged)
        tally.green += all(decision.verdict in {"PASS", "IMPROVED"} for _, _, decision in unchanged)
        tally.trials += sum(len(evidence.screen) + len(evidence.confirm) for _, evidence, _ in unchanged)
        count_verdicts(tally, slowdowns, decisions)
    return tally


def count_verdicts(tally: Tally, slowdowns: Sequence[float], decisions: Sequence[Decision]) -> None:
    for slowdown, decision in zip(slowdowns, decisions, strict=True):
        tally.verdicts[slowdown][decision.verdict] += 1


def simulate_all(setups: Sequence[Setup], gates: int, seed: int, processes: int) -> list[Tally]:
    """The tallies of several lines, in pieces that processes share; how many there are changes no number."""
    piece = 50
    jobs = [
        (line, min(piece, gates - start), (seed, line, start))
        for line in range(len(setups))
        for start in range(0, gates, piece)
    ]
    totals: list[Tally | None] = [None] * len(setups)
    with ProcessPoolExecutor(processes) as pool:
        tallies = pool.map(
            simulate, [setups[job[0]] for job in jobs], [job[1] for job in jobs], [job[2] for job in jobs]
        )
        for (line, *_), tally in zip(jobs, tallies, strict=True):
            before = totals[line]
            totals[line] = tally if before is None else before + tally
    return [total for total in totals if total is not None]


def main_table(gates: int, seed: int, processes: int) -> str:
    """False alarms and power by the spread between trials."""
    unchanged = simulate_all([Setup(spread) for spread in SPREADS], 2 * gates, seed, processes)
    slowed = simulate_all([Setup(spread, planted=PLANTED) for spread in SPREADS], gates, seed + 1, processes)
    rows = [
        (
            f"{100 * spread:.1f} %", alarms(still), f"{100 * still.green / still.gates:.1f} %",
            f"{100 * moved.share(0.02, 'REGRESSED'):.1f} %",
            *(
                f"{100 * moved.share(slowdown, 'REGRESSED'):.1f} ({100 * moved.share(slowdown, 'INCONCLUSIVE'):.1f})"
                for slowdown in PLANTED[1:]
            ),
            f"{100 * moved.share(0.05, 'PASS'):.1f} %", f"{still.trials / still.gates / CELLS:.1f}",
        )
        for spread, still, moved in zip(SPREADS, unchanged, slowed, strict=True)
    ]  # fmt: skip
    header = (
        "spread between trials", "unchanged gates that fail", "that pass whole", "2 % slower: alarms",
        "5 % slower: found (inconclusive)", "7 %", "10 %", "5 % slower: false PASS", "trials a cell",
    )  # fmt: skip
    note = f"{2 * gates:,} unchanged gates and {gates:,} with one cell of each slowdown, seed {seed}."
    return f"{table(rows, header)}\n\n{note}"


def shape_table(gates: int, seed: int, processes: int) -> str:
    """The same at one spread by the shape of what trials are drawn from."""
    setups = [Setup(0.026, shape, planted=PLANTED) for shape in SHAPES]
    rows = [
        (
            setup.shape, alarms(tally), f"{100 * tally.share(0.02, 'REGRESSED'):.1f} %",
            f"{100 * tally.share(0.05, 'REGRESSED'):.1f} ({100 * tally.share(0.05, 'INCONCLUSIVE'):.1f})",
            f"{100 * tally.share(0.05, 'PASS'):.1f} %", f"{tally.trials / tally.gates / (CELLS - len(PLANTED)):.1f}",
        )
        for setup, tally in zip(setups, simulate_all(setups, gates, seed, processes), strict=True)
    ]  # fmt: skip
    header = (
        "shape", "gates whose unchanged cells fail", "2 % slower: alarms", "5 % slower: found (inconclusive)",
        "5 % slower: false PASS", "trials a cell",
    )  # fmt: skip
    return f"{table(rows, header)}\n\n{gates:,} gates a line, seed {seed}."


def reference_table(gates: int, seed: int, processes: int) -> str:
    """What a reference kernel that does not repeat itself costs."""
    setups = [Setup(0.015, reference=reference, planted=(0.05,)) for reference in (0.003, 0.006, 0.01, 0.02, 0.04)]
    rows = [
        (
            f"{100 * setup.reference:.1f} %", f"{100 * tally.share(0.0, 'INCONCLUSIVE'):.1f} %",
            f"{100 * tally.share(0.05, 'REGRESSED'):.1f} ({100 * tally.share(0.05, 'INCONCLUSIVE'):.1f})",
            f"{tally.trials / tally.gates / (CELLS - 1):.1f}",
        )
        for setup, tally in zip(setups, simulate_all(setups, gates, seed, processes), strict=True)
    ]  # fmt: skip
    header = (
        "reference kernel's spread", "unchanged cells inconclusive", "5 % slower: found (inconclusive)",
        "trials a cell",
    )  # fmt: skip
    return f"{table(rows, header)}\n\n{gates:,} gates a line, seed {seed}."


def alarms(tally: Tally) -> str:
    """How many gates falsely failed, with the upper bound of a 95 % interval."""
    return f"{tally.failed} of {tally.gates:,} (≤ {100 * wilson(tally.failed, tally.gates).high:.2f} %)"


def accuracy_table(repeats: int, seed: int, processes: int) -> str:
    """Losses of accuracy between networks that were trained apart."""
    losses = (0.0, 0.001, 0.003, 0.005, 0.01)
    pieces = [(loss, start) for loss in losses for start in range(0, repeats, 20)]
    verdicts: dict[float, Counter[str]] = {loss: Counter() for loss in losses}
    with ProcessPoolExecutor(processes) as pool:
        counters = pool.map(
            accuracy_verdicts, *zip(*[(loss, 20, (seed, i)) for i, (loss, _) in enumerate(pieces)], strict=True)
        )
        for (loss, _), counter in zip(pieces, counters, strict=True):
            verdicts[loss] += counter
    rows = [
        (
            f"{100 * loss:g} points",
            *(f"{100 * verdicts[loss][verdict] / verdicts[loss].total():.1f} %" for verdict in order),
        )
        for order in [("PASS", "INCONCLUSIVE", "REGRESSED", "IMPROVED")]
        for loss in losses
    ]
    counted = verdicts[0.0].total()
    return (
        f"{table(rows, ('loss', 'PASS', 'INCONCLUSIVE', 'REGRESSED', 'IMPROVED'))}\n\n{counted:,} a line, seed {seed}."
    )


def accuracy_verdicts(loss: float, repeats: int, seed: Sequence[int], images: int = 10_000) -> Counter[str]:
    """Judge some pairs of five seeds, alone in their gates."""
    rng = np.random.default_rng(seed)
    return Counter(
        judge_answers([trained(loss, rng, images)], LIMITS["accuracy"])[0].verdict for _ in range(repeats)
    )  # fmt: skip


def trained(loss: float, rng: np.random.Generator, images: int) -> Answers:
    """Five seeds of both arms, 9 % of whose answers are wrong; the head errs on more images at random.

    An image is as hard for all. Two trainings disagree about 6 % of the images, as those of Fashion-MNIST do.
    """
    hard = rng.beta(0.0485, 0.49, images)
    harder = hard + (1 - hard) * loss / 0.91

    def right(chance: NDArray[np.float64]) -> str:
        return "".join(np.where(rng.random(images) < chance, "0", "1").tolist())

    pairs = []
    for number in range(LIMITS["accuracy"].repeats):
        base, head = right(hard), right(harder)
        hashes = [hashlib.sha256(f"{number} {answers}".encode()).hexdigest() for answers in (base, head)]
        pairs.append(SeedPair(number, *hashes, base, head, *hashes))
    return Answers("cell", tuple(pairs))


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    right = ["right"] * (len(header) - 1)
    return tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True, colalign=("left", *right))


def sections(gates: int, seed: int, processes: int) -> Iterator[str]:
    """The page, part by part."""
    yield f"## {CELLS} cells, heavy tails\n\n{main_table(gates, seed, processes)}"
    yield f"## Other shapes, spread 2.6 %\n\n{shape_table(gates // 3, seed + 10, processes)}"
    yield f"## A noisy reference kernel, spread 1.5 %\n\n{reference_table(gates // 10, seed + 20, processes)}"
    yield f"## Accuracy, 5 seeds, 10,000 test images\n\n{accuracy_table(gates // 4, seed + 30, processes)}"


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--gates", type=int, default=1500, help="gates a line with slowdowns; twice as many without (1500)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of all random numbers (1)")
    parser.add_argument("--processes", type=int, default=2, help="that work at once (2)")
    options = parser.parse_args()
    for section in sections(options.gates, options.seed, options.processes):
        print(section, end="\n\n", flush=True)


if __name__ == "__main__":
    main()
