"""The matrix: each test is one cell, architecture x freezing policy x device, measured in processes of its own."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fashiontl.core.escape import to_terminal_line
from fashiontl.plugin import Cell
from fashiontl.runner.client import Outcome
from fashiontl.session.gating import GatedCell


def test_cell(cell: Cell, benchmark: BenchmarkFixture) -> None:
    record = cell.measure()
    cell.replay(benchmark, record.values("latency"))


def test_gate(gated_cell: GatedCell) -> None:
    """With `--gate BASE` in place of the tests above: the cell is judged beside the same cell of that commit."""
    gated_cell.judge()


def test_unseen_device(unseen_device: Outcome) -> None:
    """Make what is absent a visible skip with its reason, once for each kind of device and not for each cell."""
    if unseen_device.status != "ok":
        pytest.skip(to_terminal_line(unseen_device.reason))
    pytest.fail("this device can be used but was not noticed; name it with --device")
