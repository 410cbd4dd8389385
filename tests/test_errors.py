import errno
import os
from pathlib import Path

import pytest

from fashiontl.core.errors import unknown_name, unwritable


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("more", "end"),
    [
        ({}, "free it"),
        ({"next_step": "name another"}, "name another"),
    ],
)
def test_what_cannot_be_written_is_told_with_its_reason_and_a_next_step(more: dict[str, str], end: str) -> None:
    told = unwritable(Path("a/b.json"), os_error(errno.ENOSPC), **more)
    assert told == f"expected a file that can be written, got a/b.json: No space left on device; {end}"


def test_a_folder_that_cannot_be_written_says_what_for() -> None:
    told = unwritable(Path("a"), os_error(errno.EACCES), "free it", "a folder for results")
    assert told == "expected a folder for results that can be written, got a: Permission denied; free it"


def test_a_name_is_beside_those_that_are_near() -> None:
    assert "did you mean linear_probe?" in unknown_name("policy", "linear_prob", ["linear_probe", "full"])
