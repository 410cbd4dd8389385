"""Records as a table of pandas, for analyses of one's own."""

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from fashiontl.core.case import Case
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
        in the base unit (float64).
    """
    import pandas as pd  # slow to import, and only tables need it

    columns = [*(field.name for field in fields(Case)), "machine", "run", "started", "status"]
    columns += ["metric", "unit", "trials", "sample", "value"]
    rows = [
        (*asdict(record.case).values(), record.machine, record.run, record.started, record.status, each.metric,
         each.unit, each.trials, sample, value)
        for record in records for each in record.measurements for sample, value in enumerate(each.values)
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(started=pd.to_datetime(frame["started"], utc=True)).astype({"sample": "int64", "value": float})
