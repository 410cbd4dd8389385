"""The images of one task, drawn from a whole set."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fashiontl.data.sources import Images
from fashiontl.data.tasks import CLASS_NAMES, Task
from fashiontl.errors import FashiontlError


@dataclass(frozen=True, eq=False)
class TaskData:
    """What a case trains and tests on.

    Attributes:
        train_images: uint8 [n, 28, 28].
        train_labels: int64 [n], from 0 to the number of classes less one.
        test_images: uint8 [m, 28, 28].
        test_labels: int64 [m].
        class_names: by label.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]


def select(images: Images, task: Task, train_per_class: int, test_per_class: int, seed: int) -> TaskData:
    """Take the images of a task, equally many of each class, in the order of the set.

    The draw of a class depends on the seed and the class alone: the same images are drawn for every task, and a
    smaller draw is part of a larger one. Test images do not depend on the seed, so that cases and seeds are paired.

    Args:
        images: the whole set.
        task: which classes, in which order.
        train_per_class: training images of each class, drawn with the seed; 0 takes all.
        test_per_class: test images of each class, the first in the set; 0 takes all.
        seed: of the draw.

    Raises:
        FashiontlError: more images are asked for than the set has, or fewer than none.
    """
    faults = [
        *_count_faults("training", images.train_labels, task, train_per_class),
        *_count_faults("test", images.test_labels, task, test_per_class),
    ]
    if faults:
        faults.append("ask for fewer, for all (0), or take the original set (--set data=original)")
        raise FashiontlError("\n".join(faults))
    train = _indices(images.train_labels, task, train_per_class, seed)
    test = _indices(images.test_labels, task, test_per_class, None)
    new_label = torch.full((len(CLASS_NAMES),), -1)
    new_label[list(task.classes)] = torch.arange(len(task.classes))
    return TaskData(
        images.train_images[train],
        new_label[images.train_labels[train]],
        images.test_images[test],
        new_label[images.test_labels[test]],
        task.class_names,
    )


def _count_faults(split: str, labels: Tensor, task: Task, per_class: int) -> list[str]:
    if per_class < 0:
        return [f"expected 0 or more {split} images a class, got {per_class}"]
    counts = torch.bincount(labels, minlength=len(CLASS_NAMES)).tolist()
    least = max(per_class, 1)
    return [
        f"expected {least} {split} images of {CLASS_NAMES[label]}, got {counts[label]}"
        for label in task.classes
        if counts[label] < least
    ]


def _indices(labels: Tensor, task: Task, per_class: int, seed: int | None) -> Tensor:
    """Indices of `per_class` (0: all) images of each class in the set's order; without a seed the first of each."""
    chosen = []
    for label in task.classes:
        members = torch.nonzero(labels == label).flatten()
        if seed is not None:
            generator = torch.Generator().manual_seed(len(CLASS_NAMES) * seed + label)
            members = members[torch.randperm(len(members), generator=generator)]
        chosen.append(members[: per_class or None])
    return torch.cat(chosen).sort().values
