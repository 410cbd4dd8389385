"""One at a time on a device, on this machine, whoever started it. No torch."""

from pathlib import Path

from filelock import BaseFileLock, FileLock


def alone_on(device: str, cache: Path) -> BaseFileLock:
    """A context in which nothing else of fashiontl uses a device; entering it waits.

    Args:
        device: its name.
        cache: folder that everyone on this machine shares; it is made if need be.
    """
    cache.mkdir(parents=True, exist_ok=True)
    return FileLock(cache / f"device-{device.replace(':', '-')}.lock")
