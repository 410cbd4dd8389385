"""Throughput by batch size, reduced from a record's provenance."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fashiontl.core.stats import Interval, median_interval

_MOST_BATCH = 2**31
# No call takes less or more, and a pace of such a call is a finite number.
_SECONDS = (1e-12, 1e12)


@dataclass(frozen=True, slots=True)
class Sweep:
    """What was run at one batch size after the other.

    Attributes:
        paces: images a second by batch size.
        largest: the largest batch size that ran; None when unknown.
        limit: why there is no larger one: `memory`, `setting` or `time`; empty when unknown.
    """

    paces: dict[int, Interval]
    largest: int | None
    limit: str


def sweeps_of(provenance: Mapping[str, Any]) -> dict[str, Sweep]:
    """Read `sweep`, by what was run; `inference` and `training` where they are known.

    Most records lack it and foreign ones may hold anything; what cannot be read is left out.
    """
    found = provenance.get("sweep")
    if not isinstance(found, dict):
        return {}
    sweeps = {name: _sweep(found[name]) for name in ("inference", "training") if isinstance(found.get(name), dict)}
    return {name: sweep for name, sweep in sweeps.items() if sweep.paces}


def _sweep(entry: Mapping[str, Any]) -> Sweep:
    points = entry.get("points")
    known = [point for point in points if _is_point(point)] if isinstance(points, list | tuple) else []
    largest, limit = entry.get("largest"), entry.get("limit")
    return Sweep(
        {
            point["batch"]: median_interval([point["batch"] / seconds for seconds in point["seconds"]])
            for point in known
        },
        largest if type(largest) is int and 0 < largest < _MOST_BATCH else None,
        limit if isinstance(limit, str) and limit in {"memory", "setting", "time"} else "",
    )


def _is_point(point: Any) -> bool:
    if not isinstance(point, dict):
        return False
    batch, seconds = point.get("batch"), point.get("seconds")
    return (
        type(batch) is int
        and 0 < batch < _MOST_BATCH
        and isinstance(seconds, list | tuple)
        and len(seconds) > 0
        and all(type(value) in {int, float} and _SECONDS[0] < value < _SECONDS[1] for value in seconds)
    )
