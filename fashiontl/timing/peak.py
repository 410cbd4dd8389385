"""The arithmetic peak of this machine, measured: what a network's FLOP/s are compared with.

It is what a matrix product and a convolution reach here, in the same precision, not a datasheet's figure. A network
above it is shown as such: then the machine was busy while the peak was measured, or a library computes convolutions
with fewer multiplications than are counted (Winograd's algorithm: 2.25 to 4 times fewer; Lavin and Gray, CVPR 2016).
"""

import math
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch.nn import functional

from fashiontl.machine.devices import Device
from fashiontl.timing import torch_flags

# Long enough that the clock and the wait for the device do not count.
_BLOCK_SECONDS = 0.01
_BLOCKS = 5
# Operands are random and not zeros: a device that switches fewer bits draws less power, and may clock higher than any
# network lets it.
_SIDES = (512, 1024, 2048, 4096, 8192)
_BATCHES = (1, 8, 64, 512)
# Channels and side of the images in the middle of a ResNet, where 3x3 convolutions do most of its work.
_IMAGES = ((128, 28), (256, 14))
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Work(NamedTuple):
    """Something to compute at full speed: the FLOP of a call, and what makes its operands and returns the call."""

    flops: int
    prepare: Callable[[], Callable[[], object]]


def measured_peak(
    device: Device, precision: str, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Measure what matrix products and 3x3 convolutions reach, each at the size that suits the device best.

    For a process that ends with its phase: it leaves torch's switches for timing set, and its allocator may keep what
    it took.

    It takes about `seconds`, half of them for each; the smallest work is measured even when it takes longer. The
    precision, that of the operands, is `fp32`, `tf32`, `bf16` or `fp16`.

    Returns:
        FLOP/s, 2 for each multiply-add, of `matmul` and `convolution`; one whose smallest operands do not fit into the
        device's memory is left out.
    """
    torch_flags.fastest(precision)
    dtype = _DTYPES[precision]
    with torch.inference_mode():
        rates = {
            "matmul": fastest(matrix_products(device.name, dtype), seconds / 2, device, clock),
            "convolution": fastest(convolutions(device.name, dtype), seconds / 2, device, clock),
        }
    return {name: rate for name, rate in rates.items() if rate is not None}


def fastest(works: Iterable[Work], seconds: float, device: Device, clock: Callable[[], float]) -> float | None:
    """The highest FLOP/s among works, each the median of several blocks; None when none fitted into memory.

    The first is measured in any case; others are skipped when, at the best rate so far, they would not end in time.
    """
    deadline = clock() + seconds
    best = None
    for work in works:
        # A block may be a single call; before the blocks come two calls.
        if best and clock() + max(_BLOCKS * _BLOCK_SECONDS, (_BLOCKS + 2) * work.flops / best) > deadline:
            continue
        try:
            rate = work.flops / _seconds_a_call(work.prepare(), device.synchronize, clock)
        except (RuntimeError, MemoryError) as error:
            if not device.is_out_of_memory(error):
                raise
            continue
        best = max(rate, best or 0.0)
    return best


def matrix_products(device: str, dtype: torch.dtype) -> list[Work]:
    """Products of two square matrices, the smallest first."""

    def prepare(side: int) -> Callable[[], object]:
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        # Taking fresh memory from the operating system at each call is no part of the arithmetic.
        out = torch.empty_like(left)
        return lambda: torch.mm(left, right, out=out)

    return [Work(2 * side**3, partial(prepare, side)) for side in _SIDES]


def convolutions(device: str, dtype: torch.dtype) -> list[Work]:
    """3x3 convolutions of stride 1 in both memory formats, the smallest batch first."""

    def prepare(memory_format: torch.memory_format, *shapes: tuple[int, ...]) -> Callable[[], object]:
        images, weight = (
            torch.randn(shape, device=device, dtype=dtype).to(memory_format=memory_format) for shape in shapes
        )
        return lambda: functional.conv2d(images, weight, padding=1)

    works = []
    for batch in _BATCHES:
        for channels, side in _IMAGES:
            shapes = (batch, channels, side, side), (channels, channels, 3, 3)
            flops = 2 * math.prod(shapes[0]) * channels * 3 * 3
            for memory_format in (torch.channels_last, torch.contiguous_format):
                works.append(Work(flops, partial(prepare, memory_format, *shapes)))
    return works


def _seconds_a_call(call: Callable[[], object], synchronize: Callable[[], None], clock: Callable[[], float]) -> float:
    def timed(calls: int) -> float:
        synchronize()
        started = clock()
        for _ in range(calls):
            call()
        synchronize()
        return (clock() - started) / calls

    # The first call loads kernels, and chooses among them.
    timed(1)
    calls = max(1, math.ceil(_BLOCK_SECONDS / max(timed(1), 1e-9)))
    return statistics.median(timed(calls) for _ in range(_BLOCKS))
