"""The images of one task, drawn from a whole set."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fashiontl.core.errors import FashiontlError
from fashiontl.data.sources import Images
from fashiontl.data.tasks import Task


@dataclass(frozen=True, eq=False)
class TaskData:
    """What a case trains and tests on.

    Images are uint8, grey `[n, side, side]` or colour `[n, 3, side, side]`; labels int64 `[n]`, from 0 to the number of
    classes less one. Each split has its own n; that of validation may be 0.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]
    validation_images: Tensor
    validation_labels: Tensor


def select(
    images: Images, task: Task, train_per_class: int, test_per_class: int, seed: int, validation_per_class: int = 0
) -> TaskData:
    """Take the images of a task, equally many of each class, in the order of the set.

    The draw of a class depends on the seed and the class alone: the same images are drawn for every task, and a
    smaller draw is part of a larger one. Test and validation images do not depend on the seed, so that cases and seeds
    are paired. Validation images are set aside from the training images before anything else is drawn.

    Args:
        images: the whole set.
        task: which classes, in which order.
        train_per_class: drawn with the seed; 0 takes all but the validation images.
        test_per_class: the first in the set; 0 takes all.
        seed: at least 0.
        validation_per_class: drawn from the set's training images.

    Raises:
        FashiontlError: more images are asked for than the set has.
    """
    errors = [
        *_count_errors("training", images.train_labels, task, train_per_class, validation_per_class),
        *_count_errors("test", images.test_labels, task, test_per_class),
    ]
    if errors:
        more = "take the original set (--set data=original)" if task.images is None else "add images"
        errors.append(f"ask for fewer, for all (0), or {more}")
        raise FashiontlError("\n".join(errors))
    validation, train = [], []
    for label in task.classes:
        # A negative seed, so that no seed of a case draws the same order.
        indices = _shuffled((images.train_labels == label).nonzero().flatten(), -1 - label)
        validation.append(indices[:validation_per_class])
        rest = indices[validation_per_class:].sort().values
        train.append(_shuffled(rest, len(task.names) * seed + label)[: train_per_class or None])
    test = [(images.test_labels == label).nonzero().flatten()[: test_per_class or None] for label in task.classes]
    new_label = torch.full((len(task.names),), -1)
    new_label[list(task.classes)] = torch.arange(len(task.classes))

    def taken(all_images: Tensor, labels: Tensor, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
        chosen = torch.cat(parts).sort().values
        return all_images[chosen], new_label[labels[chosen]]

    return TaskData(
        *taken(images.train_images, images.train_labels, train),
        *taken(images.test_images, images.test_labels, test),
        task.class_names,
        *taken(images.train_images, images.train_labels, validation),
    )


def _count_errors(split: str, labels: Tensor, task: Task, per_class: int, validation: int = 0) -> list[str]:
    counts = torch.bincount(labels, minlength=len(task.names)).tolist()
    least = max(per_class, 1) + validation
    purpose = f" ({validation} of them for validation)" if validation else ""
    return [
        f"expected {least} {split} images of {task.names[label]}{purpose}, got {counts[label]}"
        for label in task.classes
        if counts[label] < least
    ]


def _shuffled(indices: Tensor, seed: int) -> Tensor:
    return indices[torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))]
