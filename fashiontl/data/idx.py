"""The IDX format of MNIST and its kin: a four-byte magic number, the sizes, then the values.

The magic number is two zero bytes, a code for the type of the values (8 for unsigned bytes, the only one that image
sets use) and the number of dimensions; each size is a big-endian unsigned 32-bit integer.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fashiontl.core.errors import FashiontlError

_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 8


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, compressed with gzip or not (its first bytes tell, not its name).

    Returns:
        A writable uint8 array of the shape that the file states.

    Raises:
        FashiontlError: the file cannot be read or is malformed in any way.
    """
    return parse_idx(read_content(path), path)


def read_content(path: Path) -> bytes:
    """The uncompressed bytes of a file that may be compressed with gzip.

    Raises:
        FashiontlError: the file cannot be read, or its compression is damaged.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP_MAGIC) else content
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FashiontlError(f"{path}: expected a whole gzip file, got a damaged one ({error})") from error
    except OSError as error:
        raise FashiontlError(f"{path}: expected a readable file, got: {error.strerror}") from error


def parse_idx(content: bytes, path: Path) -> NDArray[np.uint8]:
    """Interpret the uncompressed bytes of an IDX file; `path` is for messages only.

    Returns:
        A writable uint8 array of the shape that the content states.

    Raises:
        FashiontlError: the content is malformed.
    """
    if len(content) < 4:
        raise FashiontlError(f"{path}: expected an IDX file, got {len(content)} bytes")
    zeros, kind, dimensions = struct.unpack_from(">HBB", content)
    if zeros != 0 or kind != _UNSIGNED_BYTE or dimensions == 0:
        raise FashiontlError(
            f"{path}: expected the magic number 00 00 08 and a number of dimensions, got {content[:4].hex(' ')}"
        )
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise FashiontlError(f"{path}: expected a header of {header} bytes, got {len(content)} bytes")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    expected = header + math.prod(shape)
    if len(content) != expected:
        sizes = " x ".join(map(str, shape))
        raise FashiontlError(f"{path}: expected {expected} bytes for {sizes} values, got {len(content)}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """Write an IDX file compressed with gzip; equal arrays give equal files, as no time or name is stored."""
    header = struct.pack(f">HBB{array.ndim}I", 0, _UNSIGNED_BYTE, array.ndim, *array.shape)
    # gzip.compress would leave a header byte (the operating system) to the platform and to Python's version.
    with path.open("wb") as file, gzip.GzipFile("", "wb", compresslevel=9, fileobj=file, mtime=0) as compressed:
        compressed.write(header + array.tobytes())
