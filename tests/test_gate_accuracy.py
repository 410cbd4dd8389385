from collections.abc import Sequence

import numpy as np
import pytest
from gate_raws import pair
from msgspec.structs import replace

from fashiontl.gate.accuracy import judge_answers
from fashiontl.gate.limits import LIMITS
from fashiontl.gate.raw import Answers, SeedPair
from fashiontl.gate.result import Finding

IMAGES = 2000


def judged(seeds: Sequence[SeedPair]) -> Finding:
    (finding,) = judge_answers([Answers("cell", tuple(seeds))], LIMITS["accuracy"])
    return finding


def answers(*, wrong_base: Sequence[int], wrong_head: Sequence[int], seed: int = 0) -> SeedPair:
    """One seed by the numbers of the images that each arm gets wrong."""
    base, head = (
        "".join("0" if number in set(wrong) else "1" for number in range(IMAGES)) for wrong in (wrong_base, wrong_head)
    )
    return pair(seed, base, head)


def test_identical_weights_and_answers_pass_at_once_however_few() -> None:
    finding = judged([pair(0)])
    assert (finding.verdict, finding.change, finding.base, finding.head) == ("PASS", None, 0.75, 0.75)
    assert "identical in all of 1 seeds" in finding.reason


def test_no_hash_proves_nothing() -> None:
    assert judged([replace(pair(0), weights_base="", weights_head="")]).verdict == "INCONCLUSIVE"


def test_other_weights_with_the_same_answers_pass_on_many_images_and_not_on_few() -> None:
    many = [replace(answers(wrong_base=[1], wrong_head=[1], seed=seed), weights_head="c3" * 32) for seed in range(5)]
    assert judged(many).verdict == "PASS"
    few = [replace(pair(seed, "1101", "1101"), weights_head="c3" * 32) for seed in range(5)]
    assert judged(few).verdict == "INCONCLUSIVE"


def test_a_loss_in_each_seed_regresses() -> None:
    seeds = [answers(wrong_base=range(100), wrong_head=range(120 + seed), seed=seed) for seed in range(5)]
    finding = judged(seeds)
    assert finding.verdict == "REGRESSED"
    assert finding.change is not None
    assert finding.change.estimate == pytest.approx(22 / IMAGES)
    assert finding.change.low > 0.001
    assert finding.base == pytest.approx(0.95)
    assert "-1.10 points" in finding.reason
    assert finding.reason.count("p=") == 5


def test_a_loss_in_four_of_five_seeds_is_no_regression() -> None:
    seeds = [answers(wrong_base=range(100), wrong_head=range(140), seed=seed) for seed in range(4)]
    finding = judged([*seeds, answers(wrong_base=range(101), wrong_head=range(100), seed=4)])
    assert finding.verdict == "INCONCLUSIVE"
    assert "disagree in sign" in finding.reason


def test_many_cells_share_alpha() -> None:
    """Five images of 2,000 in each seed are a loss when asked of one cell, and may be chance among twenty."""
    limit = LIMITS["accuracy"]
    weak = [answers(wrong_base=range(100), wrong_head=range(109), seed=seed) for seed in range(5)]
    alone = judge_answers([Answers("a", tuple(weak))], limit)[0]
    assert alone.verdict == "REGRESSED"
    same = [answers(wrong_base=[*range(100)], wrong_head=[*range(1, 101)], seed=seed) for seed in range(5)]
    others = [Answers(f"other {number}", tuple(same)) for number in range(20)]
    assert judge_answers([Answers("a", tuple(weak)), *others], limit)[0].verdict == "INCONCLUSIVE"
    identical = [Answers(f"identical {number}", (pair(0),)) for number in range(20)]
    assert judge_answers([Answers("a", tuple(weak)), *identical], limit)[0].verdict == "REGRESSED"


@pytest.mark.parametrize(
    ("seeds", "error"),
    [
        ([], "one paired seed or more"),
        ([pair(0), pair(0)], "each once"),
        ([replace(pair(0), right_head="110")], "[3, 4]"),
        ([pair(0), pair(1, "11", "11")], "[2, 4]"),
        ([pair(0, "", "")], "[0]"),
        ([pair(0, "1", "1")], "[1]"),
        ([pair(0, "11x1", "11x1")], "0 and 1"),
        ([replace(pair(0), right_head="1011")], "the test images differ"),
    ],
)
def test_answers_that_cannot_be_compared_crash(seeds: list[SeedPair], error: str) -> None:
    finding = judged(seeds) if seeds else judge_answers([Answers("cell", ())], LIMITS["accuracy"])[0]
    assert finding.verdict == "CRASHED"
    assert error in finding.reason


def test_swapping_the_arms_negates_and_exchanges() -> None:
    rng = np.random.default_rng(10)
    for shift in (0.0, 0.01, 0.03):
        texts = [
            ["".join(np.where(rng.random(500) < chance, "0", "1").tolist()) for chance in (0.1, 0.1 + shift)]
            for _ in range(5)
        ]
        there = judged([pair(seed, base, head) for seed, (base, head) in enumerate(texts)])
        back = judged([pair(seed, head, base) for seed, (base, head) in enumerate(texts)])
        assert (there.verdict == "REGRESSED") == (back.verdict == "IMPROVED")
        assert there.change is not None
        assert back.change is not None
        assert back.change.estimate == -there.change.estimate
