"""The measured peak: chosen with a fake clock, and real arithmetic on this machine."""

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch

from fashiontl.core.case import PRECISIONS
from fashiontl.machine.devices import Cpu
from fashiontl.timing import peak
from fashiontl.timing.peak import Work, convolutions, fastest, matrix_products, measured_peak

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def switches_as_before() -> Iterator[None]:
    cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    before = cudnn.allow_tf32, cudnn.benchmark
    yield
    torch.set_float32_matmul_precision(precision)
    cudnn.allow_tf32, cudnn.benchmark = before


class Bench:
    """A device on which calls take the time that they are told, once it is waited for, and its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.queued = 0.0
        self.calls: list[int] = []

    def clock(self) -> float:
        return self.now

    def synchronize(self) -> None:
        self.now += self.queued
        self.queued = 0.0

    def work(self, flops: int, *rates: float, prepare: float = 0.0) -> Work:
        """Work whose calls run at these rates, FLOP/s, one after the other and then at the last."""
        left = list(rates)

        def call() -> None:
            self.calls.append(flops)
            self.queued += flops / (left.pop(0) if len(left) > 1 else left[0])

        def make() -> Callable[[], None]:
            self.now += prepare
            return call

        return Work(flops, make)

    def fastest(self, *works: Work, seconds: float = 100.0) -> float | None:
        device = Cpu()
        object.__setattr__(device, "synchronize", self.synchronize)
        return fastest(works, seconds, device, self.clock)


def test_the_best_of_several_sizes() -> None:
    bench = Bench()
    rate = bench.fastest(bench.work(10**6, 1e9), bench.work(10**7, 3e9), bench.work(10**8, 2e9))
    assert rate == pytest.approx(3e9)


def test_a_median_of_blocks_is_neither_the_luckiest_nor_the_slowest() -> None:
    # Two calls to warm up; then five blocks of one call each, since a call takes longer than a block.
    bench = Bench()
    rate = bench.fastest(bench.work(10**9, 1e9, 1e9, 8e9, 1e9, 5e8, 2e9, 1e8))
    assert rate == pytest.approx(1e9)
    assert len(bench.calls) == 7


def test_what_would_not_end_in_time_is_passed_over_and_what_would_is_not() -> None:
    bench = Bench()
    small, large, middle = bench.work(10**6, 1e9), bench.work(10**10, 9e9), bench.work(10**7, 2e9)
    assert bench.fastest(small, large, middle, seconds=1.0) == pytest.approx(2e9)
    assert set(bench.calls) == {10**6, 10**7}
    assert bench.now < 1.0


def test_what_does_not_fit_into_memory_is_left_out_and_other_errors_are_not() -> None:
    def full() -> Callable[[], object]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken() -> Callable[[], object]:
        raise RuntimeError("not implemented for this type")

    bench = Bench()
    assert bench.fastest(bench.work(10**6, 1e9), Work(10**7, full), bench.work(10**7, 2e9)) == pytest.approx(2e9)
    assert bench.fastest(Work(10**6, full)) is None
    with pytest.raises(RuntimeError, match="not implemented"):
        bench.fastest(Work(10**6, broken))


def test_the_arithmetic_of_each_size() -> None:
    products = matrix_products("cpu", torch.float32)
    assert [work.flops for work in products] == [2 * side**3 for side in (512, 1024, 2048, 4096, 8192)]
    found = convolutions("cpu", torch.float32)
    expected = [
        2 * batch * channels * side * side * channels * 9
        for batch in (1, 8, 64, 512)
        for channels, side in ((128, 28), (256, 14))
        for _ in ("channels_last", "contiguous")
    ]
    assert [work.flops for work in found] == expected == sorted(expected)


def test_operands_have_the_type_and_the_memory_format(monkeypatch: pytest.MonkeyPatch) -> None:
    works = convolutions("meta", torch.bfloat16)[:2]
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    monkeypatch.setattr(peak.functional, "conv2d", lambda images, weight, padding: seen.append((images, weight)))
    for work in works:
        work.prepare()()
    assert {tensor.dtype for pair in seen for tensor in pair} == {torch.bfloat16}
    for pair, memory_format in zip(seen, (torch.channels_last, torch.contiguous_format), strict=True):
        assert all(tensor.is_contiguous(memory_format=memory_format) for tensor in pair)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_peak_of_this_machine(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "_SIDES", (64, 128))
    monkeypatch.setattr(peak, "_IMAGES", ((8, 8),))
    # A call takes 4 s by this clock, and there is time for the smallest of each kind.
    seconds = itertools.count(step=4.0)
    found = measured_peak(Cpu(), precision, 0.0, lambda: next(seconds))
    assert found == {"matmul": 2 * 64**3 / 4, "convolution": 2 * 8 * 8 * 8 * 8 * 9 / 4}


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("tf32", True), ("bf16", False), ("fp16", False)])
def test_tf32_is_allowed_for_its_own_peak_alone(precision: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    seen = []
    monkeypatch.setattr(
        peak,
        "fastest",
        lambda *_: seen.append((matmul.allow_tf32, cudnn.allow_tf32, torch.is_inference_mode_enabled())),
    )
    assert measured_peak(Cpu(), precision, 1.0) == {}
    assert set(seen) == {(allowed, allowed, True)}
