"""What networks answered on the test images beyond how many they had right, reduced from a record's provenance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fashiontl.core.stats import Interval
from fashiontl.reports.leaderboard.columns import accuracy_of

# No count of images comes near it, and beyond it a float is no longer exact.
_MOST_IMAGES = 2**53
_MOST_LOSS = 1e6


@dataclass(frozen=True, slots=True)
class Answers:
    """Means over seeds.

    Attributes:
        classes: fraction right of each class, in the order of the network's outputs; None where a class has no test
            image. Empty when unknown.
        loss: cross-entropy in nats; None when unknown. Its interval is open: the record holds no loss of each image.
        calibration_error: expected calibration error, from 0 to 1; as the loss.
    """

    classes: tuple[Interval | None, ...]
    loss: Interval | None
    calibration_error: Interval | None


def answers_of(provenance: Mapping[str, Any]) -> Answers | None:
    """Read `evaluation`, one dictionary a seed (`fashiontl.training.evaluation.Evaluation`); None when unknown.

    Old records lack it and foreign ones may hold anything; what cannot be read is unknown.
    """
    seeds = provenance.get("evaluation")
    if not isinstance(seeds, list | tuple) or not seeds or not all(isinstance(seed, dict) for seed in seeds):
        return None
    found = Answers(
        _classes([seed.get("confusion") for seed in seeds]),
        _mean([seed.get("loss") for seed in seeds], _MOST_LOSS),
        _mean([seed.get("calibration_error") for seed in seeds], 1),
    )
    return found if found != Answers((), None, None) else None


def _mean(values: Sequence[Any], most: float) -> Interval | None:
    if not all(type(value) in {int, float} and 0 <= value <= most for value in values):
        return None
    return Interval(fmean(values), -math.inf, math.inf)


def _classes(confusions: Sequence[Any]) -> tuple[Interval | None, ...]:
    if not all(map(_is_confusion, confusions)) or len(set(map(len, confusions))) > 1:
        return ()
    return tuple(_class([confusion[index] for confusion in confusions], index) for index in range(len(confusions[0])))


def _class(rows: Sequence[Sequence[int]], index: int) -> Interval | None:
    """One class from its row of each seed's confusion matrix."""
    images = [sum(row) for row in rows]
    if not all(images):
        return None
    return accuracy_of(tuple([row[index] / count for row, count in zip(rows, images, strict=True)]), min(images))


def _is_confusion(matrix: Any) -> bool:
    return (
        isinstance(matrix, list | tuple)
        and len(matrix) > 0
        and all(isinstance(row, list | tuple) and len(row) == len(matrix) for row in matrix)
        and all(type(count) is int and 0 <= count < _MOST_IMAGES for row in matrix for count in row)
    )
