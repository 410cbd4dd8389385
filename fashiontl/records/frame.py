"""Records as a table of pandas, for analyses of one's own."""

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from fashiontl.core.case import Case
from fashiontl.records.record import Record

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = (
    *(field.name for field in fields(Case)),
    "machine", "run", "started", "status", "metric", "unit", "trials", "sample", "value",
)  # fmt: skip


def to_frame(records: Iterable[Record]) -> "pd.DataFrame":
    """The raw values, a line each; pandas is loaded when it is called.

    >>> from pathlib import Path
    >>> from fashiontl.records import latest, read_runs
    >>> frame = to_frame(latest(read_runs(Path("results")).records))  # doctest: +SKIP
    >>> frame[frame.metric == "latency"].groupby(["architecture", "policy"]).value.median()  # doctest: +SKIP

    Args:
        records: as from `read_runs` or `latest`; a metric without values, which is unknown, has no line.

    Returns:
        Columns: the fields of `Case`; of the record `machine`, `run`, `started` (UTC) and `status`; of the measurement
        `metric`, its base `unit` and `trials`; `sample` from 0 in the order in which they were taken (int64); `value`
        in the base unit (float64).
    """
    import pandas as pd

    lines = [
        (
            *asdict(record.case).values(), record.machine, record.run, record.started, record.status,
            measurement.metric, measurement.unit, measurement.trials, range(len(measurement.values)),
            measurement.values,
        )
        for record in records for measurement in record.measurements if measurement.values
    ]  # fmt: skip
    frame = pd.DataFrame(lines, columns=list(_COLUMNS)).explode(["sample", "value"], ignore_index=True)
    return frame.assign(started=pd.to_datetime(frame["started"], utc=True)).astype({"sample": "int64", "value": float})
