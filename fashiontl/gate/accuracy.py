"""Judging accuracy: the same seeds in both arms, answer by answer. No torch."""

from collections.abc import Sequence
from statistics import NormalDist, fmean

from fashiontl.core.stats import Interval
from fashiontl.gate.comparison import clustered_interval, holm_levels, mcnemar
from fashiontl.gate.limits import Limit
from fashiontl.gate.raw import Answers, SeedPair
from fashiontl.gate.result import Finding, Verdict
from fashiontl.gate.sequential import ALPHA


def judge_answers(answers: Sequence[Answers], limit: Limit, asked: int = 0) -> list[Finding]:
    """The findings of all cells, in their order.

    Cells whose answers differ share alpha by Holm's step-down, one family for losses and one for gains: another order
    of summing changes the answers of every cell at once, and none of them is worse for it.

    `asked` seeds were to be trained where answers differ.
    """
    wanted = max(limit.repeats, asked)
    findings: dict[int, Finding] = {}
    losses: dict[int, list[list[int]]] = {}
    for index, cell in enumerate(answers):
        if error := _error(cell):
            findings[index] = Finding(cell.cell, "accuracy", "CRASHED", error)
        elif all(_identical(pair) for pair in cell.seeds) and not 1 < len(cell.seeds) < wanted:
            # The first seed tells whether the others are needed, so some but not all of them are what is left of more.
            reason = f"weights and answers are identical in all of {len(cell.seeds)} seeds"
            findings[index] = _finding(cell, "PASS", reason, None)
        elif len(cell.seeds) < wanted:
            reason = f"expected {wanted} seeds or more, or 1 whose answers are identical, got {len(cell.seeds)}"
            findings[index] = _finding(cell, "INCONCLUSIVE", reason, None)
        else:
            losses[index] = [_losses(pair) for pair in cell.seeds]
    bounds = {index: clustered_interval(seeds, 1 - 2 * ALPHA) for index, seeds in losses.items()}
    worse = holm_levels([_chance(loss, limit) for loss in bounds.values()], ALPHA)
    better = holm_levels(
        [_chance(Interval(-loss.estimate, -loss.high, -loss.low), limit) for loss in bounds.values()], ALPHA
    )
    for index, lower, upper in zip(losses, worse, better, strict=True):
        findings[index] = _judge(answers[index], losses[index], limit, lower, upper)
    return [findings[index] for index in range(len(answers))]


def _judge(cell: Answers, losses: list[list[int]], limit: Limit, worse: float, better: float) -> Finding:
    """One cell whose answers differ; the levels are those of its tests for a loss and for a gain."""
    signs = {(total > 0) - (total < 0) for total in map(sum, losses)}
    # Each seed's exact test, for the reader.
    chances = [f"p={mcnemar(seed.count(1), seed.count(-1)):.2g}" for seed in losses]
    seeds = f"{len(losses)} seeds, McNemar {' '.join(chances)}"
    loss = clustered_interval(losses, 1 - 2 * worse)
    if loss.low > limit.tolerated and signs == {1}:
        return _finding(cell, "REGRESSED", f"{_text(loss)}, a loss in each of {seeds}", loss)
    gain = clustered_interval(losses, 1 - 2 * better)
    if gain.high < -limit.tolerated and signs == {-1}:
        return _finding(cell, "IMPROVED", f"{_text(gain)}, a gain in each of {seeds}", gain)
    bounds = clustered_interval(losses, 1 - 2 * ALPHA)
    if bounds.high < limit.detect:
        reason = f"{_text(bounds)}, a loss of less than {100 * limit.detect:g} points in {seeds}"
        return _finding(cell, "PASS", reason, bounds)
    agreement = "" if len(signs) == 1 else ", and the seeds disagree in sign"
    return _finding(cell, "INCONCLUSIVE", f"{_text(bounds)} settles nothing{agreement}: {seeds}", bounds)


def _error(cell: Answers) -> str:
    """Why seeds cannot be compared; empty where they can."""
    seeds = cell.seeds
    if not seeds or len({pair.seed for pair in seeds}) < len(seeds):
        return "expected one paired seed or more, each once"
    lengths = {len(right) for pair in seeds for right in (pair.right_base, pair.right_head)}
    if len(lengths) > 1 or min(lengths) < 2:
        return f"expected answers to the same images, two or more, in both arms and all seeds, got {sorted(lengths)}"
    if cell.images and lengths != {cell.images}:
        return f"expected answers to {cell.images} images, got {min(lengths)}"
    if any(set(pair.right_base + pair.right_head) - {"0", "1"} for pair in seeds):
        return "expected answers as 0 and 1"
    if any(pair.answers_base == pair.answers_head and pair.right_base != pair.right_head for pair in seeds):
        return "the same answers were right in one arm and wrong in the other: the test images differ"
    return ""


def _identical(pair: SeedPair) -> bool:
    """Whether both arms trained to the same bits, and say so: no hash proves nothing."""
    weights, answers = pair.weights_base == pair.weights_head, pair.answers_base == pair.answers_head
    return weights and answers and bool(pair.weights_base and pair.answers_base)


def _losses(pair: SeedPair) -> list[int]:
    """For each image 1 where only the base was right, -1 where only the head was, and 0."""
    return [int(before) - int(after) for before, after in zip(pair.right_base, pair.right_head, strict=True)]


def _chance(bounds: Interval, limit: Limit) -> float:
    """One-sided p-value of a loss beyond what is tolerated, from bounds at alpha on either side."""
    error = (bounds.high - bounds.estimate) / NormalDist().inv_cdf(1 - ALPHA)
    return 1 - NormalDist().cdf((bounds.estimate - limit.tolerated) / error)


def _finding(cell: Answers, verdict: Verdict, reason: str, loss: Interval | None) -> Finding:
    base, head = (
        fmean(right.count("1") / len(right) for right in arm)
        for arm in ([pair.right_base for pair in cell.seeds], [pair.right_head for pair in cell.seeds])
    )
    return Finding(cell.cell, "accuracy", verdict, reason, base, head, loss)


def _text(loss: Interval) -> str:
    """The head's accuracy less the base's, in percentage points."""
    return f"{-100 * loss.estimate:+.2f} points ({-100 * loss.high:+.2f} to {-100 * loss.low:+.2f})"
