"""Files of weights are hashed each time they are read, and believed only when they hold what is said of them."""

import hashlib
import os
import re
import shlex
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fashiontl.core.errors import FashiontlError, no_file

# As torch.hub and PyPI's packages of weights name files: resnet18-f37072fd.pth holds what has a SHA-256 of f37072fd....
_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z.]+$")
_WHOLE = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Expected:
    """What is said of a file's contents.

    Attributes:
        digest: its SHA-256 in hexadecimal, or at least the first 8 digits of it.
        source: who says so, as in `expected SHA-256 f37072fd... (SOURCE)`.
        remove: what must be removed for the file to be made or fetched anew; empty for the file itself.
        next_step: what happens then.
    """

    digest: str
    source: str
    remove: tuple[Path, ...] = ()
    next_step: str = "it is fetched anew"


@dataclass(frozen=True)
class Opened:
    """A file that was verified.

    Attributes:
        file: at its beginning.
        sha256: of the whole file, in hexadecimal.
        seconds: that verifying took, which is no part of loading.
    """

    file: BinaryIO
    sha256: str
    seconds: float


@contextmanager
def opened(path: Path, expected: Expected | None = None) -> Iterator[Opened]:
    """Open a file of weights whose contents were verified.

    What is loaded within the block, from the open file or by the path, is what was verified: a file that was replaced
    or written to meanwhile is an error at the block's end.

    Args:
        path: of the file.
        expected: its digest; None where nobody has said anything of it, as of a user's own file.

    Raises:
        FashiontlError: it is no file, its digest is another, or it changed while it was read.
        OSError: it cannot be read.
    """
    # Before it is opened, since opening a pipe waits for whoever writes to it.
    if not stat.S_ISREG(path.stat().st_mode):
        kind = no_file(path) or "something else"
        step = f"remove it, and {expected.next_step}: rm -r {shlex.quote(str(path))}" if expected else "name a file"
        raise FashiontlError(f"{path}: expected a file of weights, got {kind}; {step}")
    with path.open("rb") as file:
        before = _state(os.fstat(file.fileno()))
        begun = time.perf_counter()
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        seconds = time.perf_counter() - begun
        if expected is not None and not sha256.startswith(expected.digest):
            raise FashiontlError(
                f"{path}: expected SHA-256 {_shown(expected.digest)} ({expected.source}), got "
                f"{sha256[: len(expected.digest)]}: the file is damaged or another; remove it, and "
                f"{expected.next_step}: {removal(expected.remove or (path,))}"
            )
        file.seek(0)
        yield Opened(file, sha256, seconds)
    if _state(path.stat()) != before:
        raise FashiontlError(f"{path} changed while it was read; repeat this when nothing writes to it")


def published_in_name(path: Path) -> Expected | None:
    """What a file's name says of its contents, as torch.hub names files; None when it says nothing."""
    found = _IN_NAME.search(path.name)
    return Expected(found[1], "published in its name") if found else None


def published_by_hub(path: Path) -> Expected | None:
    """What the Hugging Face Hub says of a file in its cache.

    There a file is a link to one that is called by its SHA-256, as the Hub's server gave it; None where the file system
    has no links.
    """
    target = path.resolve()
    if target.name == path.name or not _WHOLE.fullmatch(target.name):
        return None
    return Expected(target.name, "published by the Hugging Face Hub", (path, target))


def recorded(path: Path) -> Expected | None:
    """What was recorded beside a file when it was first used, in a file of the form that `sha256sum --check` reads.

    It is recorded now when it was not before. That finds a file that was damaged or exchanged since, but not one that
    came damaged: it is for files of which nobody publishes a digest. None where the folder cannot be written to.

    Raises:
        FashiontlError: what is recorded cannot be read.
    """
    note = path.with_name(f"{path.name}.sha256")
    if not note.exists():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        partial = note.with_name(f".{note.name}.{os.getpid()}.partial")
        try:
            partial.write_text(f"{digest}  {path.name}\n")
            partial.replace(note)
        except OSError:
            return None
    digest = note.read_text(errors="replace").partition(" ")[0].strip()
    if not _WHOLE.fullmatch(digest):
        raise FashiontlError(
            f"{note}: expected the SHA-256 of {path.name}, got {digest[:80]!r}; remove both, and the weights are "
            f"fetched anew: {removal([path, note])}"
        )
    return Expected(digest, f"recorded in {note.name} when it was first used", (path, note))


def removal(paths: Sequence[Path]) -> str:
    """The command that removes files."""
    return shlex.join(["rm", *map(str, paths)])


def _shown(digest: str) -> str:
    return digest if _WHOLE.fullmatch(digest) else f"{digest}..."


def _state(facts: os.stat_result) -> tuple[int, ...]:
    """What differs once a file was replaced or written to."""
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
