"""One at a time on a device."""

import os
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from fashiontl.core.errors import FashiontlError
from fashiontl.machine.devices import Device
from fashiontl.machine.locks import alone_on


def test_a_second_waits_for_the_first_and_other_devices_do_not(tmp_path: Path) -> None:
    cache = tmp_path / "not" / "yet"
    with alone_on(Device.of("cuda:01"), cache):
        with pytest.raises(Timeout), FileLock(cache / "device-cuda-1.lock", timeout=0):
            pass
        with alone_on(Device.of("cpu"), cache):
            assert (cache / "device-cpu.lock").exists()
    with FileLock(cache / "device-cuda-1.lock", timeout=0):
        pass


def test_everyone_may_use_a_lock_that_was_made_here(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with alone_on(Device.of("cpu"), tmp_path):
            assert (tmp_path / "device-cpu.lock").stat().st_mode & 0o777 == 0o666
    finally:
        os.umask(before)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become another user")
def test_a_lock_that_another_user_keeps_to_himself_says_what_to_do() -> None:
    # pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o1777)
        path = Path(folder) / "device-cpu.lock"
        path.touch(mode=0o600)
        os.seteuid(65534)
        try:
            with pytest.raises(FashiontlError, match=r"Permission denied; ask its owner for chmod a\+rw"):
                alone_on(Device.of("cpu"), Path(folder)).__enter__()
        finally:
            os.seteuid(0)
