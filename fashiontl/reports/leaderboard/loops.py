"""How the timing loops of a case went, counted from a record's provenance."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Loops(NamedTuple):
    """Counts of timing loops.

    Attributes:
        precise: that ended because their median was precise enough.
        time: because their time was up.
        samples: because there were samples enough.
        unsteady: whose warm-up ended before the calls were steady.
        throttled: that dropped samples because the machine was slowed down meanwhile.
    """

    precise: int
    time: int
    samples: int
    unsteady: int
    throttled: int


def loops_of(provenance: Mapping[str, Any]) -> Loops:
    """Read `timing`, one entry a loop. Old records lack it and foreign ones may hold anything; nothing is then counted.

    >>> loops_of({"timing": {"latency": {"ended": "time", "steady": False, "throttled": 3}}})
    Loops(precise=0, time=1, samples=0, unsteady=1, throttled=1)
    """
    timing = provenance.get("timing")
    facts = [entry for entry in timing.values() if isinstance(entry, dict)] if isinstance(timing, dict) else []
    ended = [entry.get("ended") for entry in facts]
    dropped = [entry.get("throttled") for entry in facts]
    return Loops(
        precise=ended.count("precise"),
        time=ended.count("time"),
        samples=ended.count("samples"),
        unsteady=sum(entry.get("steady") is False for entry in facts),
        throttled=sum(type(count) is int and count > 0 for count in dropped),
    )
