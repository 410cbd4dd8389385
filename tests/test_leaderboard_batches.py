import dataclasses
import math
from typing import Any

import pytest
from records import failed, record, sweep, tables

from fashiontl.core.case import Case
from fashiontl.core.stats import Interval
from fashiontl.records import Record
from fashiontl.reports.leaderboard.batches import batches_text
from fashiontl.reports.leaderboard.names import Names
from fashiontl.reports.leaderboard.rows import row_of
from fashiontl.reports.leaderboard.sweeps import Sweep, sweeps_of

OPEN = (-math.inf, math.inf)


def swept(policy: str, **sweeps: Any) -> Record:
    made = record(Case("vgg11", policy))
    return dataclasses.replace(made, provenance=made.provenance | {"sweep": sweeps})


def points(**seconds: float) -> list[dict[str, Any]]:
    """Points by `b` and their batch size."""
    return [{"batch": int(name[1:]), "seconds": [value] * 9} for name, value in seconds.items()]


def text(*records: Record) -> str:
    rows = [row_of(each) for each in records]
    return "\n\n".join(batches_text(rows, Names.of(rows)))


def test_throughput_by_batch_size() -> None:
    first = {"points": points(b1=0.01, b2=0.01, b4=0.02), "largest": 4, "limit": "memory"}
    second = {"points": points(b1=0.02, b2=0.02), "largest": 2, "limit": "time"}
    page = text(
        swept("full", inference=first, training=second),
        swept("scratch", inference=second),
        record(Case("vgg11", "last_2")),
        failed(Case("vgg11", "bn_only"), "oom", "too big"),
    )
    assert tables(page) == [
        [
            ["Architecture", "Policy", "Weights", "1", "2", "4", "Largest"],
            ["vgg11", "full", "fashion6", "100", "~**200**", "~**200**", "4 (memory)"],
            ["vgg11", "scratch", "none", "50.0", "**100**", "—", "2 (time)"],
        ],
        [
            ["Architecture", "Policy", "Weights", "1", "2", "Largest"],
            ["vgg11", "full", "fashion6", "50.0", "**100**", "2 (time)"],
        ],
    ]
    assert "\n\n**Inference (images/s)** by batch size\n\n| " in page
    assert "\n\n**Training (images/s)** by batch size\n\n| " in page
    assert page.endswith("\n\nEach number is ± 0 % of itself.")


def test_what_is_not_sound_is_never_best() -> None:
    entry = {"points": points(b1=0.01, b2=0.01)}
    page = text(dataclasses.replace(swept("full", training=entry), status="invalid"))
    assert tables(page)[0][1][3:] == ["100", "200", "—"]


def test_without_a_sweep_there_is_nothing() -> None:
    assert text(record(Case("vgg11", "full"))) == ""


def test_a_sweep_is_reduced_to_paces() -> None:
    entry = {"points": [{"batch": 8, "seconds": [0.5, 0.25, 1.0]}], "largest": 8, "limit": "setting"}
    assert sweeps_of({"sweep": {"training": entry}}) == {"training": Sweep({8: Interval(16.0, *OPEN)}, 8, "setting")}
    assert sweeps_of({"sweep": {"inference": sweep(16, 4, "memory", 1.0)}})["inference"].paces.keys() == {1, 2, 4}


@pytest.mark.parametrize(
    "found",
    [None, 3, [], {}, {"inference": None}, {"inference": {}}, {"inference": {"points": 3}}, {"other": {"points": []}}],
)
def test_what_is_no_sweep_is_left_out(found: Any) -> None:
    assert sweeps_of({"sweep": found}) == {}


@pytest.mark.parametrize(
    "point",
    [None, {}, {"batch": 2}, {"batch": 0, "seconds": [1.0]}, {"batch": True, "seconds": [1.0]},
     {"batch": 10**400, "seconds": [1.0]}, {"batch": 2, "seconds": []}, {"batch": 2, "seconds": [0.0]},
     {"batch": 2, "seconds": ["1"]}, {"batch": 2, "seconds": [5e-324]}, {"batch": 2, "seconds": [10**400]}],
)  # fmt: skip
def test_what_is_no_point_is_left_out(point: Any) -> None:
    entry = {"points": [point, {"batch": 4, "seconds": [2]}], "largest": "4", "limit": ["memory"]}
    assert sweeps_of({"sweep": {"inference": entry}}) == {"inference": Sweep({4: Interval(2.0, *OPEN)}, None, "")}
