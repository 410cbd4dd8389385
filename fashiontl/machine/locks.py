"""Locks that all processes on this machine share. No torch."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock

from fashiontl.core.errors import FashiontlError
from fashiontl.machine.devices import Device


@contextmanager
def alone_on(device: Device, cache: Path) -> Iterator[None]:
    """A context in which nothing else of fashiontl uses a device, under whatever name; entering it waits.

    Raises:
        FashiontlError: on entry: the lock file cannot be made or written.
    """
    path = cache / f"device-{re.sub('[^A-Za-z0-9-]', '-', device.id)}.lock"
    with ExitStack() as stack:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path))
        except OSError as error:
            raise FashiontlError(
                f"expected a lock file that can be written, got {path}: {error.strerror}; ask its owner for "
                "chmod a+rw, or name another folder with FASHIONTL_CACHE"
            ) from error
        yield


def locked(path: Path) -> FileLock:
    """A context that only one process at a time is in; entering it waits, and raises OSError without a lock file.

    The file is made for everyone to write, whatever the umask.
    """
    return FileLock(path, mode=0o666)
