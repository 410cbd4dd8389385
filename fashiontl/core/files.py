"""Folders that can be written, and files that are whole at every moment."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from fashiontl.core.errors import FashiontlError, unwritable

# What a folder must have room for: more than a record.
_ROOM = 2**20


def check_temporary() -> None:
    """Raise a FashiontlError unless processes have a folder for temporary files, with room in it."""
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as error:
        raise FashiontlError(
            f"expected a folder for temporary files, got none that can be written ({error.strerror}); free the disk, "
            "or name one with the variable TMPDIR"
        ) from error
    check_folder(folder, "temporary files", "the variable TMPDIR")


def check_folder(folder: Path, purpose: str, option: str) -> None:
    """Raise a FashiontlError unless files can be written in a folder, which is made if need be.

    For the message, `purpose` is what is kept there, and `option` names another folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A full disk still takes an empty file.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_ROOM))
    except OSError as error:
        step = f"free it, or name another with {option}"
        raise FashiontlError(unwritable(folder, error, step, f"a folder for {purpose}")) from error


def write_atomically(path: Path, contents: bytes | Iterable[bytes]) -> None:
    """Write a file, and its folder if need be, so that nobody ever sees, or leaves, a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.writelines([contents] if isinstance(contents, bytes) else contents)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
