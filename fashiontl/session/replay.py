"""Samples that were taken elsewhere, as pytest-benchmark takes them: from a clock."""

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class ReplayTimer:
    """A clock that makes pytest-benchmark read samples taken elsewhere: calls alternate between 0 and a sample."""

    samples: list[float] = field(default_factory=list)
    __name__ = "worker_samples"

    def __post_init__(self) -> None:
        self._readings = self._read()

    def __call__(self) -> float:
        """The next reading, in seconds."""
        return next(self._readings)

    def _read(self) -> Iterator[float]:
        for sample in self.samples:
            yield 0.0
            yield sample
