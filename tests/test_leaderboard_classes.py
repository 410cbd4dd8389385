import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import evaluated, record, tables

from fashiontl.core.case import Case
from fashiontl.core.metrics import Measurement
from fashiontl.core.stats import accuracy_interval, wilson
from fashiontl.records import Record, from_json, to_json
from fashiontl.reports.leaderboard import page as leaderboard
from fashiontl.reports.leaderboard.answers import Answers, answers_of
from fashiontl.reports.leaderboard.classes import class_names, classes_text
from fashiontl.reports.leaderboard.names import Names
from fashiontl.reports.leaderboard.rows import row_of


def answered(case: Case, *seeds: dict[str, Any], accuracy: float = 0.9) -> Record:
    provenance = {"evaluation": list(seeds)}
    return record(case, provenance=provenance, measurements=(Measurement("accuracy", (accuracy,), 800),))


def text(*records: Record) -> str:
    rows = [row_of(each) for each in records]
    return classes_text(rows, Names.of(rows)).replace("\xa0", " ")


def diagonal(*right: int, images: int = 100, **fields: Any) -> dict[str, Any]:
    """An evaluation with so many right of each class; the others went to the next class."""
    confusion = [[0] * len(right) for _ in right]
    for label, count in enumerate(right):
        confusion[label][label] = count
        confusion[label][(label + 1) % len(right)] += images - count
    return {"confusion": confusion, "loss": 0.25, "calibration_error": 0.031, **fields}


def test_answers_are_means_over_seeds() -> None:
    found = answers_of({"evaluation": [diagonal(80, 100), diagonal(90, 100, loss=0.75, calibration_error=0.001)]})
    assert found is not None
    assert found.classes == (accuracy_interval((0.8, 0.9), 100), wilson(100, 100))
    assert found.loss is not None
    assert found.calibration_error is not None
    assert (found.loss.estimate, found.calibration_error.estimate) == (0.5, 0.016)
    assert (found.loss.low, found.loss.high) == (-math.inf, math.inf)


def test_answers_of_one_record_are_the_same_from_its_line() -> None:
    made = evaluated(Case("vgg11", "full"))
    assert answers_of(from_json(to_json(made), "here").provenance) == answers_of(made.provenance)


@pytest.mark.parametrize(
    "confusion",
    [None, [], 3, [[1]] * 2, [[1, 2]], [[1, "2"], [3, 4]], [[1, -2], [3, 4]], [[True, 2], [3, 4]], [[1.0, 2], [3, 4]],
     [[10**400, 2], [3, 4]], ["ab", "cd"]],
)  # fmt: skip
def test_what_is_no_confusion_matrix_is_unknown(confusion: Any) -> None:
    assert answers_of({"evaluation": [{"confusion": confusion}]}) is None


@pytest.mark.parametrize("loss", [None, "1", True, -0.1, math.nan, math.inf, 10**400, [1.0]])
def test_what_is_no_loss_is_unknown(loss: Any) -> None:
    found = answers_of({"evaluation": [{"loss": loss, "calibration_error": 0.5}]})
    assert found is not None
    assert (found.classes, found.loss) == ((), None)


def test_seeds_must_have_the_same_classes() -> None:
    assert answers_of({"evaluation": [diagonal(1, 2, loss=None), diagonal(1, 2, 3)]}) == Answers(
        (), None, answers_of({"evaluation": [diagonal(1)] * 2}).calibration_error  # type: ignore[union-attr]
    )  # fmt: skip


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["confusion", "loss", "calibration_error"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_stands_there_is_read(anything: Any) -> None:
    answers_of({"evaluation": anything})


def test_the_table() -> None:
    page = text(
        answered(Case("vgg11", "full"), diagonal(100, 50, 60, 70)),
        answered(Case("resnet18", "full"), diagonal(40, 55, 100, 90, loss=0.125), accuracy=0.6),
        record(Case("densenet121", "full")),
    )
    assert tables(page)[0] == [
        ["Architecture", "Policy", "Weights", "Accuracy (%)", "T-shirt/top", "Trouser", "Pullover", "Dress",
         "Test loss (nats)", "ECE (%)"],
        ["vgg11", "full", "fashion6", "**90.0 ± 2.3**", "**100.0**", "50.0", "60.0", "70.0", "0.250", "~**3.1**"],
        ["resnet18", "full", "fashion6", "60.0 ± 3.4", "40.0", "~**55.0**", "**100.0**", "**90.0**", "~**0.125**",
         "~**3.1**"],
    ]  # fmt: skip


def test_what_failed_is_never_best() -> None:
    broken = record(Case("vgg11", "full"), status="invalid", provenance={"evaluation": [diagonal(100, 100)]})
    page = text(broken, answered(Case("resnet18", "full"), diagonal(10, 10)))
    assert "**" not in page[page.index("|") :]


def test_a_class_without_images_is_unknown() -> None:
    assert tables(text(answered(Case("vgg11", "full"), diagonal(0, 0, images=0))))[0][1][4:6] == ["—", "—"]


def test_of_many_classes_the_worst_are_named() -> None:
    page = text(answered(Case("vgg11", "full", task="of_a_user"), diagonal(*range(99, 86, -1))))
    assert tables(page)[0][0][4] == "Worst classes (%)"
    assert tables(page)[0][1][4] == "12 87.0, 11 88.0, 10 89.0"


def test_other_counts_of_classes_in_one_section_are_unknown() -> None:
    page = text(
        answered(Case("vgg11", "full"), diagonal(1, 2, 3, 4)), answered(Case("resnet18", "full"), diagonal(1, 2))
    )
    assert tables(page)[0][2][4:] == ["—", "—", "—", "—", "~**0.250**", "~**3.1**"]


def test_class_names() -> None:
    assert class_names("fashion10@25", 10)[9] == "Ankle boot"
    assert class_names("fashion4", 3) == ("0", "1", "2")
    assert class_names("@", 2) == ("0", "1")


def test_the_table_is_folded_away() -> None:
    page = leaderboard.render([evaluated(Case("vgg11", "full", task="fashion10"), classes=10)])
    folded = page[page.index("<details><summary>Accuracy by class, loss and calibration</summary>") :]
    assert tables(folded)[0][0][4] == "T-shirt/top"
    assert "Accuracy by class" not in leaderboard.render([record(Case("vgg11", "full"))])
