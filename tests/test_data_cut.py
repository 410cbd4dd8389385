import gzip
import hashlib
import zlib

import pytest
import torch

from fashiontl.data import cut
from fashiontl.data.sources import DEBIAN_FOLDER, EMBEDDED_FOLDER, ORIGINAL_MD5, load_images

needs_original = pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="the original set is not here")


def test_the_embedded_set():
    images = load_images("embedded")
    assert images.source == "embedded"
    assert images.sha256 == "a74eeeb26677693e5f786a1a4d576a63c70c3299b79e6168b1c5b68324768cdf"
    assert torch.bincount(images.train_labels).tolist() == [600] * 10
    assert torch.bincount(images.test_labels).tolist() == [200] * 10


def test_no_embedded_image_occurs_twice_so_nothing_leaks_from_training_to_test():
    images = load_images("embedded")
    train, test = ({image.numpy().tobytes() for image in split} for split in (images.train_images, images.test_images))
    assert (len(train), len(test)) == (6000, 2000)
    assert not train & test


@needs_original
def test_cutting_again_gives_the_same_files(tmp_path, capsys):
    cut.main(["--from", str(DEBIAN_FOLDER), "--to", str(tmp_path / "new")])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(f"{f}.gz" for f in ORIGINAL_MD5)
    # Another compressor (zlib-ng) writes the same content in other bytes.
    unpack = gzip.decompress if "ng" in zlib.ZLIB_RUNTIME_VERSION else bytes
    for line, file in zip(capsys.readouterr().out.splitlines(), ORIGINAL_MD5, strict=True):
        written = (tmp_path / "new" / f"{file}.gz").read_bytes()
        assert unpack(written) == unpack((EMBEDDED_FOLDER / f"{file}.gz").read_bytes())
        assert line == f"{hashlib.sha256(written).hexdigest()}  {file}.gz"


def test_a_source_without_the_original_files(tmp_path):
    with pytest.raises(SystemExit) as exit_:
        cut.main(["--from", str(tmp_path), "--to", str(tmp_path / "new")])
    assert str(exit_.value).startswith(f"error: data root {tmp_path}: none of the four original files")
    assert not (tmp_path / "new").exists()
