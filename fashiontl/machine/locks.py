"""One at a time on a device, on this machine, whoever started it. No torch."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock

from fashiontl.core.errors import FashiontlError


def alone_on(device: str, cache: Path) -> AbstractContextManager[None]:
    """A context in which nothing else of fashiontl uses a device; entering it waits.

    Args:
        device: its name.
        cache: folder that everyone on this machine shares; it is made if need be.

    Raises:
        FashiontlError: when it is entered: the lock's file cannot be made, or not even be read.
    """
    return _told(cache / f"device-{device.replace(':', '-')}.lock")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A context that only one process at a time is in; entering it waits.

    Args:
        path: of the lock's file. It is made for everyone to write; one of another user need only be readable.

    Raises:
        OSError: it cannot be made, or not even be read.
    """
    lock = FileLock(path, mode=0o666)
    try:
        lock.acquire()
    except PermissionError:
        # Older versions made it for its user alone to write, and FileLock opens it for writing.
        with _locked_by_reading(path):
            yield
        return
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _locked_by_reading(path: Path) -> Iterator[None]:
    # What FileLock uses as well, so that each waits for the other; it is not there on Windows.
    from fcntl import LOCK_EX, flock

    handle = os.open(path, os.O_RDONLY)
    try:
        flock(handle, LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """`locked`, with an error for the person at the command line."""
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path))
        except OSError as error:
            raise FashiontlError(
                f"expected a lock's file that can be read, got {path}: {error.strerror}; ask its owner for "
                "chmod a+rw, or name another folder with FASHIONTL_CACHE"
            ) from error
        yield
