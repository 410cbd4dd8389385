"""Images of one's own: folders, torchvision's data sets, functions."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fashiontl.core.errors import FashiontlError
from fashiontl.data import Task
from fashiontl.data.cut import write_idx
from fashiontl.data.image_folder import ImageFolder, TorchvisionDataset
from fashiontl.data.select import select
from fashiontl.data.sources import ORIGINAL_MD5, Images, load_task_images
from fashiontl.data.torchvision_import import torchvision

RED, BLUE = (200, 0, 0), (0, 0, 200)


def paint(path: Path, colour: object = RED, size: tuple[int, int] = (12, 8), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two images of each of two classes to train on, one to test on."""
    folder = tmp_path / "pets"
    for name, colour in (("cat", RED), ("dog", BLUE)):
        for file in ("train/{}/a.png", "train/{}/b.png", "test/{}/c.png"):
            paint(folder / file.format(name), colour)
    return folder


def task(folder: Path, names: tuple[str, ...] = ("cat", "dog")) -> Task:
    return Task("pets", "cats and dogs", names=names, images=ImageFolder(folder))


def load(one: Task, size: int = 8) -> Images:
    return load_task_images(one, "embedded", None, size)


def fault(one: Task) -> str:
    with pytest.raises(FashiontlError) as caught:
        load(one)
    return str(caught.value)


def test_a_folder_of_colour_images(pets: Path) -> None:
    images = load(task(pets))
    assert images.train_images.shape == (4, 3, 8, 8)
    assert images.test_images.shape == (2, 3, 8, 8)
    assert images.train_images.dtype == torch.uint8
    assert images.train_labels.tolist() == [0, 0, 1, 1]
    assert images.test_labels.tolist() == [0, 1]
    assert images.test_images[:, :, 3, 3].tolist() == [list(RED), list(BLUE)]
    assert images.source == "pets"
    data = select(images, task(pets), 1, 0, 0, validation_per_class=1)
    assert [len(part) for part in (data.train_images, data.validation_images, data.test_images)] == [2, 2, 2]


def test_the_hash_is_of_the_contents_and_not_of_the_place(pets: Path, tmp_path: Path) -> None:
    first = load(task(pets)).sha256
    moved = shutil.move(pets, tmp_path / "elsewhere")
    assert len(first) == 64
    assert load(task(moved)).sha256 == first
    paint(moved / "test/cat/c.png", BLUE)
    assert load(task(moved)).sha256 != first


def test_the_shorter_side_fits_and_the_middle_is_kept(pets: Path) -> None:
    # 60 x 20 with a green third in the middle.
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = (0, 250, 0)
    Image.fromarray(pixels).save(pets / "test/cat/c.png")
    [wide, _] = load(task(pets), 10).test_images
    assert wide.shape == (3, 10, 10)
    assert wide[1, :, 1:-1].unique().tolist() == [250]


def test_a_photo_is_turned_as_its_camera_says(pets: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated by 90 degrees counterclockwise
    (pets / "test/cat/c.png").unlink()
    Image.fromarray(pixels).save(pets / "test/cat/c.jpg", exif=exif, quality=100)
    [photo, _] = load(task(pets)).test_images
    # What was above is on the right.
    assert (photo[0, :, 4:] > 250).all()
    assert (photo[0, :, :4] < 5).all()


def test_images_are_grey_only_if_all_are(pets: Path) -> None:
    for path in pets.rglob("*.png"):
        paint(path, 77, mode="L")
    assert load(task(pets)).train_images.shape == (4, 8, 8)
    paint(pets / "test/dog/c.png", BLUE)
    images = load(task(pets))
    assert images.train_images.shape == (4, 3, 8, 8)
    assert images.train_images.unique().tolist() == [77]


def test_missing_folders(tmp_path: Path) -> None:
    for split, line in zip(("train", "test"), fault(task(tmp_path / "nowhere")).splitlines(), strict=True):
        assert line.startswith(f"{tmp_path}/nowhere/{split}: expected a folder of images for each class, got: ")


def test_classes_that_differ(pets: Path) -> None:
    paint(pets / "test/eel/c.png")
    assert fault(task(pets)) == (
        f"{pets}: expected the same two or more classes in train and test, got train: cat, dog; test: cat, dog, eel"
    )


def test_empty_classes(pets: Path) -> None:
    (pets / "train/dog/a.png").unlink()
    (pets / "train/dog/b.png").rename(pets / "train/dog/b.txt")
    (pets / "test/cat/c.png").unlink()
    first, second = fault(task(pets)).splitlines()
    assert first.startswith(f"{pets}/train: ")
    assert "the classes dog." in first
    assert "the classes cat." in second


def test_a_file_that_is_no_image_is_named(pets: Path) -> None:
    (pets / "train/dog/b.png").write_text("hello")
    assert fault(task(pets)) == (
        f"{pets}/train/dog/b.png: expected an image, got: cannot identify image file '{pets}/train/dog/b.png'; "
        "replace or remove it"
    )


def test_deep_pixels_are_refused(pets: Path) -> None:
    paint(pets / "train/dog/b.png", 60000, mode="I;16")
    assert "b.png: expected an image, got: pixels of more than 8 bits a channel" in fault(task(pets))


def test_names_that_are_not_the_folders(pets: Path) -> None:
    assert fault(task(pets, ("dog", "cat"))) == (
        "images of task pets: expected the classes dog, cat, got cat, dog; correct names"
    )


def test_all_faults_of_a_function_of_ones_own() -> None:
    images = Images(torch.zeros(2, 4, 4), torch.tensor([0, 2]), torch.zeros(2, 3, 4, 5).byte(), torch.zeros(3), "mine")
    assert fault(Task("mine", "", names=("a", "b"), images=lambda size: images)).splitlines() == [
        "images of task mine: expected training images, uint8 [n, side, side] or [n, 3, side, side], and labels, "
        "int64 [n], got torch.float32 [2, 4, 4] and torch.int64 [2]",
        "images of task mine: expected training labels from 0 to 1, got 0 to 2",
        "images of task mine: expected test images, uint8 [n, side, side] or [n, 3, side, side], and labels, "
        "int64 [n], got torch.uint8 [2, 3, 4, 5] and torch.float32 [3]",
    ]
    assert fault(Task("mine", "", names=("a", "b"), images=lambda size: None)) == (  # type: ignore[arg-type,return-value]
        "images of task mine: expected fashiontl.data.sources.Images, got NoneType"
    )


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A FashionMNIST of twenty training and ten test images, where torchvision looks for it."""
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for number, file in enumerate(ORIGINAL_MD5):
        count = 20 if number < 2 else 10
        labels = (np.arange(count) % 10).astype(np.uint8)
        write_idx(folder / f"{file}.gz", labels if "labels" in file else np.tile(labels[:, None, None], (28, 28)))
        torchvision.datasets.utils.extract_archive(str(folder / f"{file}.gz"))
    return tmp_path


def fashion(root: Path, **arguments: object) -> Task:
    from fashiontl.data.tasks import CLASS_NAMES

    dataset = TorchvisionDataset("FashionMNIST", root, **arguments)  # type: ignore[arg-type]
    return Task("again", "", names=CLASS_NAMES, images=dataset)


def test_a_data_set_of_torchvision(mnist: Path) -> None:
    images = load(fashion(mnist), 14)
    assert images.train_images.shape == (20, 14, 14)
    assert images.test_images[:, 5, 5].tolist() == images.test_labels.tolist() == list(range(10))
    assert images.source == "torchvision FashionMNIST"
    assert images.class_names[:2] == ("T-shirt/top", "Trouser")


def test_the_splits_of_a_data_set_may_be_named(mnist: Path) -> None:
    images = load(fashion(mnist, train={"train": False}, test={"train": True}))
    assert (len(images.train_labels), len(images.test_labels)) == (10, 20)
    assert "does not take {'split': 'all'}: " in fault(fashion(mnist, train={"split": "all"}))


def test_a_download_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    message = fault(fashion(tmp_path))
    assert message.startswith(f"torchvision's FashionMNIST is not in {tmp_path}, and its download failed: ")
    assert message.endswith("; put its files there, or name the folder that has them")


def test_no_such_data_set(tmp_path: Path) -> None:
    one = Task("mine", "", names=("a", "b"), images=TorchvisionDataset("CIFAR11", tmp_path))
    assert fault(one) == "expected the name of a class in torchvision.datasets, got 'CIFAR11'"


def test_a_data_set_without_splits(tmp_path: Path) -> None:
    one = Task("mine", "", names=("a", "b"), images=TorchvisionDataset("FakeData", tmp_path))
    assert fault(one) == (
        "torchvision's FakeData takes neither train= nor split=; "
        "say with train= and test= which arguments choose its images"
    )
