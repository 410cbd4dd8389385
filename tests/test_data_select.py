import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fashiontl.core.errors import FashiontlError
from fashiontl.data import TASKS, Task
from fashiontl.data.select import select
from fashiontl.data.sources import Images


def numbered(labels):
    """Images whose pixels all hold the image's index."""
    indices = torch.arange(len(labels), dtype=torch.uint8)
    return indices[:, None, None].repeat(1, 28, 28), torch.tensor(labels)


# 12 training and 6 test images of each class, shuffled alike each time.
TRAIN, TRAIN_LABELS = numbered([(7 * i) % 10 for i in range(120)])
TEST, TEST_LABELS = numbered([(3 * i) % 10 for i in range(60)])
IMAGES = Images(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, "made up", "")


def indices(images):
    return images[:, 0, 0].tolist()


@settings(max_examples=30)
@given(
    classes=st.lists(st.integers(0, 9), min_size=2, max_size=10, unique=True),
    train_per_class=st.integers(0, 12),
    test_per_class=st.integers(0, 6),
    seed=st.integers(0, 5),
)
def test_every_selection_is_stratified_and_labelled_rightly(classes, train_per_class, test_per_class, seed):
    data = select(IMAGES, Task("mine", "", tuple(classes)), train_per_class, test_per_class, seed)
    for images, labels, source_labels, per_class in (
        (data.train_images, data.train_labels, TRAIN_LABELS, train_per_class or 12),
        (data.test_images, data.test_labels, TEST_LABELS, test_per_class or 6),
    ):
        chosen = indices(images)
        assert chosen == sorted(set(chosen))
        assert torch.bincount(labels).tolist() == [per_class] * len(classes)
        assert [classes[label] for label in labels] == source_labels[chosen].tolist()


def test_the_same_seed_draws_the_same_and_another_seed_does_not():
    drawn = [indices(select(IMAGES, TASKS["fashion4"], 5, 2, seed).train_images) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_draw_does_not_depend_on_the_other_classes_of_the_task():
    alone = select(IMAGES, TASKS["fashion4"], 5, 2, seed=3)
    among_all = select(IMAGES, TASKS["fashion10"], 5, 2, seed=3)
    of_task = torch.isin(among_all.train_labels, torch.arange(4))
    assert indices(alone.train_images) == indices(among_all.train_images[of_task])


def test_a_smaller_draw_is_part_of_a_larger_one():
    small, large = (set(indices(select(IMAGES, TASKS["fashion4"], n, 2, 0).train_images)) for n in (3, 7))
    assert small < large


@pytest.mark.parametrize("seed", [0, 1])
def test_test_images_are_the_first_of_each_class_whatever_the_seed(seed):
    data = select(IMAGES, TASKS["fashion4"], 1, 2, seed)
    assert indices(data.test_images) == [0, 1, 4, 7, 10, 11, 14, 17]
    assert data.test_labels.tolist() == [0, 3, 2, 1, 0, 3, 2, 1]


def test_more_than_there_is():
    images = Images(TRAIN, TRAIN_LABELS, TEST[:15], TEST_LABELS[:15], "made up", "")
    with pytest.raises(FashiontlError) as error:
        select(images, Task("mine", "", (0, 3, 5)), 13, 2, seed=0)
    assert str(error.value) == (
        "expected 13 training images of T-shirt/top, got 12\n"
        "expected 13 training images of Dress, got 12\n"
        "expected 13 training images of Sandal, got 12\n"
        "expected 2 test images of Sandal, got 1\n"
        "ask for fewer, for all (0), or take the original set (--set data=original)"
    )


def drawn_before_there_was_validation(labels, classes, per_class, seed):
    """Indices as every record up to schema 1 of version 0.1.0 drew them."""
    chosen = []
    for label in classes:
        members = torch.nonzero(labels == label).flatten()
        generator = torch.Generator().manual_seed(10 * seed + label)
        chosen.append(members[torch.randperm(len(members), generator=generator)][: per_class or None])
    return torch.cat(chosen).sort().values.tolist()


@settings(max_examples=30)
@given(
    classes=st.lists(st.integers(0, 9), min_size=2, max_size=10, unique=True),
    per_class=st.integers(0, 12),
    seed=st.integers(0, 50),
)
def test_without_validation_the_draw_is_that_of_older_records(classes, per_class, seed):
    data = select(IMAGES, Task("mine", "", tuple(classes)), per_class, 2, seed)
    assert indices(data.train_images) == drawn_before_there_was_validation(TRAIN_LABELS, classes, per_class, seed)
    assert data.validation_images.shape == (0, 28, 28)
    assert data.validation_labels.tolist() == []


@settings(max_examples=30)
@given(
    classes=st.lists(st.integers(0, 9), min_size=2, max_size=10, unique=True),
    train_per_class=st.integers(0, 7),
    validation_per_class=st.integers(1, 5),
    seed=st.integers(0, 50),
)
def test_validation_is_stratified_disjoint_and_the_same_for_all_seeds(
    classes, train_per_class, validation_per_class, seed
):
    task = Task("mine", "", tuple(classes))
    first, data = (select(IMAGES, task, train_per_class, 2, s, validation_per_class) for s in (0, seed))
    validation, train = indices(data.validation_images), indices(data.train_images)
    assert validation == sorted(set(validation)) == indices(first.validation_images)
    assert not set(validation) & set(train)
    assert torch.bincount(data.validation_labels).tolist() == [validation_per_class] * len(classes)
    assert torch.bincount(data.train_labels).tolist() == [train_per_class or 12 - validation_per_class] * len(classes)
    assert [classes[label] for label in data.validation_labels] == TRAIN_LABELS[validation].tolist()


def test_too_much_for_training_and_validation_together():
    with pytest.raises(FashiontlError) as error:
        select(IMAGES, Task("mine", "", (0, 3)), 10, 2, 0, 3)
    assert str(error.value) == (
        "expected 13 training images of T-shirt/top (3 of them for validation), got 12\n"
        "expected 13 training images of Dress (3 of them for validation), got 12\n"
        "ask for fewer, for all (0), or take the original set (--set data=original)"
    )


def test_classes_of_ones_own():
    names = tuple(f"class {number}" for number in range(12))
    pixels, labels = numbered([number % 12 for number in range(48)])
    colour = pixels[:, None].expand(-1, 3, -1, -1)
    images = Images(colour, labels, colour, labels, "mine")
    task = Task("mine", "", (11, 0), names=names, images=lambda size: images)
    data = select(images, task, 2, 1, seed=1)
    assert data.class_names == ("class 11", "class 0")
    assert data.train_images.shape == (4, 3, 28, 28)
    assert data.train_labels.tolist().count(0) == 2
    assert data.test_labels.tolist() == [1, 0]
    with pytest.raises(FashiontlError, match=r"(?s)5 training images of class 11, got 4.*, or add images$"):
        select(images, task, 5, 1, seed=1)
