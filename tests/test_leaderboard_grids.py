import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import failed, matrix, record, tables

from fashiontl.core.case import Case
from fashiontl.core.metrics import Measurement
from fashiontl.freezing import POLICIES
from fashiontl.records import Record
from fashiontl.reports.leaderboard import page as leaderboard
from fashiontl.reports.leaderboard.footnotes import Footnotes
from fashiontl.reports.leaderboard.grids import frontier, grids_text
from fashiontl.reports.leaderboard.names import Names
from fashiontl.reports.leaderboard.rows import Row, by_accuracy, row_of


def cell(
    architecture: str, policy: str, accuracy: float, speed: Sequence[float] = (), *, case: Case | None = None
) -> Record:
    measured = (Measurement("accuracy", (accuracy,), 10_000), Measurement("train_throughput", tuple(speed)))
    return record(case or Case(architecture, policy), measurements=measured)


def grids(records: Sequence[Record]) -> str:
    rows = by_accuracy([row_of(each) for each in records])
    return grids_text(rows, Names.of(rows), Footnotes(rows)).replace("\xa0", " ")


def fourteen() -> list[Record]:
    """Two architectures and seven policies, accuracies from 60 % in steps of one point."""
    policies = ["mine", "full", "scratch", "linear_probe", "bn_only", "last_2", "last_stage"]
    pairs = [(network, policy) for network in ("vgg11", "resnet18") for policy in policies]
    return [
        cell(*pair, (60 + number) / 100, [(100 + number) * (1 + step / 1000) for step in range(9)])
        for number, pair in enumerate(pairs)
    ]


def test_the_grid() -> None:
    records = fourteen()
    records[9] = failed(Case("resnet18", "scratch"), "oom", "too big")
    records[1] = dataclasses.replace(records[1], warnings=("a doubt",))
    del records[3]
    page = grids(records)
    assert tables(page)[0] == [
        ["Architecture", "scratch", "linear_probe", "last_stage", "last_2", "full", "bn_only", "mine"],
        ["resnet18", "oom", "70.0", "~**73.0** ★", "72.0", "68.0", "71.0", "67.0"],
        ["vgg11", "62.0", "—", "~**66.0**", "65.0", "61.0 ¹", "64.0", "60.0"],
    ]
    assert page.startswith("**Accuracy (%)** by architecture and policy\n\n| ")
    assert (
        "\n\nEach number is ± 0.9 to 1.0 points. ★ is the best of all, not proven: its interval overlaps 1 other.\n"
        in page
    )


def test_best_of_a_line_is_marked_as_in_a_column() -> None:
    records = fourteen()
    records[5] = cell("vgg11", "last_2", 0.9)
    page = grids(records)
    assert tables(page)[0][1] == ["vgg11", "62.0", "63.0", "66.0", "**90.0** ★", "61.0", "64.0", "60.0"]
    assert tables(page)[0][2][3] == "~**73.0**"
    assert "★ is the best of all, proven." in page


def test_costs_are_folded_away() -> None:
    page = grids(fourteen())
    folded = page[page.index("<details>") :]
    assert "**Training (images/s)** by architecture and policy" in folded
    speed, memory = tables(folded)
    assert speed[1] == ["resnet18", "109", "110", "**113** ★", "112", "108", "111", "107"]
    assert {text for line in memory[1:] for text in line[1:]} == {"—"}


def test_a_single_measurement_proves_nothing() -> None:
    page = leaderboard.render(matrix())
    assert "\n★ is the best of all, not proven: a single measurement has no interval.\n" in page


@pytest.mark.parametrize(
    "cases",
    [
        [Case(network, policy) for network in ("vgg11", "resnet18") for policy in list(POLICIES)[:6]],
        [Case("vgg11", policy) for policy in list(POLICIES)[:13]],
        [Case(f"net{number}", "full") for number in range(13)],
    ],
    ids=["twelve rows", "one architecture", "one policy"],
)
def test_small_sections_have_none(cases: list[Case]) -> None:
    assert grids([record(case) for case in cases]) == ""


def test_many_policies_are_cut_into_even_grids() -> None:
    policies = [f"policy{number:02}" for number in range(19)]
    page = grids([cell(network, policy, 0.9) for network in ("vgg11", "resnet18") for policy in policies])
    blocks = tables(page[: page.index("Each number")])
    assert [block[0] for block in blocks] == [
        ["Architecture", *policies[:7]], ["Architecture", *policies[7:14]], ["Architecture", *policies[14:]],
    ]  # fmt: skip


def test_scratch_stands_beside_every_start_of_its_architecture() -> None:
    cases = [
        Case(network, policy, weights=weights)
        for network in ("vgg11", "resnet18")
        for policy in ("linear_probe", "full", "last_2")
        for weights in ("imagenet", "some/where/mine.pt")
    ]
    records = [cell("", "", (50 + number) / 100, case=case) for number, case in enumerate(cases)]
    page = grids([*records, cell("vgg11", "scratch", 0.9), cell("densenet121", "scratch", 0.2)])
    assert tables(page)[0] == [
        ["Architecture", "Weights", "scratch", "linear_probe", "last_2", "full"],
        ["vgg11", "imagenet", "**90.0** ★", "50.0", "54.0", "52.0"],
        ["vgg11", "mine.pt", "**90.0** ★", "51.0", "55.0", "53.0"],
        ["resnet18", "mine.pt", "—", "57.0", "**61.0**", "59.0"],
        ["resnet18", "imagenet", "—", "56.0", "**60.0**", "58.0"],
        ["densenet121", "none", "20.0", "—", "—", "—"],
    ]
    assert "★ is the best of all, proven." in page


def test_devices_have_lines_of_their_own() -> None:
    cases = [
        Case(network, policy, device)
        for network in ("vgg11", "resnet18")
        for policy in list(POLICIES)[:4]
        for device in ("cuda", "cuda:1")
    ]
    page = grids([cell("", "", 0.9, [1.0], case=case) for case in cases])
    assert [line[:2] for line in tables(page)[0]] == [
        ["Architecture", "Device"], ["resnet18", "cuda"], ["resnet18", "cuda:1"], ["vgg11", "cuda"],
        ["vgg11", "cuda:1"],
    ]  # fmt: skip


VARIANTS = ({}, {"precision": "bf16"}, {"batch": 64}, {"image_size": 64, "execution": "compile"})


def test_variants_have_lines_of_their_own() -> None:
    cases = [
        Case(network, policy, **variant)
        for network in ("vgg11", "resnet18")
        for variant in VARIANTS[:2]
        for policy in ("scratch", "full", "last_2", "bn_only")
    ]
    page = grids([cell("", "", (80 - number) / 100, case=case) for number, case in enumerate(cases)])
    assert tables(page)[0] == [
        ["Architecture", "Variant", "scratch", "last_2", "full", "bn_only"],
        ["vgg11", "", "~**80.0** ★", "78.0", "79.0", "77.0"],
        ["vgg11", "bf16", "~**76.0**", "74.0", "75.0", "73.0"],
        ["resnet18", "", "~**72.0**", "70.0", "71.0", "69.0"],
        ["resnet18", "bf16", "~**68.0**", "66.0", "67.0", "65.0"],
    ]


CELLS = st.builds(
    lambda axes, variant: Case(*axes, **variant),
    st.tuples(
        st.sampled_from(["vgg11", "resnet18"]),
        st.sampled_from(["scratch", "full", "last_2", "of_a_user"]),
        st.sampled_from(["cpu", "cuda"]),
        st.just("fashion4"),
        st.sampled_from(["", "none", "imagenet", "mine.pt"]),
    ),
    st.sampled_from(VARIANTS),
)


def is_worth_a_grid(cases: list[Case]) -> bool:
    return len({case.architecture for case in cases}) > 1 and len({case.policy for case in cases}) > 1


@given(st.lists(CELLS, min_size=13, max_size=60, unique=True).filter(is_worth_a_grid))
def test_no_cell_is_left_out(cases: list[Case]) -> None:
    page = grids([cell("", "", 0.9, [1000.0 + number], case=case) for number, case in enumerate(cases)])
    speeds = page[page.index("**Training (images/s)** by architecture") : page.index("**Training peak")]
    shown = {text.strip("~* ★") for table in tables(speeds) for line in table[1:] for text in line}
    assert {str(1000 + number) for number in range(len(cases))} <= shown


def test_without_accuracy_costs_are_open() -> None:
    records = [dataclasses.replace(each, measurements=each.measurements[1:]) for each in fourteen()]
    page = grids(records)
    assert page.startswith("**Training (images/s)** by architecture and policy\n\n")
    assert "<details>" not in page
    assert "**Accuracy" not in page


def test_the_short_list() -> None:
    records = [*fourteen()[:-1], cell("resnet18", "last_stage", 0.8, [90.0])]
    page = grids(records)
    heading = page[page.index("**Accuracy against") :].split("\n")[0]
    header, best, next_best = tables(page)[1]
    assert heading == (
        "**Accuracy against training speed**: the cells to choose from. Whatever is more accurate than one of these "
        "trains more slowly, by the estimates."
    )
    assert header == [
        "Architecture", "Policy", "Weights", "Accuracy (%)", "Training (images/s)", "Latency p50 (ms)",
        "Training peak (MiB)", "Status",
    ]  # fmt: skip
    assert best == ["resnet18", "last_stage", "fashion6", "**80.0 ± 0.8**", "90.0", "—", "—", "ok"]
    assert next_best == ["resnet18", "last_2", "fashion6", "72.0 ± 0.9", "~**112.4 ± 0.3**", "—", "—", "ok"]


def test_the_short_list_ends_after_ten() -> None:
    pairs = [(network, f"policy{number}") for number in range(7) for network in ("vgg11", "resnet18")]
    records = [cell(*pair, (90 - number) / 100, [100.0 + number]) for number, pair in enumerate(pairs)]
    page = grids(records)
    assert "by the estimates; the most accurate 10 of 14." in page
    assert len(tables(page)[1]) == 11


def rows(points: Sequence[tuple[int, int]]) -> list[Row]:
    return [
        row_of(cell("vgg11", f"policy{number}", accuracy / 10, [speed]))
        for number, (accuracy, speed) in enumerate(points)
    ]


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(1, 10)), max_size=20))
def test_the_frontier_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    found = {row.record.case.policy for row in frontier(rows(points))}
    unbeaten = {
        f"policy{number}"
        for number, (accuracy, speed) in enumerate(points)
        if not any(a >= accuracy and s >= speed and (a, s) != (accuracy, speed) for a, s in points)
    }
    assert found == unbeaten


def test_what_failed_or_is_unknown_is_not_on_the_frontier() -> None:
    invalid = dataclasses.replace(cell("vgg11", "full", 0.99, [9.0]), status="invalid")
    slow, unknown = cell("vgg11", "last_2", 0.5, [1.0]), cell("vgg11", "bn_only", 0.9)
    assert [row.record.case.policy for row in frontier([row_of(each) for each in (invalid, slow, unknown)])] == [
        "last_2"
    ]


def test_large_tables_are_folded_and_grouped() -> None:
    policies = list(POLICIES)[:13]
    records = [
        cell(network, policy, (60 + 2 * number + other) / 100, [1.0])
        for other, network in enumerate(("vgg11", "resnet18"))
        for number, policy in enumerate(policies)
    ]
    page = leaderboard.render(records)
    table = tables(page[page.index("<details><summary>All 26 cells</summary>") :])[0]
    assert [line[0] for line in table[1:]] == ["resnet18"] * 13 + ["vgg11"] * 13
    assert [line[1] for line in table[1:14]] == policies[::-1]
    fewer = leaderboard.render(records[:24])
    assert "cells</summary>" not in fewer
