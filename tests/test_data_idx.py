import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fashiontl.core.errors import FashiontlError
from fashiontl.data.idx import parse_idx, read_idx, write_idx

# Two images of one row and three columns.
CONTENT = bytes.fromhex("00000803 00000002 00000001 00000003") + bytes([1, 2, 3, 4, 5, 6])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "images"


def fault(path):
    with pytest.raises(FashiontlError) as error:
        read_idx(path)
    return str(error.value)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_read(path, pack):
    path.write_bytes(pack(CONTENT))
    array = read_idx(path)
    assert array.tolist() == [[[1, 2, 3]], [[4, 5, 6]]]
    assert array.dtype == np.uint8
    assert array.flags.writeable


@given(arrays(np.uint8, array_shapes(min_side=0, max_dims=4)))
def test_round_trip(tmp_path_factory, array):
    path = tmp_path_factory.mktemp("idx") / "a.gz"
    write_idx(path, array)
    assert np.array_equal(read_idx(path), array)
    assert read_idx(path).shape == array.shape


def test_equal_arrays_give_equal_files_without_name_and_time(path, tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(path, array)
    write_idx(tmp_path / "other", array)
    assert path.read_bytes() == (tmp_path / "other").read_bytes()
    assert path.read_bytes()[:10].hex() == "1f8b08000000000002ff"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an IDX file, got 0 bytes"),
        (CONTENT[:3], "expected an IDX file, got 3 bytes"),
        (CONTENT[:15], "expected a header of 16 bytes, got 15 bytes"),
        (CONTENT[:-1], "expected 22 bytes for 2 x 1 x 3 values, got 21"),
        (CONTENT + b"\0", "expected 22 bytes for 2 x 1 x 3 values, got 23"),
        (b"\x89PNG\r\n", "expected the magic number 00 00 08 and a number of dimensions, got 89 50 4e 47"),
        (
            b"\0\0\x0d\x01\0\0\0\0",
            "expected the magic number 00 00 08 and a number of dimensions, got 00 00 0d 01",
        ),
        (b"\0\0\x08\0", "expected the magic number 00 00 08 and a number of dimensions, got 00 00 08 00"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_malformed(path, content, message, pack):
    path.write_bytes(pack(content))
    assert fault(path) == f"{path}: {message}"


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda tail: b"\0\0\x08" + tail))
def test_any_content_is_an_array_or_a_clear_error(content):
    try:
        array = parse_idx(content, Path("somewhere"))
    except FashiontlError as error:
        message = str(error)
    else:
        message = None
        assert array.size + 4 + 4 * array.ndim == len(content)
    assert message is None or re.match("somewhere: expected .*, got ", message)


def test_missing(path):
    assert fault(path) == f"{path}: expected a readable file, got: No such file or directory"


def test_a_folder(tmp_path):
    assert fault(tmp_path) == f"{tmp_path}: expected a readable file, got: Is a directory"


def test_truncated_gzip(path):
    path.write_bytes(gzip.compress(CONTENT)[:-9])
    assert fault(path).startswith(f"{path}: expected a whole gzip file, got a damaged one (Compressed file ended")


@pytest.mark.parametrize("position", [12, -6])
def test_tampered_gzip(path, position):
    content = bytearray(gzip.compress(CONTENT))
    content[position] ^= 0xFF
    path.write_bytes(content)
    assert fault(path).startswith(f"{path}: expected a whole gzip file, got a damaged one (")
