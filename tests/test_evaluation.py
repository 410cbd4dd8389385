import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fashiontl.training.evaluation import evaluate


def test_a_hand_made_example() -> None:
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    result = evaluate(logits, torch.tensor([0, 1, 1, 1]))
    assert result.accuracy == 0.75
    assert result.confusion == ((1, 0), (1, 2))
    assert result.right == "b", "1011: all but the second"
    expected = [math.log1p(math.exp(-2)), math.log1p(math.exp(2)), math.log1p(math.exp(-1)), math.log1p(math.exp(-3))]
    assert result.loss == pytest.approx(sum(expected) / 4)
    sure = [1 / (1 + math.exp(-size)) for size in (2, 1, 3)]
    # Confidences 0.88 (two, one right), 0.73 (right) and 0.95 (right) fall into three bins.
    assert result.calibration_error == pytest.approx((abs(2 * sure[0] - 1) + 1 - sure[1] + 1 - sure[2]) / 4)


def test_certain_and_right_is_perfect() -> None:
    labels = torch.arange(10)
    result = evaluate(torch.eye(10) * 100, labels)
    assert (result.accuracy, result.calibration_error) == (1.0, pytest.approx(0.0, abs=1e-6))
    assert result.loss == pytest.approx(0.0, abs=1e-6)


@given(st.integers(1, 60), st.integers(2, 10), st.integers(0, 2**31))
def test_what_always_holds(count: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator) * 3
    labels = torch.randint(0, classes, (count,), generator=generator)
    result = evaluate(logits, labels)
    assert sum(map(sum, result.confusion)) == count
    assert sum(result.confusion[i][i] for i in range(classes)) == round(result.accuracy * count)
    assert [sum(row) for row in result.confusion] == torch.bincount(labels, minlength=classes).tolist()
    assert 0 <= result.calibration_error <= 1
    assert result.loss > 0
