"""Outputs of frozen prefixes, kept in memory and found again by a hash of what they depend on.

What is reused must be what a step would have computed, of the same images in any batch. Features do not follow from
weights and image alone: kernels choose their order of summation by the number of images in a batch and by an image's
place in it. So they are computed in batches of a step's size, and reused only where the mixing of batches changes no
bit, or in float32 no more than rounding does. The latter is so in large linear layers on several threads (VGG), and
is less than what another order of the batches does to a training. The features themselves have the same bits each time.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fashiontl.data.preprocessing import Preprocessing
from fashiontl.models.network import Network
from fashiontl.models.weights.start import bytes_of
from fashiontl.timing.variants import Variant

# Batches from either end whose images are mixed to see whether an image's features depend on the others.
_MIXED = 4
# What rounding may change of float32 features, over the largest: 84 units in the last place. VGG-11 needs 15.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Features:
    """Outputs of a frozen prefix for all images: `values`, `[images, ...]` on the device.

    `strides` are those of the prefix's own output, by the number of images in the batch, since what follows may round
    differently for another memory layout. `source` says whether the values were computed now or held in memory.
    """

    values: Tensor
    strides: Mapping[int, tuple[int, ...]]
    source: Literal["computed", "memory"]

    def batch(self, chosen: Tensor) -> Tensor:
        """The features of some images as a step would have computed them; `chosen` is int64 `[batch]`."""
        values = self.values[chosen]
        strides = self.strides[len(chosen)]
        if values.stride() == strides:
            return values
        return torch.empty_strided(values.shape, strides, dtype=values.dtype, device=values.device).copy_(values)


class FeatureStore:
    """Features by key, for the trainings of one process; the least recently used are dropped first."""

    def __init__(self) -> None:
        # The one used last at the end.
        self._held: dict[str, Tensor] = {}
        self._tested: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def features(
        self, key: str, parts: Sequence[Tensor], run: Callable[[Tensor], Tensor], most: int
    ) -> Features | None:
        """Find or compute the features of all images; None where they depend on the batch, or need too much.

        Args:
            key: from `key_of`.
            parts: all images in their order, in batches of a step's sizes, the largest first and the smallest last.
            run: the prefix, from a batch of images to its output.
            most: bytes of memory for all features that are held.
        """
        ends = {number: run(parts[number]) for number in {0, len(parts) - 1}}
        first, last = ends[0], ends[len(parts) - 1]
        strides = {len(output): output.stride() for output in ends.values()}
        needed = first[:1].nbytes * sum(map(len, parts))
        if needed > most:
            return None
        held = self._held.pop(key, None)
        if held is not None and torch.equal(held[: len(first)], first) and torch.equal(held[-len(last) :], last):
            self._held[key] = held
            return Features(held, strides, "memory")
        # Make room before anything is added.
        while self._held and sum(values.nbytes for values in self._held.values()) + needed > most:
            del self._held[next(iter(self._held))]
        mixed = sorted({*range(len(parts))[:_MIXED], *range(len(parts))[-_MIXED:]})
        outputs = {number: ends[number] if number in ends else run(parts[number]) for number in mixed}
        # The images of these batches must come out the same when the batches are mixed.
        images, expected = torch.cat([parts[number] for number in mixed]), torch.cat(list(outputs.values()))
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).to(images.device)
        for chosen in torch.split(order, [len(parts[number]) for number in mixed]):
            if not _alike(run(images[chosen]), expected[chosen]):
                return None
        rest = [outputs[number] if number in outputs else run(part) for number, part in enumerate(parts)]
        self._held[key] = torch.cat(rest).contiguous()
        return Features(self._held[key], strides, "computed")

    def tested(self, key: str, parts: Sequence[Tensor], run: Callable[[Tensor], Tensor], most: int) -> Iterator[Tensor]:
        """Outputs of a prefix for batches of test images: the same batches each time, so that no bit can differ.

        They are computed once where those of all batches, beside what is held of others, take no more than `most`
        bytes. The arguments are those of `features`.
        """
        if key in self._tested:
            yield from self._tested[key]
            return
        room = most - sum(output.nbytes for outputs in self._tested.values() for output in outputs)
        kept: list[Tensor] = []
        for part in parts:
            output = run(part)
            room -= output.nbytes
            if room >= 0:
                kept.append(output)
            else:
                kept.clear()
            yield output
        if room >= 0:
            self._tested[key] = kept


def _alike(features: Tensor, expected: Tensor) -> bool:
    if features.dtype != torch.float32 or torch.equal(features, expected):
        return torch.equal(features, expected)
    return bool((features - expected).abs().max() <= _ROUNDING * expected.abs().max())


def key_of(
    network: Network, prefix: int, images: Tensor, preprocessing: Preprocessing, variant: Variant, *, batches: int
) -> str:
    """SHA-256 of all that the features of a prefix (a number of stages) depend on within one process."""
    # A timm model has tensors in no stage; everything but the later stages' own may matter.
    later = {id(value) for stage in list(network.stages.values())[prefix:] for value in _tensors(stage).values()}
    weights = {name: value for name, value in _tensors(network).items() if id(value) not in later}
    structure = [f"{name}: {network.stages[name]!r}" for name in network.stage_names[:prefix]]
    facts = structure, preprocessing, variant.precision, variant.memory_format, batches
    digest = hashlib.sha256(repr(facts).encode())
    for name, value in {**weights, "images": images}.items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} {value.device}".encode())
        digest.update(bytes_of(value))
    return digest.hexdigest()


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and all buffers, also those that no checkpoint holds."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
