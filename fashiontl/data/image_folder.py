"""Loaders of images of one's own, for `Task.images`; they hold only names, so tasks can be listed without torch."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fashiontl.core.errors import FashiontlError
from fashiontl.data.sources import Images, download_timeout

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

_SPLITS = ("train", "test")


@dataclass(frozen=True)
class ImageFolder:
    """A folder with image files in `train/CLASS/` and `test/CLASS/`, as torchvision's `ImageFolder` reads them.

    Images are turned as their EXIF data say, resized with antialiasing so that the shorter side fits, and cut to the
    square in their middle. They are grey if all of them are, else colour; transparency is dropped. Name the path from
    `Path(__file__)`, so that it does not matter where pytest is started.
    """

    path: Path

    def __call__(self, size: int) -> Images:
        """Load the images, `size` pixels wide and high.

        Raises:
            FashiontlError: a folder is missing, the classes of the two splits differ or are fewer than two, a class
                has no images, or a file is no image.
        """
        from fashiontl.data.torchvision_import import torchvision

        splits, errors = {}, []
        for split in _SPLITS:
            folder = self.path / split
            try:
                splits[split] = torchvision.datasets.ImageFolder(folder, loader=partial(_read, size=size))
            except OSError as error:
                errors.append(f"{folder}: expected a folder of images for each class, got: {error}; add the images")
        if errors:
            raise FashiontlError("\n".join(errors))
        classes = {split: dataset.classes for split, dataset in splits.items()}
        if classes["train"] != classes["test"] or len(classes["train"]) < 2:
            found = "; ".join(f"{split}: {', '.join(names)}" for split, names in classes.items())
            raise FashiontlError(f"{self.path}: expected the same two or more classes in train and test, got {found}")
        return _images(splits, size, self.path.name)


@dataclass(frozen=True)
class TorchvisionDataset:
    """A classification data set that torchvision has a class for, resized and cut as `ImageFolder`'s images are.

    Attributes:
        name: of the class in `torchvision.datasets`.
        root: folder in which its files are, or into which it is downloaded.
        train: arguments that choose its training images; None is `train=True` or `split="train"`, as the class takes.
        test: arguments that choose its test images; None is `train=False` or `split="test"`.
    """

    name: str
    root: Path
    train: Mapping[str, Any] | None = None
    test: Mapping[str, Any] | None = None

    def __call__(self, size: int) -> Images:
        """Load the images, `size` pixels wide and high.

        Raises:
            FashiontlError: torchvision has no such class, its splits must be named, or it can be neither read nor
                downloaded.
        """
        from fashiontl.data.torchvision_import import torchvision

        kind = getattr(torchvision.datasets, self.name, None)
        if not inspect.isclass(kind):
            raise FashiontlError(f"expected the name of a class in torchvision.datasets, got {self.name!r}")
        parameters = inspect.signature(kind).parameters
        splits = {}
        for split, arguments in zip(_SPLITS, (self.train, self.test), strict=True):
            if arguments is None and not parameters.keys() & {"train", "split"}:
                raise FashiontlError(
                    f"torchvision's {self.name} takes neither train= nor split=; "
                    f"say with train= and test= which arguments choose its images"
                )
            by_default = {"train": split == "train"} if "train" in parameters else {"split": split}
            splits[split] = self._split(kind, by_default if arguments is None else arguments)
        return _images(splits, size, f"torchvision {self.name}")

    def _split(self, kind: Any, arguments: Mapping[str, Any]) -> Any:
        try:
            return kind(self.root, **arguments)
        except (OSError, RuntimeError):
            # What is not there raises one of these, so only then is anything downloaded.
            try:
                with download_timeout():
                    return kind(self.root, **arguments, download=True)
            except (OSError, RuntimeError, HTTPException, TypeError) as error:
                raise FashiontlError(
                    f"torchvision's {self.name} is not in {self.root}, and its download failed: {error}; "
                    "put its files there, or name the folder that has them"
                ) from error
        except (TypeError, ValueError) as error:
            raise FashiontlError(f"torchvision's {self.name} does not take {dict(arguments)}: {error}") from error


def _read(path: str, size: int) -> "Tensor":
    from PIL import Image

    try:
        with Image.open(path) as image:
            return _square(image, size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FashiontlError(f"{path}: expected an image, got: {error}; replace or remove it") from error


def _square(image: "Image.Image", size: int) -> "Tensor":
    """A uint8 tensor, `[1, size, size]` of a grey image and `[3, size, size]` of any other."""
    from PIL import ImageOps

    from fashiontl.data.torchvision_import import torchvision

    if image.mode[0] in "IF":
        # Conversion to 8 bits would cut off instead of scale.
        raise ValueError(f"pixels of more than 8 bits a channel (Pillow's mode {image.mode})")
    transforms = torchvision.transforms.functional
    upright = ImageOps.exif_transpose(image).convert("L" if image.mode in {"1", "L", "LA"} else "RGB")
    fitting = transforms.center_crop(transforms.resize(upright, [size], antialias=True), [size, size])
    return transforms.pil_to_tensor(fitting)  # type: ignore[no-any-return]


def _images(splits: Mapping[str, Any], size: int, source: str) -> Images:
    """All images and labels of two data sets, whose images may be squares already."""
    import torch

    images, labels = {}, {}
    for split in _SPLITS:
        pairs = [(image if torch.is_tensor(image) else _square(image, size), label) for image, label in splits[split]]
        images[split], labels[split] = [image for image, _ in pairs], torch.tensor([int(label) for _, label in pairs])
    grey = all(len(image) == 1 for image in images["train"] + images["test"])
    train, test = (torch.stack([i[0] if grey else i.expand(3, -1, -1) for i in images[split]]) for split in _SPLITS)
    class_names = tuple(getattr(splits["train"], "classes", ()))
    return Images(train, labels["train"], test, labels["test"], source, class_names=class_names)
