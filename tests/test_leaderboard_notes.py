import dataclasses
from typing import Any

import pytest
from records import failed, record

from fashiontl.core.case import PRESETS, Case
from fashiontl.records import Record
from fashiontl.reports.leaderboard import page as leaderboard
from fashiontl.reports.leaderboard.footnotes import Footnotes
from fashiontl.reports.leaderboard.notes import notes
from fashiontl.reports.leaderboard.rows import row_of

CASES = [Case("resnet18", policy) for policy in ("scratch", "linear_probe", "full")]
CHOSEN_ON_20 = dataclasses.replace(PRESETS["quick"], validation_per_class=20)


def with_provenance(case: Case, **parts: Any) -> Record:
    settings = parts.pop("settings", PRESETS["quick"])
    made = record(case, settings=settings)
    return dataclasses.replace(made, provenance=made.provenance | parts)


def note(title: str, *records: Record) -> str | None:
    found = [each for each in notes([row_of(each) for each in records]) if each.startswith(f"**{title}**")]
    return found[0].removeprefix(f"**{title}** ") if found else None


def chosen(*epochs: Any) -> list[dict[str, Any]]:
    return [{"accuracies": [0.5, 0.6], "chosen": epoch} for epoch in epochs]


def test_validation() -> None:
    records = [
        with_provenance(CASES[0], validation=chosen(2, 4), settings=CHOSEN_ON_20),
        with_provenance(CASES[1], validation=chosen(8), settings=CHOSEN_ON_20),
    ]
    assert note("Accuracy", *records) == (
        "of 1 seed on 800 test images, tested once, at the epoch chosen on 20 validation images a class, carved from "
        "training: epochs 3 to 9 of 10"
    )
    older = with_provenance(CASES[2], settings=CHOSEN_ON_20)
    assert "at the epoch chosen in 2 of 3 cells on 20 " in (note("Accuracy", *records, older) or "")


@pytest.mark.parametrize(
    "validation", [None, 3, "text", [], [3], [{}], [{"accuracies": [], "chosen": 9}], chosen("9"), chosen(True)]
)
def test_without_validation(validation: Any) -> None:
    made = with_provenance(CASES[0], validation=validation)
    assert note("Accuracy", made) == "of 1 seed on 800 test images, tested once, at the end of training"


def test_determinism() -> None:
    records = [
        with_provenance(case, deterministic=flag) for case, flag in zip(CASES, (True, False, "garbage"), strict=True)
    ]
    assert note("Deterministic", *records) == (
        "training in 1 of 2 cells: the same seed, machine and versions give identical weights"
    )
    assert note("Deterministic", records[2], record(CASES[0])) is None


def test_timing() -> None:
    precise = {"warm_up": 6, "steady": True, "drift": 0.0, "noise": 0.0, "ended": "precise", "throttled": 0}
    records = [
        with_provenance(CASES[0], timing={"latency": precise, "train_throughput": precise | {"ended": "time"}}),
        with_provenance(CASES[1], timing={"latency": precise | {"steady": False, "throttled": 12, "ended": "samples"}}),
        with_provenance(CASES[2], timing={"latency": precise | {"steady": False}, "broken": 3}),
    ]
    assert note("Timing", *records) == (
        "4 loops ended: 2 once their median was precise, 1 as their time was up, 1 with as many samples as a record "
        "holds; 2 never became steady; 1 dropped samples of a throttled machine"
    )
    assert note("Timing", with_provenance(CASES[0], timing={"latency": precise})) == (
        "1 loop ended: 1 once their median was precise; all became steady; none dropped samples of a throttled machine"
    )


@pytest.mark.parametrize("timing", [None, 3, [], {}, {"latency": None}, {"latency": {"ended": ["time"]}}])
def test_timing_that_is_unknown(timing: Any) -> None:
    assert note("Timing", with_provenance(CASES[0], timing=timing)) is None


def test_extensions() -> None:
    records = [
        with_provenance(CASES[0], extensions={"mine.py": "ab" * 32, "its`.py": None}),
        with_provenance(CASES[1], extensions={"mine.py": "ab" * 32}),
        with_provenance(CASES[2], extensions=["garbage"]),
    ]
    assert note("Extensions", *records) == "`mine.py`, SHA-256 `abababababab`, ``its`.py``, SHA-256 `None`"
    assert note("Extensions", with_provenance(CASES[0], extensions={})) is None


def test_a_hash_of_trained_weights_is_not_shown() -> None:
    assert "f3f3" not in leaderboard.render([with_provenance(CASES[0], trained=["f3" * 32])])


def test_few_shot_tasks_say_how_many_images() -> None:
    page = leaderboard.render([record(Case("vgg11", "full", task="fashion10@100"))])
    assert "\n## fashion10, 100 training images a class, quick, on AMD EPYC 7763 (2 cores, 2 threads)\n" in page
    assert "\nAll ten classes of Fashion-MNIST.\n" in page
    assert " train_per_class" not in page


@pytest.mark.parametrize("task", ["of_a_user", "of_a_user@5", "fashion10@many", "@", ""])
def test_tasks_that_are_not_known_here(task: str) -> None:
    page = leaderboard.render([record(Case("vgg11", "full", task=task))])
    assert page.count("\n## ") == 1


def mark(case: Case, size: Any) -> tuple[str, str]:
    row = row_of(with_provenance(case, image_size=size))
    footnotes = Footnotes([row])
    return footnotes.status(row), footnotes.text


def test_a_raised_image_size_is_a_doubt() -> None:
    assert mark(CASES[0], 64) == ("ok ¹", "¹ images of 64 pixels, the least that it takes")


@pytest.mark.parametrize("size", [32, 16, None, "64", 64.0, True, [64]])
def test_the_image_size_that_was_asked_for_is_none(size: Any) -> None:
    assert mark(CASES[0], size) == ("ok", "")


def test_an_image_size_of_the_case_is_what_was_asked_for() -> None:
    assert mark(Case("resnet18", "full", image_size=64), 64) == ("ok", "")
    assert mark(Case("resnet18", "full", image_size=64), 96) == (
        "ok ¹",
        "¹ images of 96 pixels, the least that it takes",
    )


def test_many_footnotes_are_folded_away() -> None:
    rows = [row_of(record(Case("vgg11", f"policy{number}"), warnings=(f"drift {number}",))) for number in range(13)]
    assert Footnotes(rows).text.startswith("<details><summary>13 footnotes</summary>\n\n¹ drift 0  \n")
    assert "<details>" not in Footnotes(rows[:12]).text


def test_footnotes_are_shared_and_stand_after_the_reason() -> None:
    doubted = record(CASES[0], warnings=("a *doubt*",))
    broken = failed(CASES[1], "oom", "too  big", warnings=("a *doubt*",))
    rows = [row_of(doubted), row_of(broken), row_of(with_provenance(CASES[2], image_size=64))]
    footnotes = Footnotes(rows)
    assert [footnotes.status(row) for row in rows] == ["ok ¹", "**oom**: too big ¹", "ok ²"]
    assert footnotes.text == "¹ a \\*doubt\\*  \n² images of 64 pixels, the least that it takes"


def test_what_decided_the_threads() -> None:
    made = record(CASES[0])
    assert "cores, 2 threads, " in (note("Hardware", made) or "")
    limited = dataclasses.replace(made.environment, threads=1, threads_limit="quota")
    assert "cores, 1 thread (by quota), " in (note("Hardware", dataclasses.replace(made, environment=limited)) or "")
