import subprocess
import sys

import pytest

from fashiontl.data import TASKS, Task
from fashiontl.data.tasks import CLASS_NAMES
from fashiontl.errors import FashiontlError


def test_the_tasks():
    assert {name: task.classes for name, task in TASKS.items()} == {
        "fashion10": tuple(range(10)),
        "fashion4": (0, 1, 2, 3),
        "fashion6": (4, 5, 6, 7, 8, 9),
    }
    assert TASKS["fashion4"].class_names == ("T-shirt/top", "Trouser", "Pullover", "Dress")
    assert all(task.name == name for name, task in TASKS.items())


def test_the_source_task_shares_no_class_with_the_target_task():
    assert not set(TASKS["fashion4"].classes) & set(TASKS["fashion6"].classes)


def test_class_names_follow_the_order_of_the_classes():
    assert Task("shoes", "two kinds of shoes", (9, 5)).class_names == ("Ankle boot", "Sandal")


def test_class_names_are_those_of_torchvision():
    from fashiontl.vision import torchvision

    assert list(CLASS_NAMES) == torchvision.datasets.FashionMNIST.classes


@pytest.mark.parametrize("classes", [(), (1,), (1, 1, 2), (0, 10), (-1, 0)])
def test_bad_classes(classes):
    with pytest.raises(FashiontlError) as error:
        Task("mine", "a task", classes)
    assert str(error.value) == f"task mine: expected two or more different classes from 0 to 9, got {classes}"


@pytest.mark.parametrize(
    ("module", "absent"),
    [("fashiontl.data", ("torch", "numpy")), ("fashiontl.data.sources", ("torch",))],
)
def test_import_is_light(module, absent):
    code = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
