"""Phases called as a worker calls them: the job and the result pass through JSON."""

import json
from collections.abc import Callable
from typing import Any, get_type_hints

import msgspec

from fashiontl.core.metrics import METRICS
from fashiontl.runner.messages import PhaseResult

# Metrics with one value for each sample or seed; the others have one value.
SAMPLED = {
    "accuracy", "training_time", "latency", "device_latency", "inference_throughput", "train_throughput",
    "end_to_end_throughput", *(name for name in METRICS if name.startswith("step_")),
}  # fmt: skip


def run(phase: Callable[..., Any], job: Any, lines: list[str] | None = None) -> dict[str, Any]:
    """What a phase returns, as one dictionary: measurements by metric, and all that comes with them."""
    sent = json.loads(msgspec.json.encode(job))
    result = phase(
        msgspec.convert(sent, get_type_hints(phase)["job"]), (lambda text: None) if lines is None else lines.append
    )
    return flat(result)


def flat(result: Any) -> dict[str, Any]:
    """A result as one dictionary."""
    found: dict[str, Any] = json.loads(json.dumps(msgspec.to_builtins(result), allow_nan=False))
    if isinstance(result, PhaseResult):
        for each in found.pop("measurements"):
            name, values = each["metric"], each["values"]
            found[name] = values if name in SAMPLED else values[0]
            found["trials"] = each["trials"] or found.get("trials", 0)
        found |= found.pop("provenance") | found.pop("loops")
    return found
