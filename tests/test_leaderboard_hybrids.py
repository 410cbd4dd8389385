import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import failed, record, tables

from fashiontl.core.case import Case
from fashiontl.core.metrics import Measurement
from fashiontl.core.stats import Interval
from fashiontl.models.registry import members
from fashiontl.records import Record
from fashiontl.reports.leaderboard import page as leaderboard
from fashiontl.reports.leaderboard.hybrids import difference, hybrids_text
from fashiontl.reports.leaderboard.names import Names
from fashiontl.reports.leaderboard.rows import Row, row_of

FOUR = "vgg11+resnet18+mobilenet_v2+densenet121"
NUMBERS = st.floats(-10, 10)


def cell(architecture: str, accuracy: float, seconds: float = 0.01, policy: str = "full", **axes: Any) -> Record:
    measured = (
        Measurement("accuracy", (accuracy,), 10_000),
        Measurement("latency", (seconds,) * 9),
        Measurement("inference_peak_memory", (seconds * 1e9,)),
    )
    return record(Case(architecture, policy, **axes), measurements=measured)


def text(records: Sequence[Record]) -> str:
    rows = [row_of(each) for each in records]
    return hybrids_text(rows, Names.of(rows)).replace("\xa0", " ")


def lines(records: Sequence[Record]) -> list[list[str]]:
    return [line[:1] + line[3:] for line in tables(text(records))[0][1:]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("joined:a+b+c", ("a", "b", "c")),
        ("mean:timm/a.b+b", ("timm/a.b", "b")),
        ("resnet18", ()),
        ("mean:resnet18", ()),
        ("other:a+b", ()),
        ("a+b", ()),
    ],
)
def test_members(name: str, expected: tuple[str, ...]) -> None:
    assert members(name) == expected


def test_whether_combining_helps() -> None:
    records = [
        cell("vgg11", 0.9, 0.02),
        cell("resnet18", 0.85),
        cell("mean:vgg11+resnet18", 0.95, 0.03),
        cell("joined:vgg11+resnet18", 0.905, 0.03),
        cell("mean:resnet18+vgg11", 0.5, 0.03),
    ]
    assert tables(text(records))[0][0] == [
        "Architecture", "Policy", "Weights", "Accuracy (%)", "Best member", "Difference (points)", "It helps",
        "Latency (times)", "Inference peak (times)", "Training speed (times)",
    ]  # fmt: skip
    assert lines(records) == [
        ["mean:vgg11+resnet18", "**95.0 ± 0.4**", "vgg11", "+5.0 ± 1.0", "yes", "1.5", "1.5", "—"],
        ["joined:vgg11+resnet18", "90.5 ± 0.6", "vgg11", "+0.5 ± 1.2", "not proven", "1.5", "1.5", "—"],
        ["mean:resnet18+vgg11", "50.0 ± 1.0", "vgg11", "-40.0 ± 1.6", "no, it harms", "1.5", "1.5", "—"],
    ]
    assert text(records).startswith(
        "**Does combining help?** Proven in 1 of 3 comparisons with the most accurate member under the same policy. "
    )


def test_only_like_is_compared() -> None:
    records = [
        cell("mean:vgg11+resnet18", 0.95),
        cell("vgg11", 0.99, policy="last_2"),
        cell("vgg11", 0.99, weights="imagenet"),
        cell("vgg11", 0.99, device="cuda"),
        cell("vgg11", 0.99, precision="bf16"),
        cell("vgg11", 0.99, batch=64),
        cell("densenet121", 0.99),
        failed(Case("vgg11", "full"), "oom", "too big"),
    ]
    assert lines(records) == [["mean:vgg11+resnet18", "", "cpu", "95.0 ± 0.4", *["—"] * 6]]
    assert text(records).startswith("**Does combining help?** No member went well under the same policy.\n\n|")


def test_a_member_that_was_not_measured_is_said() -> None:
    found = lines([cell(f"mean:{FOUR}", 0.95), cell("vgg11", 0.9), cell("resnet18", 0.95)])
    assert found[0][2] == "resnet18 (of 2 measured)"
    assert found[0][3] == "+0.0 ± 0.9"


def test_a_small_loss_is_no_negative_zero() -> None:
    assert lines([cell("mean:vgg11+resnet18", 0.8999), cell("vgg11", 0.9), cell("resnet18", 0.1)])[0][3] == "+0.0 ± 1.2"


def test_variants_are_compared_with_their_like() -> None:
    records = [
        cell(name, accuracy, precision=precision)
        for precision, (one, other) in {"fp32": (0.9, 0.95), "bf16": (0.8, 0.7)}.items()
        for name, accuracy in (("vgg11", one), ("resnet18", 0.1), ("mean:vgg11+resnet18", other))
    ]
    assert [(line[1], line[4], line[5]) for line in lines(records)] == [
        ("", "+5.0 ± 1.0", "yes"), ("bf16", "-10.0 ± 1.7", "no, it harms"),
    ]  # fmt: skip


def test_without_accuracy_nothing_is_compared() -> None:
    made = cell("mean:vgg11+resnet18", 0.9)
    assert text([dataclasses.replace(made, measurements=made.measurements[1:])]) == ""


def test_without_hybrids_there_is_nothing() -> None:
    assert text([cell("vgg11", 0.9), failed(Case("mean:vgg11+resnet18", "full"), "oom", "too big")]) == ""


def test_many_comparisons_are_folded_away() -> None:
    records = [cell("mean:vgg11+resnet18", 0.9, policy=f"policy{number:02}") for number in range(13)]
    assert "<details><summary>All comparisons</summary>" in text(records)
    assert "<details>" not in text(records[1:])


@given(*[st.tuples(NUMBERS, NUMBERS, NUMBERS)] * 2)
def test_a_difference_is_proven_when_the_intervals_are_apart(
    first: tuple[float, float, float], second: tuple[float, float, float]
) -> None:
    one, other = (Interval(sorted(values)[1], min(values), max(values)) for values in (first, second))
    found = difference(one, other)
    assert found.low <= found.estimate <= found.high
    assert (found.low <= 0 <= found.high) == one.overlaps(other)


def names(*architectures: str) -> Names:
    rows: list[Row] = [row_of(cell(name, 0.9)) for name in architectures]
    return Names.of(rows)


def test_long_hybrids_are_called_by_a_letter() -> None:
    found = names(f"mean:{FOUR}", "mean:vgg11+resnet18", "joined:efficientnet_b0+vgg11", f"joined:{FOUR}", "a_b_")
    shown = [f"mean:{FOUR}", f"joined:{FOUR}", "joined:efficientnet_b0+vgg11", "mean:vgg11+resnet18", "a_b_", "x" * 30]
    assert [found.architecture(name) for name in shown] == [
        "mean of A", "joined A", "joined B", "mean:vgg11+resnet18", "a_b\\_", "x" * 30,
    ]  # fmt: skip
    assert found.legend() == (
        "**Hybrids**: *mean* averages the probabilities of networks that were trained each on its own; *joined* is one "
        "head on their joined features. A is vgg11 + resnet18 + mobilenet_v2 + densenet121. "
        "B is efficientnet_b0 + vgg11."
    )


def test_letters_do_not_end() -> None:
    found = names(*(f"mean:a_network_called_{number}+another" for number in range(53)))
    assert [*found.letters.values()][25:28] == ["Z", "A2", "B2"]
    assert [*found.letters.values()][-1] == "A3"


def test_legend_only_with_hybrids() -> None:
    assert names("vgg11").legend() == ""
    page = leaderboard.render([cell("vgg11", 0.9), cell(f"mean:{FOUR}", 0.9)])
    assert "\n\n**Hybrids**: " in page
    assert tables(page)[0][1][0] == "mean of A"
    assert FOUR not in page[page.index("## ") :]
