"""Locks that all processes on this machine share. No torch."""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock

from fashiontl.core.errors import FashiontlError
from fashiontl.machine.devices import Device


@contextmanager
def alone_on(device: Device, cache: Path) -> Iterator[None]:
    """A context in which nothing else of fashiontl uses a device; entering it waits.

    Args:
        device: locked by its id, so that all names of one GPU share a lock.
        cache: folder that everyone on this machine shares; it is made if need be.

    Raises:
        FashiontlError: on entry: the lock file cannot be made, or not even be read.
    """
    path = cache / f"device-{re.sub('[^A-Za-z0-9-]', '-', device.id)}.lock"
    with ExitStack() as stack:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path))
        except OSError as error:
            raise FashiontlError(
                f"expected a lock file that can be read, got {path}: {error.strerror}; ask its owner for "
                "chmod a+rw, or name another folder with FASHIONTL_CACHE"
            ) from error
        yield


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A context that only one process at a time is in; entering it waits.

    Args:
        path: of the lock file. It is made for everyone to write; one of another user need only be readable.

    Raises:
        OSError: it cannot be made, or not even be read.
    """
    lock = FileLock(path, mode=0o666)
    try:
        lock.acquire()
    except PermissionError:
        # Another user's umask may have made it read-only for us, and FileLock opens it for writing.
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
