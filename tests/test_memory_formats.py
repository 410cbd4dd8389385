"""bench/memory_formats.py in the small."""

from collections.abc import Callable
from types import ModuleType

import pytest

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def bench(bench_script: Callable[[str], ModuleType]) -> ModuleType:
    return bench_script("memory_formats")


def test_both_formats_are_timed_and_the_rule_stands_beside(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    page = bench.main(
        ["--arch", "shufflenet_v2_x0_5", "--sizes", "32", "--batch", "4", "--turns", "3", "--threads", "1"]
    )
    row = next(line for line in page.splitlines() if "shufflenet" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:3] == ["`shufflenet_v2_x0_5`", "32", "0.98"]
    assert cells[-1] == "channels_last"
    assert "medians of 3 steps a format" in page
    assert "shufflenet_v2_x0_5" in capsys.readouterr().err


def test_ratios_are_of_one_turn(bench: ModuleType) -> None:
    one = bench.Pair("a", 32, 0.5, "contiguous", (2.0, 4.0, 9.0), (1.0, 4.0, 3.0))
    assert one.ratios == [2.0, 1.0, 3.0]
    row = bench.table([one]).splitlines()[-1]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "`a`", "32", "0.50", "4000", "3000", "2.00 (1.00 to 3.00)", "contiguous",
    ]  # fmt: skip
