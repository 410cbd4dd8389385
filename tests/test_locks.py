"""One at a time on a device."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

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


# Enters the lock as another user and says whether it got it at once.
AS_ANOTHER = """
import fcntl, os, sys
import fashiontl.machine.locks
from pathlib import Path
os.seteuid(65534)
with fashiontl.machine.locks.locked(Path(sys.argv[1])):
    print("entered", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def foreign() -> Iterator[Path]:
    """A lock that another user made with mode 0644, in a folder in which everyone may write, as /tmp."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root may become another user")
    # pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o1777)
        path = Path(folder) / "device-cpu.lock"
        path.write_text("")
        path.chmod(0o644)
        yield path


def test_a_lock_that_another_user_made_is_waited_for_in_both_directions(foreign: Path) -> None:
    command = [sys.executable, "-c", AS_ANOTHER, str(foreign)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"entered\n"
        with pytest.raises(Timeout), FileLock(foreign, timeout=0):
            pass
        _, errors = process.communicate()
        assert errors == b""
    with FileLock(foreign, timeout=0):
        pass


def test_a_lock_that_cannot_be_read_says_what_to_do(foreign: Path) -> None:
    foreign.chmod(0o600)
    code = AS_ANOTHER.replace(
        "fashiontl.machine.locks.locked(Path(sys.argv[1]))",
        "fashiontl.machine.locks.alone_on(fashiontl.machine.locks.Device.of('cpu'), Path(sys.argv[1]).parent)",
    )
    done = subprocess.run([sys.executable, "-c", code, str(foreign)], capture_output=True, text=True, check=False)
    assert f"got {foreign}: Permission denied; ask its owner for chmod a+rw" in done.stderr
