"""Which classes of Fashion-MNIST a case tells apart."""

from dataclasses import dataclass

from fashiontl.errors import FashiontlError, unknown_name

# In the order of the labels; the spelling is torchvision's, which is that of the data set's authors.
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True)
class Task:
    """Some classes of Fashion-MNIST.

    Attributes:
        name: what the command line and a case's id say.
        title: for people.
        classes: labels in the data set, at least two; their order here is the order of the network's outputs.

    Raises:
        FashiontlError: the classes are fewer than two, repeated, or not labels of the data set.
    """

    name: str
    title: str
    classes: tuple[int, ...]

    def __post_init__(self) -> None:
        known = range(len(CLASS_NAMES))
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2 or set(self.classes) - set(known):
            raise FashiontlError(
                f"task {self.name}: expected two or more different classes from 0 to {known[-1]}, got {self.classes}"
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the network's outputs."""
        return tuple(CLASS_NAMES[label] for label in self.classes)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("fashion10", "all ten classes of Fashion-MNIST", tuple(range(10))),
        Task("fashion4", "the first four classes: T-shirt/top, trouser, pullover, dress", (0, 1, 2, 3)),
        Task("fashion6", "the other six classes, none of them in fashion4", (4, 5, 6, 7, 8, 9)),
    )
}


def find_task(name: str) -> Task:
    """The task of a name.

    Raises:
        FashiontlError: there is none.
    """
    if name not in TASKS:
        raise FashiontlError(unknown_name("task", name, TASKS))
    return TASKS[name]
