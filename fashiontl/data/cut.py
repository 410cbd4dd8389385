"""Cut the set in the package from the original one: `python -m fashiontl.data.cut --from FOLDER [--to FOLDER]`."""

import argparse
import gzip
import hashlib
import struct
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fashiontl.core.errors import FashiontlError
from fashiontl.data.sources import EMBEDDED_FOLDER, ORIGINAL_MD5, load_images


def cut(source: Path, target: Path) -> list[Path]:
    """Write the first 600 training and 200 test images of each class, in the order of the original.

    The original is shuffled, so the first images of a class are as good a sample as any, and one that can be checked
    without a generator of random numbers.

    Raises:
        FashiontlError: the source does not hold the original files.
    """
    images = load_images("original", str(source))
    target.mkdir(parents=True, exist_ok=True)
    paths = [target / f"{file}.gz" for file in ORIGINAL_MD5]
    splits = (images.train_images, images.train_labels, 600), (images.test_images, images.test_labels, 200)
    for split, (pixels, labels, count) in enumerate(splits):
        chosen = np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))
        write_idx(paths[2 * split], pixels.numpy()[chosen])
        write_idx(paths[2 * split + 1], labels.numpy()[chosen].astype(np.uint8))
    return paths


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """Write an IDX file compressed with gzip; equal arrays give equal files."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    # gzip.compress would leave a header byte (the operating system) to the platform and to Python's version.
    with path.open("wb") as file, gzip.GzipFile("", "wb", compresslevel=9, fileobj=file, mtime=0) as compressed:
        compressed.write(header + array.tobytes())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; prints the SHA-256 of each file as `sha256sum` does."""
    parser = argparse.ArgumentParser(prog="python -m fashiontl.data.cut", description="Cut the set in the package.")
    parser.add_argument("--from", dest="source", type=Path, required=True, metavar="FOLDER", help="the original set")
    parser.add_argument("--to", dest="target", type=Path, default=EMBEDDED_FOLDER, metavar="FOLDER")
    options = parser.parse_args(arguments)
    try:
        paths = cut(options.source, options.target)
    except FashiontlError as error:
        sys.exit(f"error: {error}")
    for path in paths:
        print(hashlib.sha256(path.read_bytes()).hexdigest(), path.name, sep="  ")


if __name__ == "__main__":
    main()
