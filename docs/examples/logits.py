"""A phase of one's own, with its metric: how large the logits of an untrained network are."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from fashiontl.core.metrics import Metric
from fashiontl.matrix.extensions import ExtraPhase, register

if TYPE_CHECKING:
    from fashiontl.runner.messages import PhaseResult
    from fashiontl.runner.workload import Workload


def measure(work: "Workload", progress: Callable[[str], None]) -> "PhaseResult":
    """Run in a worker process, after the built-in phases of each cell."""
    import torch

    from fashiontl.runner.messages import PhaseResult

    progress("measuring logits")
    [network] = work.networks()
    with torch.inference_mode():
        logits = network.eval()(work.random_images(8))
    result = PhaseResult()
    result.measure("largest_logit", logits.abs().max().item())
    return result


register(
    Metric("largest_logit", unit="1", better="lower", label="Largest logit"),
    ExtraPhase("logits", "logits:measure"),
)
