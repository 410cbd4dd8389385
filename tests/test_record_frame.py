import pandas as pd
from records import record

from fashiontl.core.case import Case
from fashiontl.core.metrics import Measurement
from fashiontl.records.frame import to_frame


def test_each_raw_value_is_a_line() -> None:
    measured = (Measurement("accuracy", (0.5, 0.75), 40), Measurement("latency", ()), Measurement("latency", (2e-3,)))
    frame = to_frame([record(Case("vgg11", "full"), measurements=measured), record(Case("vgg11", "scratch"))][:1])
    assert frame[["architecture", "policy", "metric", "unit", "trials", "sample", "value"]].values.tolist() == [
        ["vgg11", "full", "accuracy", "1", 40, 0, 0.5],
        ["vgg11", "full", "accuracy", "1", 40, 1, 0.75],
        ["vgg11", "full", "latency", "s", 0, 0, 2e-3],
    ]
    assert str(frame["started"].dt.tz) == "UTC"


def test_no_records_are_an_empty_table_of_the_same_columns() -> None:
    full, empty = to_frame([record(Case("vgg11", "full"))]), to_frame([])
    assert len(full) == sum(len(each.values) for each in record(Case("vgg11", "full")).measurements) > 0
    assert (list(empty.columns), len(empty)) == (list(full.columns), 0)
    assert pd.api.types.is_float_dtype(empty["value"])
