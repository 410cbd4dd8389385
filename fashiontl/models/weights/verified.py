"""Verification of weight files: each file is hashed whenever it is read, and compared with its published digest."""

import hashlib
import os
import re
import shlex
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fashiontl.core.errors import FashiontlError, no_file

# As torch.hub and PyPI's packages of weights name files: resnet18-f37072fd.pth has a SHA-256 of f37072fd....
_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z.]+$")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Expected:
    """The digest that a file should have.

    Attributes:
        digest: its SHA-256 in hexadecimal, or at least the first 8 digits of it.
        source: who says so, for the error message.
        remove: what must be removed for the file to be made or fetched again; empty for the file itself.
        next_step: what happens then.
    """

    digest: str
    source: str
    remove: tuple[Path, ...] = ()
    next_step: str = "it is fetched again"


@dataclass(frozen=True)
class Opened:
    """A verified file, at its beginning; its SHA-256 in hexadecimal; and the seconds that verifying took."""

    file: BinaryIO
    sha256: str
    seconds: float


@contextmanager
def opened(path: Path, expected: Expected | None = None) -> Iterator[Opened]:
    """Open and verify a file of weights.

    What is loaded within the block, from the open file or by the path, is what was verified: a file that was replaced
    or written to meanwhile is an error at the block's end. Of a user's own file no digest is expected.

    Raises:
        FashiontlError: it is not a file, its digest differs, or it changed while it was read.
        OSError: it cannot be read.
    """
    # Before it is opened, since opening a pipe waits for whoever writes to it.
    if not stat.S_ISREG(path.stat().st_mode):
        step = f"remove it, and {expected.next_step}: rm -r {shlex.quote(str(path))}" if expected else "name a file"
        raise FashiontlError(f"{path}: expected a file of weights, got {no_file(path) or 'something else'}; {step}")
    with path.open("rb") as file:
        before = _state(os.fstat(file.fileno()))
        started = time.perf_counter()
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        seconds = time.perf_counter() - started
        if expected is not None and not sha256.startswith(expected.digest):
            shown = expected.digest if _SHA256.fullmatch(expected.digest) else f"{expected.digest}..."
            raise FashiontlError(
                f"{path}: expected SHA-256 {shown} ({expected.source}), got {sha256[: len(expected.digest)]}: the file "
                f"is damaged or another; remove it, and {expected.next_step}: {removal(*expected.remove or (path,))}"
            )
        file.seek(0)
        yield Opened(file, sha256, seconds)
    if _state(path.stat()) != before:
        raise FashiontlError(f"{path} changed while it was read; repeat this when nothing writes to it")


def _state(facts: os.stat_result) -> tuple[int, ...]:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def published_in_name(path: Path) -> Expected | None:
    """The digest in a file's name, where torch.hub puts it; None where there is none."""
    found = _IN_NAME.search(path.name)
    return Expected(found[1], "published in its name") if found else None


def published_by_hub(path: Path) -> Expected | None:
    """The digest that the Hugging Face Hub gives of a file in its cache.

    There a file is a link to one named by its SHA-256; None where the file system has no links.
    """
    target = path.resolve()
    if target.name == path.name or not _SHA256.fullmatch(target.name):
        return None
    return Expected(target.name, "published by the Hugging Face Hub", (path, target))


def removal(*paths: Path) -> str:
    """The command that removes files."""
    return shlex.join(["rm", *map(str, paths)])
