"""Which classes a case tells apart, of Fashion-MNIST or of images of one's own, and from how many images."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fashiontl.core.errors import FashiontlError, brief, unknown_name

if TYPE_CHECKING:
    from fashiontl.data.sources import Images

# In the order of the labels; the spelling is torchvision's, which is that of the data set's authors.
CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True)
class Task:
    """Some classes of a data set.

    Attributes:
        name: on the command line and in a case's id.
        title: in reports.
        classes: labels in the data set, at least two; their order here is the order of the network's outputs. Empty
            takes all.
        names: of the data set's classes, in the order of its labels.
        images: loads a data set of one's own, given the side in pixels that cases use; a function, or one of the
            loaders in `fashiontl.data.image_folder`. None takes Fashion-MNIST.
        per_class: training images a class; 0 leaves it to the settings.

    Raises:
        FashiontlError: everything in which the fields are out of range or contradict each other.
    """

    name: str
    title: str
    classes: tuple[int, ...] = ()
    names: tuple[str, ...] = CLASS_NAMES
    images: "Callable[[int], Images] | None" = None
    per_class: int = 0

    def __post_init__(self) -> None:
        if not self.classes:
            object.__setattr__(self, "classes", tuple(range(len(self.names))))
        errors = []
        if self.images is None and self.names != CLASS_NAMES:
            errors.append("expected images that have these names, got none; say what loads them")
        if len(set(self.names)) != len(self.names) or len(self.names) < 2:
            errors.append(f"expected two or more different names of classes, got {self.names}")
        elif not 2 <= len(self.classes) == len(set(self.classes) & set(range(len(self.names)))):
            last = len(self.names) - 1
            errors.append(f"expected two or more different classes from 0 to {last}, got {self.classes}")
        if self.per_class < 0:
            errors.append(f"expected 0 or more training images a class, got {self.per_class}")
        if errors:
            raise FashiontlError("\n".join(f"task {self.name}: {error}" for error in errors))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the network's outputs."""
        return tuple(self.names[label] for label in self.classes)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("fashion10", "all ten classes of Fashion-MNIST", tuple(range(10))),
        Task("fashion4", "the first four classes: T-shirt/top, trouser, pullover, dress", (0, 1, 2, 3)),
        Task("fashion6", "the other six classes, none of them in fashion4", (4, 5, 6, 7, 8, 9)),
    )
}


def find_task(name: str) -> Task:
    """The task of a name; `fashion10@100` is `fashion10` with 100 training images a class.

    Raises:
        FashiontlError: there is no such task, or what follows `@` is no number of images.
    """
    base, at, count = name.partition("@")
    errors = [] if base in TASKS else [unknown_name("task", base, TASKS)]
    # Two spellings of one number would be two cases, and there are no ten million images.
    if at and not re.fullmatch("[1-9][0-9]{0,6}", count):
        errors.append(
            f"task {name}: expected at least 1 training image a class after @, got {brief(count)}; "
            f"write for example {base}@25"
        )
    if errors:
        raise FashiontlError("\n".join(errors))
    task = TASKS[base]
    if not at:
        return task
    return replace(task, name=name, title=f"{task.title}; {count} training images a class", per_class=int(count))
