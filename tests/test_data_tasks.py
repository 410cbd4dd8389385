import subprocess
import sys

import pytest

from fashiontl.core.errors import FashiontlError
from fashiontl.data import TASKS, Task, find_task
from fashiontl.data.tasks import CLASS_NAMES


def test_the_tasks():
    assert {name: task.classes for name, task in TASKS.items()} == {
        "fashion10": tuple(range(10)),
        "fashion4": (0, 1, 2, 3),
        "fashion6": (4, 5, 6, 7, 8, 9),
    }
    assert TASKS["fashion4"].class_names == ("T-shirt/top", "Trouser", "Pullover", "Dress")
    assert all(task.name == name for name, task in TASKS.items())


def test_class_names_are_those_of_torchvision():
    from fashiontl.data.torchvision_import import torchvision

    assert list(CLASS_NAMES) == torchvision.datasets.FashionMNIST.classes


@pytest.mark.parametrize("classes", [(1,), (1, 1, 2), (0, 10), (-1, 0)])
def test_bad_classes(classes):
    with pytest.raises(FashiontlError) as error:
        Task("mine", "a task", classes)
    assert str(error.value) == f"task mine: expected two or more different classes from 0 to 9, got {classes}"


def test_a_task_of_ones_own_has_its_own_names_and_takes_all_classes_unless_told():
    assert Task("pets", "", names=("cat", "dog", "eel"), images=print).classes == (0, 1, 2)
    assert Task("pets", "", (2, 0), names=("cat", "dog", "eel"), images=print).class_names == ("eel", "cat")


def test_all_faults_of_a_task_are_told_at_once():
    with pytest.raises(FashiontlError) as error:
        Task("pets", "", names=("cat", "cat"), per_class=-1)
    assert str(error.value) == (
        "task pets: expected images that have these names, got none; say what loads them\n"
        "task pets: expected two or more different names of classes, got ('cat', 'cat')\n"
        "task pets: expected 0 or more training images a class, got -1"
    )


@pytest.mark.parametrize("count", ["0", "x", "-1", "", "1.5", "+5", "007", " 5", "5@6", "\u0665", "99999999"])
def test_bad_numbers_of_images(count):
    with pytest.raises(FashiontlError) as error:
        find_task(f"fashion4@{count}")
    assert str(error.value) == (
        f"task fashion4@{count}: expected at least 1 training image a class after @, got {count!r}; "
        "write for example fashion4@25"
    )


def test_an_unknown_task_with_a_bad_number_has_two_faults():
    with pytest.raises(FashiontlError) as error:
        find_task("fashion5@0")
    first, second = str(error.value).splitlines()
    assert first.startswith("unknown task 'fashion5'; did you mean fashion")
    assert second.startswith("task fashion5@0: expected at least 1 training image")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("fashiontl.data", ("torch", "numpy")),
        ("fashiontl.data.sources", ("torch",)),
        ("fashiontl.data.image_folder", ("torch",)),
    ],
)
def test_import_is_light(module, absent):
    code = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_a_few_shot_task():
    task = find_task("fashion4@25")
    assert (task.name, task.per_class, task.classes) == ("fashion4@25", 25, (0, 1, 2, 3))
    assert task.title == f"{TASKS['fashion4'].title}; 25 training images a class"
