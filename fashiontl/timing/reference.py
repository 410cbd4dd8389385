"""A short mix of work that is always the same, by which one sees whether the machine is itself.

One kind for each thing that a neighbour can take: arithmetic, the memory's bandwidth, and the processor's attention to
many small operators. A slow slice of a network may be the network's; a slow reference is the machine's.
"""

from collections.abc import Callable
from functools import partial

import torch

from fashiontl.machine.devices import Device

# Sizes at which a call takes some 5 to 10 ms on two cores of a server, and about as long on its GPU.
_SIDE = {"cpu": 640, "cuda": 6144}
_OTHER_SIDE = 2048
# Two buffers of it are several times the last-level cache of most processors, and of all GPUs.
_COPIED_BYTES = {"cpu": 48 * 2**20, "cuda": 2**30}
_OTHER_COPIED_BYTES = 256 * 2**20
# Additions and subtractions, as many of each. With a GPU these are launches, whose time is the host's.
_OPERATORS = {"cpu": 4000}
_OTHER_OPERATORS = 1000


def reference_calls(device: Device) -> dict[str, Callable[[], None]]:
    """The mix on a device; none of the calls waits for it, and none takes memory after this function has returned.

    Returns:
        By name: `arithmetic` (a float32 matrix product), `memory` (a copy of a buffer well beyond the caches) and
        `operators` (additions to 16 numbers).

    Raises:
        RuntimeError: torch's, where the device has no room: 100 MB on a CPU, 2.5 GB on CUDA, 0.6 GB on others.
    """
    name, generator = device.name, torch.Generator().manual_seed(0)
    side, size = _SIDE.get(device.kind, _OTHER_SIDE), _COPIED_BYTES.get(device.kind, _OTHER_COPIED_BYTES)
    left, right = (torch.rand(side, side, generator=generator).to(name) for _ in range(2))
    product = torch.empty_like(left)
    source = torch.ones(size // 4, device=name)
    copied = torch.zeros_like(source)
    few, one = torch.zeros(16, device=name), torch.ones(16, device=name)
    return {
        "arithmetic": partial(_multiply, left, right, product),
        "memory": partial(_copy, source, copied),
        "operators": partial(_add, few, one, _OPERATORS.get(device.kind, _OTHER_OPERATORS)),
    }


@torch.inference_mode()
def _multiply(left: torch.Tensor, right: torch.Tensor, product: torch.Tensor) -> None:
    torch.mm(left, right, out=product)


@torch.inference_mode()
def _copy(source: torch.Tensor, copied: torch.Tensor) -> None:
    copied.copy_(source)


@torch.inference_mode()
def _add(few: torch.Tensor, one: torch.Tensor, count: int) -> None:
    for _ in range(count):
        # Back to zero each second time, so that no call ever computes with other numbers.
        few.add_(one)
        few.sub_(one)
