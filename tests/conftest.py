"""Shared by all tests: pytest's own test harness, and a single thread for those that compute."""

from collections.abc import Iterator

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """On networks as small as the tests', threads only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
