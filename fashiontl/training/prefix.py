"""Outputs of frozen prefixes, found again in memory or on disk by a hash of all that they depend on.

What is reused must be what a training step would have computed, bit for bit. That does not follow from its weights and
its image alone: convolutions add in another order for another number of images, and vectorised functions compute the
last few elements of a batch another way. Features are therefore computed in batches of a step's size, and used only
where images come out the same in other company; and what was stored is believed only after its first and last batches
were computed anew.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fashiontl.core.errors import FashiontlError
from fashiontl.data.preprocessing import Preprocessing
from fashiontl.machine.devices import Device
from fashiontl.machine.environment import read_environment
from fashiontl.models.network import Network
from fashiontl.models.weights.start import bytes_of
from fashiontl.timing.variants import Variant

Source = Literal["computed", "memory", "disk"]

_DISK_BYTES = 4 * 2**30
# What torch's file format adds to the numbers, generously.
_FORMAT_BYTES = 2**16
# Reading and comparing cost about as much as computing what takes less.
_WORTH_WRITING = 1.0  # seconds
# Batches from either end whose images are mixed to see whether company matters.
_MIXED = 4


@dataclass(frozen=True)
class Features:
    """What a frozen prefix makes of all images.

    Attributes:
        values: `[images, ...]`, on the device.
        strides: how the prefix itself lays a batch out in memory, by its number of images; what follows may round
            otherwise when it is laid out otherwise.
        source: where they came from.
    """

    values: Tensor
    strides: Mapping[int, tuple[int, ...]]
    source: Source

    def batch(self, chosen: Tensor) -> Tensor:
        """The features of some images as a step would have computed them.

        Args:
            chosen: indices, int64 `[batch]`; a batch's size is one of those in `strides`.
        """
        values = self.values[chosen]
        strides = self.strides[len(chosen)]
        if values.stride() == strides:
            return values
        return torch.empty_strided(values.shape, strides, dtype=values.dtype, device=values.device).copy_(values)


class FeatureStore:
    """Features by their keys: those used last in memory, and those that took long on disk too.

    Files that cannot be read or written, or that do not hold what their name says, are computed again; nothing of that
    fails a training. Several processes may share a folder.

    Args:
        folder: made when first written to; None keeps all in memory.
        disk_bytes: most that the folder holds, the least recently used files going first; 0 leaves the disk alone.
            None takes `FASHIONTL_FEATURES_BYTES`, or 4 GiB.
        worth_writing: seconds that computing must take for its result to be written.
        clock: seconds.

    Raises:
        FashiontlError: `FASHIONTL_FEATURES_BYTES` is no number.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        disk_bytes: int | None = None,
        worth_writing: float = _WORTH_WRITING,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._disk_bytes = _allowed() if disk_bytes is None else disk_bytes
        self._folder = folder if self._disk_bytes else None
        self._worth_writing = worth_writing
        self._clock = clock
        # The one used last at the end.
        self._held: dict[str, Tensor] = {}
        # Read here, since it takes a while and keys are made while trainings are timed.
        environment = read_environment(threads=torch.get_num_threads())
        self._machine = {name: getattr(environment, name) for name in ("torch", "torchvision", "fashiontl", "cpu")}

    def key_of(
        self,
        network: Network,
        prefix: int,
        images: Tensor,
        preprocessing: Preprocessing,
        variant: Variant,
        *,
        batches: int,
    ) -> str:
        """SHA-256 of all that the features of a prefix are known to depend on.

        Args:
            network: in the mode in which the prefix is run.
            prefix: number of leading stages.
            images: uint8, all of them in their order.
            preprocessing: of the images.
            variant: precision and memory format.
            batches: in how many parts the images are run.
        """
        # A model that is no chain has tensors in no stage; everything but the later stages' own may matter.
        later = {id(value) for stage in list(network.stages.values())[prefix:] for value in _tensors(stage).values()}
        state = {name: value for name, value in _tensors(network).items() if id(value) not in later}
        device = Device.of(str(next(network.parameters()).device))
        facts = {
            "weights": {name: [str(value.dtype), list(value.shape), _sha256(value)] for name, value in state.items()},
            "structure": [f"{name}: {network.stages[name]!r}" for name in network.stage_names[:prefix]],
            "images": [list(images.shape), _sha256(images)],
            "batches": batches,
            "preprocessing": repr(preprocessing),
            "variant": [variant.precision, variant.memory_format],
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "threads": torch.get_num_threads(),
            "device": [device.kind, device.facts()],
            # With the instruction set in use, and the libraries that compute.
            "build": torch.__config__.show(),
            **self._machine,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @torch.no_grad()
    def features(
        self, key: str, parts: Sequence[Tensor], run: Callable[[Tensor], Tensor], most: int
    ) -> Features | None:
        """Find or compute the features of all images.

        Args:
            key: from `key_of`.
            parts: all images in their order, in batches of the sizes that steps have, the largest first and the
                smallest last.
            run: the prefix, from a batch of images to its output.
            most: bytes of memory for all features that are held.

        Returns:
            None where reuse could change a bit, or the features need more than `most`.
        """
        ends = {number: run(parts[number]) for number in {0, len(parts) - 1}}
        strides = {len(output): output.stride() for output in ends.values()}
        count = sum(map(len, parts))
        needed = ends[0][:1].nbytes * count
        if needed > most:
            return None

        def fits(values: Tensor | None) -> bool:
            if values is None or values.dtype != ends[0].dtype or values.shape != (count, *ends[0].shape[1:]):
                return False
            first, last = ends[0], ends[len(parts) - 1]
            return torch.equal(values[: len(first)], first) and torch.equal(values[count - len(last) :], last)

        held = self._held.pop(key, None)
        if held is not None and fits(held):
            self._held[key] = held
            return Features(held, strides, "memory")
        # Room is made before anything is added to what is held.
        while self._held and sum(values.nbytes for values in self._held.values()) + needed > most:
            del self._held[next(iter(self._held))]
        source: Source = "disk"
        values = self._read(key, ends[0].device)
        if values is None or not fits(values):
            source = "computed"
            values = self._computed(key, parts, ends, run)
        if values is None:
            return None
        self._held[key] = values
        return Features(values, strides, source)

    def _computed(
        self, key: str, parts: Sequence[Tensor], known: Mapping[int, Tensor], run: Callable[[Tensor], Tensor]
    ) -> Tensor | None:
        device = Device.of(str(known[0].device))
        device.synchronize()
        started = self._clock()
        mixed = sorted({*range(len(parts))[:_MIXED], *range(len(parts))[-_MIXED:]})
        outputs = {number: known[number] if number in known else run(parts[number]) for number in mixed}
        if not _same_in_other_company([parts[number] for number in mixed], list(outputs.values()), run):
            return None
        values = torch.cat(
            [outputs[number] if number in outputs else run(part) for number, part in enumerate(parts)]
        ).contiguous()
        device.synchronize()
        if self._clock() - started >= self._worth_writing:
            self._write(key, values)
        return values

    def _read(self, key: str, device: torch.device) -> Tensor | None:
        if self._folder is None:
            return None
        path = self._folder / f"{key}.pt"
        # torch raises errors of many kinds for what is no file of its own, or a part of one.
        with contextlib.suppress(Exception):
            # Not mapped: what is used must be what was verified, whatever happens to the file afterwards.
            found = torch.load(path, map_location="cpu", weights_only=True)
            values: Tensor = found["values"]
            if found["key"] == key and found["sha256"] == _sha256(values):
                with contextlib.suppress(OSError):
                    os.utime(path)
                return values.to(device)
        return None

    def _write(self, key: str, values: Tensor) -> None:
        size = values.nbytes + _FORMAT_BYTES
        if self._folder is None or size > self._disk_bytes:
            return
        values = values.cpu()
        # torch raises a RuntimeError where the disk is full.
        with contextlib.suppress(OSError, RuntimeError):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make_room(self._disk_bytes - size)
            handle, name = tempfile.mkstemp(dir=self._folder, suffix=".partial")
            try:
                with os.fdopen(handle, "wb") as file:
                    torch.save({"key": key, "values": values, "sha256": _sha256(values)}, file)
                Path(name).replace(self._folder / f"{key}.pt")
            finally:
                Path(name).unlink(missing_ok=True)

    def _make_room(self, most: int) -> None:
        """Remove the files that were used longest ago, and what killed processes left, down to a number of bytes."""
        assert self._folder is not None
        files = []
        for path in self._folder.iterdir():
            # Another process may have removed it since.
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                files.append((facts.st_mtime_ns, facts.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= most:
                return
            path.unlink(missing_ok=True)
            total -= size


def _same_in_other_company(parts: Sequence[Tensor], outputs: Sequence[Tensor], run: Callable[[Tensor], Tensor]) -> bool:
    """Whether the images of some batches come out the same when the batches are mixed."""
    images, expected = torch.cat(list(parts)), torch.cat(list(outputs))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).to(images.device)
    mixed = torch.split(order, [len(part) for part in parts])
    return all(torch.equal(run(images[chosen]), expected[chosen]) for chosen in mixed)


def _tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers themselves, buffers that no checkpoint holds included."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _sha256(values: Tensor) -> str:
    return hashlib.sha256(bytes_of(values)).hexdigest()


def _allowed() -> int:
    named = os.environ.get("FASHIONTL_FEATURES_BYTES", str(_DISK_BYTES))
    if not named.isdecimal():
        raise FashiontlError(
            f"FASHIONTL_FEATURES_BYTES: expected a whole number of bytes, got {named!r}; "
            "0 keeps features of frozen stages off the disk"
        )
    return int(named)
