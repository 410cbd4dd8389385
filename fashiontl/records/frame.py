"""Records as a table of pandas, for analyses of one's own."""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from fashiontl.core.case import Case
from fashiontl.core.metrics import Measurement
from fashiontl.records.record import Record

if TYPE_CHECKING:
    import pandas as pd


def to_frame(records: Iterable[Record]) -> "pd.DataFrame":
    """The raw values, one row each.

    >>> frame = to_frame(latest(read_runs(Path("results")).records))  # doctest: +SKIP
    >>> frame[frame.metric == "latency"].groupby(["architecture", "policy"]).value.median()  # doctest: +SKIP

    Returns:
        Columns: the fields of `Case`; of the record `machine`, `run`, `started` (UTC) and `status`; of the measurement
        `metric`, its base `unit` and `trials`; `sample` from 0 in the order in which they were taken (int64); `value`
        in the base unit (float64). Of values that were timed in slices: `group`, `slice` from 0, `process`, `round`
        (Int64) and `start` in seconds since the group began (float64), else none; `disturbed` says whether the
        slice is marked (bool).
    """
    import pandas as pd  # slow to import, and only tables need it

    columns = [*(field.name for field in fields(Case)), "machine", "run", "started", "status"]
    columns += ["metric", "unit", "trials", "group", "slice", "process", "round", "start", "disturbed"]
    columns += ["sample", "value"]
    rows = [
        (*asdict(record.case).values(), record.machine, record.run, record.started, record.status, each.metric,
         each.unit, each.trials, *taken, sample, value)
        for record in records for each in record.measurements
        for sample, (value, taken) in enumerate(zip(each.values, _slices(each), strict=True))
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(started=pd.to_datetime(frame["started"], utc=True)).astype(
        {
            "slice": "Int64", "process": "Int64", "round": "Int64", "start": float, "disturbed": bool,
            "sample": "int64", "value": float,
        }
    )  # fmt: skip


def _slices(measurement: Measurement) -> Iterator[tuple[object, ...]]:
    """How each value was taken: group, slice, process, round, start, and whether the slice is disturbed."""
    slices = measurement.slices
    if slices is None:
        yield from itertools.repeat((None, None, None, None, math.nan, False), len(measurement.values))
        return
    marked = set(itertools.chain.from_iterable(slices.disturbed.values()))
    lists = zip(slices.counts, slices.processes, slices.rounds, slices.starts, strict=True)
    for index, (count, process, round_, start) in enumerate(lists):
        yield from itertools.repeat((slices.group, index, process, round_, start, index in marked), count)
