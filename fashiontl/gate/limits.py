"""What the gate tolerates and what it must detect, metric by metric. No torch."""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["timed", "size", "exact", "accuracy"]


@dataclass(frozen=True)
class Limit:
    """Two limits: a change up to the first fails nothing, and one of the second is detected. Between them is leeway.

    Attributes:
        kind: how it is judged: `timed` by trials, `size` by repeated processes, `exact` by equality, `accuracy` by
            paired answers.
        tolerated: a change for the worse that fails nothing: relative (0.02 is 2 %), for accuracy a fraction.
        detect: a change for the worse that must not pass, likewise.
        floor: of a size, in bytes, what is tolerated in any case.
        repeats: processes an arm, or seeds of accuracy, that a verdict takes.
        percentile: of a timed metric, of a trial's slices; None is the median of paired slices. It is advisory.
    """

    metric: str
    kind: Kind
    tolerated: float = 0.0
    detect: float = 0.0
    floor: float = 0.0
    repeats: int = 1
    percentile: float | None = None


# Seconds a call, also where the metric is throughput: one limit for the same work under two names.
TIMED = ("latency", "inference_throughput", "train_throughput")
_SIZES = ("training_peak_memory", "inference_peak_memory")
_EXACT = ("parameters", "trainable_parameters", "flops", "training_flops")
COUNTED = (*_SIZES, *_EXACT)

LIMITS: dict[str, Limit] = {
    **{name: Limit(name, "timed", 0.02, 0.05) for name in TIMED},
    # Resident sets of the same code in fresh processes ranged over 6 %, in two clusters. If each process falls into
    # either by a toss, six of one arm all fall into the upper and six of the other into the lower once in 4,096 times.
    **{name: Limit(name, "size", 0.05, 0.10, repeats=6) for name in _SIZES},
    **{name: Limit(name, "exact") for name in _EXACT},
    "accuracy": Limit("accuracy", "accuracy", 0.001, 0.005, repeats=5),
}
# Shown beside the median, and never decides: a rare pause of the machine is enough to move it.
TAIL = Limit("latency", "timed", 0.05, 0.10, percentile=95.0)

# CUDA's allocator counts its own blocks, so its peak repeats to the byte unless the choice of kernels differs.
_CUDA_SIZES = {name: Limit(name, "size", 0.01, 0.02, floor=2.0**20, repeats=2) for name in _SIZES}
_ON_CUDA = re.compile(r"-cuda(:\d+)?(-|$)")


def limit_of(cell: str, metric: str) -> Limit | None:
    """The limits of a cell (the id of a case) and metric; None for a metric that the gate does not judge.

    >>> limit_of("resnet18-full-cpu", "inference_peak_memory").tolerated
    0.05
    >>> limit_of("resnet18-full-cuda:1-bf16", "inference_peak_memory").tolerated
    0.01
    """
    return _CUDA_SIZES.get(metric, LIMITS.get(metric)) if on_cuda(cell) else LIMITS.get(metric)


def on_cuda(cell: str) -> bool:
    """Whether a cell runs on CUDA, as its id says."""
    return _ON_CUDA.search(cell) is not None


def processes_of(cell: str) -> int:
    """Processes of each arm that count a cell: as many as the most demanding of its limits asks for."""
    return max(limit.repeats for metric in COUNTED if (limit := limit_of(cell, metric)))
