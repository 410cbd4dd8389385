import subprocess
import sys

import pytest

from fashiontl.gate import control as room
from fashiontl.gate.control import control


def test_the_first_pass_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(room, "_work", lambda: done.append("work"))

    def clock() -> float:
        done.append("clock")
        return 0.5 * len(done)

    assert control(clock) == 0.5 * (len(done) - 2)
    assert done == ["work", "clock", *["work"] * 6, "clock"]


def test_the_work_is_the_same_each_time() -> None:
    room._COPY[:] = bytes(len(room._COPY))
    assert control() > 0
    assert room._COPY == room._COPIED
    assert len(room._COPY) == 2**21
    assert len(room._HASHED) == 2**19


def test_it_needs_neither_torch_nor_numpy() -> None:
    code = "import sys, fashiontl.gate.control; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
