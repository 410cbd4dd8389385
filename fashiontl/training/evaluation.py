"""Accuracy, confusion, loss and calibration of a network's answers on test images."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fashiontl.core.accuracy import packed

_BINS = 15  # as in Guo et al., ICML 2017


@dataclass(frozen=True)
class Evaluation:
    """Answers to test images, judged.

    Attributes:
        accuracy: fraction right.
        confusion: images of each true class (row) by answered class (column).
        loss: mean cross-entropy in nats, without label smoothing.
        calibration_error: expected calibration error: the mean gap between confidence and accuracy over 15 bins of
            equal width, weighted by their images (Guo et al., "On calibration of modern neural networks", ICML 2017).
        right: which images were, as `fashiontl.core.accuracy.packed` writes it: cells are compared image by image.
    """

    accuracy: float
    confusion: tuple[tuple[int, ...], ...]
    loss: float
    calibration_error: float
    right: str


def evaluate(logits: Tensor, labels: Tensor) -> Evaluation:
    """Judge answers: logits, float32 `[n, classes]` with n > 0, against labels, int64 `[n]`."""
    count, classes = logits.shape
    confidence, answer = logits.softmax(1).max(1)
    right = (answer == labels).double()
    pairs = torch.bincount(labels * classes + answer, minlength=classes**2).view(classes, classes)
    bins = (confidence * _BINS).ceil().long().clamp(1, _BINS) - 1
    gaps = torch.zeros(_BINS, dtype=torch.float64).index_add_(0, bins, confidence.double() - right)
    return Evaluation(
        accuracy=right.sum().item() / count,
        confusion=tuple(tuple(row) for row in pairs.tolist()),
        loss=functional.cross_entropy(logits, labels).item(),
        calibration_error=gaps.abs().sum().item() / count,
        right=packed("".join("1" if each else "0" for each in right.tolist())),
    )
