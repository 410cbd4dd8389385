"""Where the images come from, and their verification by checksum."""

import gzip
import hashlib
import os
import socket
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from fashiontl.core.errors import FashiontlError, user_path
from fashiontl.data.tasks import Task
from fashiontl.machine.locks import locked

if TYPE_CHECKING:
    from torch import Tensor

ROOT_VARIABLE = "FASHIONTL_DATA"
EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
TORCHVISION_LAYOUT = Path("FashionMNIST", "raw")

# MD5 of the uncompressed files, so that it does not matter who compressed them how. With the gzip headers of the
# first publication put back, these contents have the MD5 that Zalando's README and torchvision give for the .gz files.
ORIGINAL_MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
# Of the set that fashiontl.data.cut cuts.
EMBEDDED_MD5 = {
    "train-images-idx3-ubyte": "cae7193a8e3dd75966f4b1f38d78ca94",
    "train-labels-idx1-ubyte": "1641b7f3205a263b146be7f1df295e66",
    "t10k-images-idx3-ubyte": "4bb4107a89a38933fbbdd67584195c68",
    "t10k-labels-idx1-ubyte": "84e2038f7beda4c0f4093bde29339f63",
}

_ADVICE = (
    f"or name a folder with the four original files (--data-root or {ROOT_VARIABLE}), "
    "or take the set in the package (--set data=embedded)"
)
_GZIP = b"\x1f\x8b"
_DOWNLOAD_TIMEOUT = 30.0  # seconds without a byte; without a limit a silent firewall would hang the run


@dataclass(frozen=True)
class Source:
    """A place that may hold Fashion-MNIST.

    The name goes into records, which are published, so it is no path. `available` says whether all four files are there
    (their contents are checked when they are loaded), `reason` what is there, or why it cannot be used.
    """

    name: str
    path: Path
    available: bool
    reason: str


@dataclass(frozen=True, eq=False)
class Images:
    """All images of a source.

    Images are uint8, grey `[n, side, side]` or colour `[n, 3, side, side]`; labels int64 `[n]`, from 0 to the number of
    classes less one. Fashion-MNIST is grey, of 28 pixels, and 0 is background.

    Attributes:
        source: its name, as in `Source`.
        sha256: of Fashion-MNIST's four uncompressed files, or of the bytes of the four tensors, one after another.
            Empty is filled in by `load_task_images`.
        class_names: of the labels, if the source knows them.
    """

    train_images: "Tensor"
    train_labels: "Tensor"
    test_images: "Tensor"
    test_labels: "Tensor"
    source: str
    sha256: str = ""
    class_names: tuple[str, ...] = ()


def load_task_images(task: Task, data: str, root: str | None, size: int) -> Images:
    """Load the set that a task is about: Fashion-MNIST as `load_images` does, or the task's own.

    `size` is the side in pixels that cases use; a task's own images may have another.

    Raises:
        FashiontlError: as `load_images`; or all that is wrong with the task's own images.
    """
    if task.images is None:
        return load_images(data, root)
    images = task.images(size)
    errors = _own_errors(images, task)
    if errors:
        raise FashiontlError("\n".join(f"images of task {task.name}: {error}" for error in errors))
    if images.sha256:
        return images
    digest = hashlib.sha256()
    for tensor in (images.train_images, images.train_labels, images.test_images, images.test_labels):
        digest.update(tensor.contiguous().numpy().data)
    return replace(images, sha256=digest.hexdigest())


def load_images(data: str, root: str | None = None) -> Images:
    """Load a whole set and verify it.

    Args:
        data: `embedded` (8,000 images in the package) or `original` (70,000 images, see `candidates`; downloaded
            into the cache when they are nowhere).
        root: folder of the original images; empty or None takes the environment variable FASHIONTL_DATA, if set.
            A folder named either way is used or is an error: no other place is searched.

    Raises:
        FashiontlError: no such set; no original files where they should be and no download; or another checksum.
    """
    if data == "embedded":
        return load_folder(data, EMBEDDED_FOLDER, EMBEDDED_MD5, "the installation is damaged: reinstall fashiontl")
    if data != "original":
        raise FashiontlError(f"unknown data {data!r}; expected embedded or original")
    _, *places = candidates(root)
    source = next((place for place in places if place.available), None)
    if source is None and len(places) == 1:
        raise FashiontlError(
            f"{places[0].name} {places[0].path}: {places[0].reason}; expected {_file_list(ORIGINAL_MD5)}\n"
            "name a folder that holds them, or name none to search the known places (fashiontl list shows them)"
        )
    source = source or _download(_cache())
    return load_folder(source.name, source.path, ORIGINAL_MD5, f"remove or replace the files named above, {_ADVICE}")


def candidates(root: str | None = None) -> list[Source]:
    """Every place that `load_images` looks at, in its order; the embedded set first."""
    embedded = Source("embedded", EMBEDDED_FOLDER, True, "8,000 images, part of the package")
    name, folder = ("data root", root) if root else (ROOT_VARIABLE, os.environ.get(ROOT_VARIABLE))
    if folder:
        return [embedded, _locate(name, user_path(folder), (TORCHVISION_LAYOUT, "."))]
    # Plain MNIST has files of the same names, so a general folder is only trusted in torchvision's layout.
    return [
        embedded,
        _locate("./data", Path("data")),
        _locate("~/data", Path(os.path.expanduser("~/data"))),  # noqa: PTH111 - there may be no home
        _locate("cache", _cache()),
        _locate("Debian package dataset-fashion-mnist", DEBIAN_FOLDER, (".",)),
    ]


def load_folder(name: str, folder: Path, checksums: Mapping[str, str], advice: str) -> Images:
    """Read the four files, plain or with `.gz`, from a folder.

    Raises:
        FashiontlError: all that is wrong with the files, then the advice.
    """
    from torch import from_numpy

    arrays, errors, sha256 = [], [], hashlib.sha256()
    for file, expected in checksums.items():
        path = _find(folder, file) or folder / file
        try:
            content = path.read_bytes()
            content = gzip.decompress(content) if content.startswith(_GZIP) else content
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            errors.append(f"{path}: expected a whole gzip file, got a damaged one ({error})")
            continue
        except OSError as error:
            errors.append(f"{path}: expected a readable file, got: {error.strerror}")
            continue
        sha256.update(content)
        got = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if got == expected:
            arrays.append(idx_array(content))
        else:
            errors.append(f"{path}: expected content with MD5 {expected}, got {got}")
    if errors:
        raise FashiontlError("\n".join([*errors, advice]))
    train_images, train_labels, test_images, test_labels = map(from_numpy, arrays)
    return Images(train_images, train_labels.long(), test_images, test_labels.long(), name, sha256.hexdigest())


def idx_array(content: bytes) -> NDArray[np.uint8]:
    """A writable array from a verified file in IDX format: 00 00 08, dimensions, big-endian sizes, the values."""
    # torchvision's reader takes only uncompressed files, and importing it would take seconds.
    header = 4 + 4 * content[3]
    return np.frombuffer(content, np.uint8, offset=header).reshape(np.frombuffer(content[4:header], ">u4")).copy()


def _own_errors(images: object, task: Task) -> list[str]:
    """What is wrong with a set that did not come from `load_images`."""
    import torch

    if not isinstance(images, Images):
        return [f"expected fashiontl.data.sources.Images, got {type(images).__name__}"]
    errors = []
    if images.class_names and images.class_names != task.names:
        errors.append(
            f"expected the classes {', '.join(task.names)}, got {', '.join(images.class_names)}; correct names"
        )
    splits = ("training", images.train_images, images.train_labels), ("test", images.test_images, images.test_labels)
    for split, pixels, labels in splits:
        square = pixels.ndim in {3, 4} and pixels.shape[-1] == pixels.shape[-2] and pixels.shape[1:-2] in {(), (3,)}
        labelled = labels.shape == pixels.shape[:1] and labels.dtype == torch.int64
        if not square or pixels.dtype != torch.uint8 or not labelled:
            errors.append(
                f"expected {split} images, uint8 [n, side, side] or [n, 3, side, side], and labels, int64 [n], "
                f"got {pixels.dtype} {[*pixels.shape]} and {labels.dtype} {[*labels.shape]}"
            )
        if not labelled:
            continue
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(task.names):
            got = f"{int(labels.min())} to {int(labels.max())}"
            errors.append(f"expected {split} labels from 0 to {len(task.names) - 1}, got {got}")
    return errors


def _cache() -> Path:
    return user_cache_path("fashiontl", appauthor=False)


def _locate(name: str, folder: Path, layouts: Sequence[Path | str] = (TORCHVISION_LAYOUT,)) -> Source:
    """Look for the four files in places below the folder."""
    try:
        if not folder.is_dir():
            return Source(name, folder, False, "no such folder")
        for place in (folder / layout for layout in layouts):
            missing = [file for file in ORIGINAL_MD5 if _find(place, file) is None]
            if not missing:
                return Source(name, place, True, "the four original files")
            if len(missing) < len(ORIGINAL_MD5):
                return Source(name, place, False, f"incomplete: no {_file_list(missing)}")
    except OSError as error:
        return Source(name, folder, False, str(error.strerror))
    where = " or ".join(str(folder / layout) for layout in layouts)
    return Source(name, folder, False, f"none of the four original files in {where}")


def _find(folder: Path, file: str) -> Path | None:
    paths = (folder / file, folder / f"{file}.gz")
    return next((path for path in paths if path.is_file()), None)


def _file_list(files: Iterable[str]) -> str:
    return ", ".join(f"{file}[.gz]" for file in files)


def _download(cache: Path) -> Source:
    """Let torchvision download the original files into the cache, where they appear only when they are whole."""
    from fashiontl.data.torchvision_import import torchvision

    try:
        cache.mkdir(parents=True, exist_ok=True)
        with download_timeout(), locked(cache / "download.lock"), TemporaryDirectory(dir=cache) as scratch:
            # Another process may have finished while this one waited for the lock.
            if not _locate("cache", cache).available:
                torchvision.datasets.FashionMNIST(scratch, download=True)
                (cache / TORCHVISION_LAYOUT).mkdir(parents=True, exist_ok=True)
                for file in ORIGINAL_MD5:
                    (scratch / TORCHVISION_LAYOUT / file).replace(cache / TORCHVISION_LAYOUT / file)
    except (OSError, RuntimeError, HTTPException) as error:
        failed = f"Fashion-MNIST is not on this machine, and its download into {cache} failed: {error}"
        raise FashiontlError(f"{failed.strip()}\ninstall Debian's package dataset-fashion-mnist, {_ADVICE}") from error
    return _locate("cache", cache)


@contextmanager
def download_timeout() -> Iterator[None]:
    """Give up on connections that send nothing for 30 seconds."""
    earlier = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(earlier)
