import errno
import functools
import gzip
import hashlib
import http.server
import shutil
import socket
import threading

import numpy as np
import pytest
import torch

from fashiontl.core.errors import FashiontlError
from fashiontl.data import sources
from fashiontl.data.cut import write_idx
from fashiontl.data.sources import ORIGINAL_MD5, candidates, load_images

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILES = tuple(ORIGINAL_MD5)
DAMAGED = (
    "remove or replace the files named above, or name a folder with the four original files "
    "(--data-root or FASHIONTL_DATA), or take the set in the package (--set data=embedded)"
)
UNAVAILABLE = (
    "install Debian's package dataset-fashion-mnist, or name a folder with the four original files "
    "(--data-root or FASHIONTL_DATA), or take the set in the package (--set data=embedded)"
)


def write_set(folder, shift=0):
    """A small set under the names of the original: 30 training and 20 test images, 0 first."""
    folder.mkdir(parents=True)
    for images, labels, count in ((TRAIN_IMAGES, TRAIN_LABELS, 30), (TEST_IMAGES, TEST_LABELS, 20)):
        pixels = np.arange(count * 28 * 28).reshape(count, 28, 28) + shift
        write_idx(folder / f"{images}.gz", (pixels % 251).astype(np.uint8))
        write_idx(folder / f"{labels}.gz", (np.arange(count) % 10).astype(np.uint8))
    return folder


def content(folder, file):
    return gzip.decompress((folder / f"{file}.gz").read_bytes())


def unpack(folder):
    for file in FILES:
        (folder / file).write_bytes(content(folder, file))
        (folder / f"{file}.gz").unlink()
    return folder


def fault(data="original", root=None):
    with pytest.raises(FashiontlError) as error:
        load_images(data, root)
    return str(error.value)


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine of our own on which nothing is found and nothing outside it is reached."""
    monkeypatch.delenv("FASHIONTL_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sources, "user_cache_path", lambda name, appauthor: tmp_path / "cache" / name)
    monkeypatch.setattr(sources, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def original(tmp_path, monkeypatch):
    """The small set, with its checksums in place of the original's."""
    folder = write_set(tmp_path / "small")
    for file in FILES:
        monkeypatch.setitem(ORIGINAL_MD5, file, hashlib.md5(content(folder, file)).hexdigest())
    return folder


@pytest.fixture
def mirror(tmp_path, original, monkeypatch):
    """A loopback server in place of torchvision's; serves what is in its folder and remembers what was asked."""
    from fashiontl.data.torchvision_import import torchvision

    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *arguments):  # noqa: A002, ARG002 - the signature of the base class
            asked.append(self.path)

    folder = tmp_path / "mirror"
    shutil.copytree(original, folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    dataset = torchvision.datasets.FashionMNIST
    monkeypatch.setattr(dataset, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    checksums = [hashlib.md5((folder / f"{file}.gz").read_bytes()).hexdigest() for file in FILES]
    monkeypatch.setattr(dataset, "resources", [(f"{f}.gz", c) for f, c in zip(FILES, checksums, strict=True)])
    yield folder, asked
    server.shutdown()
    server.server_close()


def test_embedded_can_be_written_to_and_is_as_before_when_it_is_loaded_again():
    images = load_images("embedded").train_images
    before = images[0].clone()
    assert before.any()
    images[0] = 0
    assert (load_images("embedded").train_images[0] == before).all()


@pytest.mark.parametrize(("layout", "packed"), [(".", True), ("FashionMNIST/raw", False)])
def test_root(tmp_path, original, layout, packed):
    folder = shutil.copytree(original, tmp_path / "root" / layout)
    if not packed:
        unpack(folder)
    images = load_images("original", str(tmp_path / "root"))
    assert images.source == "data root"
    assert images.train_images.shape == (30, 28, 28)
    assert images.test_images.shape == (20, 28, 28)
    assert images.train_images.dtype == images.test_images.dtype == torch.uint8
    assert images.train_labels.tolist() == list(range(10)) * 3
    assert images.test_labels.tolist() == list(range(10)) * 2
    assert images.train_labels.dtype == images.test_labels.dtype == torch.int64
    assert images.train_images[0, 0, :3].tolist() == [0, 1, 2]
    assert images.sha256 == hashlib.sha256(b"".join(content(original, file) for file in FILES)).hexdigest()


def test_root_comes_before_the_variable_and_the_variable_before_known_places(tmp_path, original, monkeypatch):
    shutil.copytree(original, tmp_path / "debian")
    assert load_images("original").source == "Debian package dataset-fashion-mnist"
    monkeypatch.setenv("FASHIONTL_DATA", str(tmp_path / "absent"))
    assert fault().startswith(f"FASHIONTL_DATA {tmp_path / 'absent'}: no such folder; expected train-images")
    assert load_images("original", str(original)).source == "data root"


def test_a_named_root_without_files_is_an_error_even_if_another_place_has_them(tmp_path, original):
    shutil.copytree(original, tmp_path / "debian")
    (tmp_path / "root").mkdir()
    raw = tmp_path / "root" / "FashionMNIST" / "raw"
    assert fault(root=str(tmp_path / "root")) == (
        f"data root {tmp_path / 'root'}: none of the four original files in {raw} or {tmp_path / 'root'}; expected "
        "train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz], t10k-images-idx3-ubyte[.gz], "
        "t10k-labels-idx1-ubyte[.gz]\n"
        "name a folder that holds them, or name none to search the known places (fashiontl list shows them)"
    )


def test_all_faults_are_reported_together(original):
    images, labels = original / f"{TRAIN_IMAGES}.gz", original / f"{TEST_LABELS}.gz"
    images.write_bytes(content(original, TRAIN_IMAGES)[:-1])
    labels.write_bytes(b"<html>no such page</html>")
    first, second, advice = fault(root=str(original)).splitlines()
    assert first.startswith(f"{images}: expected content with MD5 ")
    assert second.startswith(f"{labels}: expected content with MD5 ")
    assert advice == DAMAGED


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path, whole: path.write_bytes(b""), "expected content with MD5"),
        (lambda path, whole: path.write_bytes(b"<html>no such page</html>"), "expected content with MD5"),
        (lambda path, whole: path.write_bytes(whole[:-1]), "expected content with MD5"),
        (
            lambda path, whole: path.write_bytes(gzip.compress(whole)[:-9]),
            "expected a whole gzip file, got a damaged one",
        ),
        (lambda path, whole: path.write_bytes(gzip.compress(whole)[:-6] + bytes(6)), "expected a whole gzip file"),
        (lambda path, whole: (path.unlink(), path.mkdir()), "expected a readable file, got: "),
    ],
    ids=["empty", "a page", "truncated", "truncated gzip", "gzip of other contents", "a folder"],
)
def test_a_damaged_file_is_named(original, damage, message):
    path = original / f"{TEST_LABELS}.gz"
    damage(path, content(original, TEST_LABELS))
    with pytest.raises(FashiontlError, match=message):
        sources.load_folder("x", original, ORIGINAL_MD5, "advice")


def test_an_array_there_and_back(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for name in ("one", "two"):
        write_idx(tmp_path / name, array)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert np.array_equal(sources.idx_array(gzip.decompress((tmp_path / "one").read_bytes())), array)


def test_known_places_in_their_order(tmp_path, original):
    assert not any(source.available for source in candidates()[1:])
    raw = "FashionMNIST/raw"
    for name, folder in (
        ("Debian package dataset-fashion-mnist", tmp_path / "debian"),
        ("cache", tmp_path / "cache" / "fashiontl" / raw),
        ("~/data", tmp_path / "home" / "data" / raw),
        ("./data", tmp_path / "work" / "data" / raw),
    ):
        shutil.copytree(original, folder)
        assert load_images("original").source == name


def test_a_damaged_known_place_is_an_error_and_not_passed_over(tmp_path, original):
    shutil.copytree(original, tmp_path / "debian")
    write_set(tmp_path / "work" / "data" / "FashionMNIST" / "raw", shift=1)
    assert fault().startswith("data/FashionMNIST/raw/train-images-idx3-ubyte.gz: expected content with MD5 ")


def test_candidates(tmp_path, original):
    shutil.copytree(original, tmp_path / "debian")
    (tmp_path / "work" / "data").mkdir()
    partial = tmp_path / "cache" / "fashiontl" / "FashionMNIST" / "raw"
    partial.mkdir(parents=True)
    shutil.copy(original / f"{TEST_LABELS}.gz", partial)
    assert [(source.name, source.available, source.reason) for source in candidates()] == [
        ("embedded", True, "8,000 images, part of the package"),
        ("./data", False, "none of the four original files in data/FashionMNIST/raw"),
        ("~/data", False, "no such folder"),
        (
            "cache",
            False,
            "incomplete: no train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz], t10k-images-idx3-ubyte[.gz]",
        ),
        ("Debian package dataset-fashion-mnist", True, "the four original files"),
    ]
    named = candidates(str(original))
    assert [(source.name, source.path) for source in named] == [
        ("embedded", sources.EMBEDDED_FOLDER),
        ("data root", original),
    ]


def test_a_folder_that_may_not_be_entered(tmp_path, monkeypatch):
    def refuse(folder, file):
        raise PermissionError(errno.EACCES, "Permission denied", folder / file)

    monkeypatch.setattr(sources, "_find", refuse)
    named = candidates(str(tmp_path))[1]
    assert (named.available, named.reason) == (False, "Permission denied")


def test_download(tmp_path, mirror):
    folder, asked = mirror
    limit = socket.getdefaulttimeout()
    images = load_images("original")
    assert images.source == "cache"
    assert images.train_labels.tolist() == list(range(10)) * 3
    assert {path for path in asked if path} == {f"/{path.name}" for path in folder.iterdir()}
    assert socket.getdefaulttimeout() == limit
    cache = tmp_path / "cache" / "fashiontl"
    # The scratch folder is gone; what is left is what torchvision itself would take.
    assert sorted(path.name for path in cache.iterdir() if path.is_dir()) == ["FashionMNIST"]
    assert {path.name for path in (cache / "FashionMNIST" / "raw").iterdir()} == set(FILES)
    asked.clear()
    assert load_images("original").sha256 == images.sha256
    assert not asked


def test_a_broken_download_leaves_nothing_behind_and_the_next_one_succeeds(tmp_path, mirror):
    folder, _ = mirror
    path = folder / f"{TEST_IMAGES}.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    message = fault()
    cache = tmp_path / "cache" / "fashiontl"
    assert message.startswith(f"Fashion-MNIST is not on this machine, and its download into {cache} failed: Error")
    assert "File not found or corrupted." in message
    assert message.endswith(f"\n{UNAVAILABLE}")
    assert not [entry for entry in cache.iterdir() if entry.is_dir()]
    path.write_bytes(whole)
    assert load_images("original").source == "cache"


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert fault().endswith(f"\n{UNAVAILABLE}")


def test_unknown_data():
    assert fault("imagenet") == "unknown data 'imagenet'; expected embedded or original"
