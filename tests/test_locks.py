"""One at a time on a device."""

from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from fashiontl.locks import alone_on


def test_a_second_waits_for_the_first_and_other_devices_do_not(tmp_path: Path) -> None:
    cache = tmp_path / "not" / "yet"
    with alone_on("cuda:1", cache):
        with pytest.raises(Timeout), FileLock(cache / "device-cuda-1.lock", timeout=0):
            pass
        with alone_on("cpu", cache):
            assert (cache / "device-cpu.lock").exists()
    with FileLock(cache / "device-cuda-1.lock", timeout=0):
        pass
