"""bench/fast.py in the small: every side sees the same pixels and learns the same; the tables say what was given."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fashiontl.data import find_task
from fashiontl.data.preprocessing import Preprocessing
from fashiontl.data.select import select
from fashiontl.data.sources import load_images
from fashiontl.models.build import build
from fashiontl.training.recipes import Recipe

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # pytest-xdist would import the kinds of these warnings, and torchvision with them, in a process of its own.
    pytest.mark.filterwarnings("ignore:Found .* in eval mode", "ignore:.*LeafSpec"),
]

POLICIES = ("linear_probe", "last_stage", "full", "scratch")
SMALL = ("--weights", "none", "--epochs", "1", "--batch-size", "5", "--threads", "1", "--only", "plain")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture
def sides(bench_script: Callable[[str], ModuleType]) -> ModuleType:
    return bench_script("fast_sides")


@pytest.fixture
def fast(bench_script: Callable[[str], ModuleType]) -> ModuleType:
    return bench_script("fast")


def training(sides: ModuleType, policy: str, *, batch_size: int) -> Any:
    """Two epochs of twelve images; with a batch of all of them their order does not matter."""
    task = find_task("fashion4")
    data = select(load_images("embedded"), task, 3, 2, 0)
    torch.manual_seed(0)
    network = build("resnet9", len(task.class_names), image_size=32)
    return sides.Training(network, policy, data, Recipe(2, batch_size), Preprocessing(32))


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(32), Preprocessing(28), Preprocessing(40), Preprocessing(20, *IMAGENET),
        Preprocessing(48, *IMAGENET, "bicubic"),
    ],
    ids=lambda preprocessing: f"{preprocessing.size}-{preprocessing.interpolation}",
)  # fmt: skip
def test_transforms_give_the_pixels_of_the_preprocessing(sides: ModuleType, preprocessing: Preprocessing) -> None:
    images = load_images("embedded")
    pixels, labels = images.train_images[:20], images.train_labels[:20]
    sides.check_pixels(pixels, labels, preprocessing)
    picture, label = sides.Pictures(pixels, labels, preprocessing)[7]
    assert torch.equal(picture, preprocessing(pixels)[7])
    assert (picture.dtype, tuple(picture.shape), label) == (torch.float32, (3, *[preprocessing.size] * 2), labels[7])


def test_other_pixels_are_an_error(sides: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    images = load_images("embedded")
    other = sides.transform_of(Preprocessing(32, std=(0.5,) * 3), 28)
    monkeypatch.setattr(sides, "transform_of", lambda preprocessing, side: other)
    # Three channels of two images of 32 x 32.
    with pytest.raises(AssertionError, match="got 6144 that differ"):
        sides.check_pixels(images.train_images[:2], images.train_labels[:2], Preprocessing(32))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["plain", "lightning"])
def test_sides_learn_the_same_from_whole_batches(sides: ModuleType, name: str, policy: str) -> None:
    if name == "lightning":
        pytest.importorskip("lightning")
    found = {}
    for side in ("fashiontl", name):
        asked = training(sides, policy, batch_size=12)
        made = sides.SIDES[side](asked)
        before = asked.network.stages["stage1"][0].state_dict()
        before = {key: value.clone() for key, value in before.items()}
        losses, logits = made.train(), made.test()
        found[side] = losses, logits, asked.network.state_dict()
        after = asked.network.stages["stage1"][0].state_dict()
        frozen = all(torch.equal(value, after[key]) for key, value in before.items())
        assert frozen == (policy in {"linear_probe", "last_stage"})
        assert (made.reused_stages > 0) == (side == "fashiontl" and frozen)
    ours, theirs = found["fashiontl"], found[name]
    assert len(ours[0]) == len(theirs[0]) == 2
    assert ours[0][1] < ours[0][0]
    assert theirs[0] == pytest.approx(ours[0], rel=1e-4)
    torch.testing.assert_close(theirs[1], ours[1], rtol=1e-2, atol=1e-2)
    # Adam's first steps have the size of the rate whatever the gradient's, so one near 0 may take either sign.
    for key, value in ours[2].items():
        close = torch.isclose(theirs[2][key].float(), value.float(), rtol=1e-3, atol=1e-4)
        assert close.double().mean() > 0.98, key


@pytest.mark.parametrize("name", ["plain", "lightning"])
def test_a_schedule_ends_at_nearly_no_rate(sides: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "lightning":
        pytest.importorskip("lightning")
    kept = []
    original = sides.optimizer_of
    monkeypatch.setattr(sides, "optimizer_of", lambda given: kept.append(original(given)) or kept[-1])
    side = sides.SIDES[name](training(sides, "full", batch_size=5))
    rates = [group["lr"] for group in original(side.given)[0].param_groups]
    side.train()
    optimizer, scheduler = kept[-1]
    # Two epochs of three steps, the first of which warms up.
    assert scheduler.last_epoch == 6
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.0] * len(rates), abs=1e-12)
    assert sorted(set(rates)) == pytest.approx([3e-4, 1e-3])


def test_the_clock_runs_over_training_and_over_testing(
    sides: ModuleType, fast: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    class Fake:
        reused_stages = 3

        def __init__(self, training: Any) -> None:
            self.count = len(training.data.train_labels)
            self.test_images = training.data.test_images

        def train(self) -> list[float]:
            events.append(f"train {self.count}")
            return [1.5]

        def test(self) -> torch.Tensor:
            events.append(f"test {len(self.test_images)}")
            return torch.nn.functional.one_hot(torch.zeros(len(self.test_images), dtype=torch.int64), 4).float()

    ticks = iter([10.0, 13.0, 13.5])
    cpu = iter([1.0, 6.0])

    def clock() -> float:
        events.append("clock")
        return next(ticks)

    monkeypatch.setitem(sides.SIDES, "fake", Fake)
    monkeypatch.setattr(sides.time, "perf_counter", clock)
    monkeypatch.setattr(sides.time, "process_time", lambda: next(cpu))
    options = fast.parsed(["--arch", "resnet9", "--per-class", "3", "--test-per-class", "2", *SMALL])
    found = sides.measure(fast.job(options, "full") | {"side": "fake", "seed": 0})
    assert found == {
        "train_seconds": 3.0, "test_seconds": 0.5, "cpu_seconds": 5.0, "accuracy": 0.25, "losses": [1.5],
        "reused_stages": 3,
    }  # fmt: skip
    # Five images warm up before the clock starts.
    assert events == ["train 5", "test 5", "clock", "train 12", "clock", "test 8", "clock"]


def run(fast: ModuleType, policy: str, side: str, seconds: float, accuracy: float = 0.5, **others: Any) -> Any:
    made = fast.Run(policy, side, 0, 0, seconds, seconds / 10, seconds * 2, accuracy, (1.0,), 0)
    return replace(made, **others)


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_table_holds_medians_ranges_and_ratios_of_turns(fast: ModuleType) -> None:
    seconds = {"fashiontl": (2.0, 4.0, 5.0), "plain": (3.0, 8.0, 20.0), "lightning": (4.0, 6.0, 5.0)}
    runs = [
        run(fast, "full", side, value, round=turn)
        for side, values in seconds.items()
        for turn, value in enumerate(values)
    ]
    runs += [run(fast, "linear_probe", side, values[0]) for side, values in seconds.items()]
    header, _, *rows = cells(fast.times(runs, "train_seconds"))
    assert header == [
        "Policy", "fashiontl (s)", "plain (s)", "Lightning (s)", "plain / fashiontl", "Lightning / fashiontl",
    ]  # fmt: skip
    assert rows == [
        [
            "`full`", "4.00 (2.00 to 5.00)", "8.00 (3.00 to 20.00)", "5.00 (4.00 to 6.00)", "**2.00 (1.50 to 4.00)**",
            "**1.50 (1.00 to 2.00)**",
        ],
        ["`linear_probe`", "2.00", "3.00", "4.00", "**1.50**", "**2.00**"],
    ]  # fmt: skip
    tested = cells(fast.times(runs, "test_seconds"))
    assert tested[3] == ["`linear_probe`", "0.20", "0.30", "0.40", "**1.50**", "**2.00**"]


def test_the_page_says_accuracy_and_what_was_reused(fast: ModuleType) -> None:
    options = fast.parsed(["--only", "plain", "--seeds", "2", "--rounds", "2", "--epochs", "7", "--threads", "1"])
    runs = [
        run(
            fast,
            "last_stage",
            side,
            2.0,
            accuracy,
            seed=seed,
            round=turn,
            reused_stages=4 if side == "fashiontl" else 0,
        )
        for side, accuracies in {"fashiontl": (0.7, 0.8), "plain": (0.6, 0.8)}.items()
        for seed, accuracy in enumerate(accuracies)
        for turn in range(2)
    ]
    page = fast.page(runs, options, "python bench/fast.py --only plain", "a machine")
    lines = [line for line in page.splitlines() if line.startswith("|")]
    header, _, row = cells("\n".join(lines[:3]))
    line = dict(zip(header, row, strict=True))
    assert line["accuracy, fashiontl (%)"] == "75.0"
    assert line["accuracy, plain (%)"] == "70.0"
    assert line["stages computed once"] == "4"
    assert "7 epochs of 500 images of 32 pixels, 32 a step" in page
    assert "n = 4 a side (seeds: 2, rounds: 2)" in page
    assert "on 800 test images" in page
    assert "`python bench/fast.py --only plain` on a machine; torchvision " in page
    assert "Lightning" not in page


def test_without_lightning_it_says_how_to_get_it(
    fast: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fast.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        fast.parsed([])
    assert "pip install lightning" in capsys.readouterr().err
    assert fast.sides(fast.parsed(["--only", "plain"])) == ("fashiontl", "plain")


@pytest.mark.slow
def test_one_command_runs_both_sides(
    fast: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASHIONTL_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "runs.json"
    sizes = ("--arch", "resnet9", "--per-class", "4", "--test-per-class", "5", "--rounds", "1")
    page = fast.main([*sizes, *SMALL, "--policies", "linear_probe", "--json", str(file)])
    runs = json.loads(file.read_text())["runs"]
    assert [one["side"] for one in runs] == ["fashiontl", "plain"]
    assert [len(one["losses"]) for one in runs] == [1, 1]
    assert [one["reused_stages"] > 0 for one in runs] == [True, False]
    ratio = runs[1]["train_seconds"] / runs[0]["train_seconds"]
    assert f"**{ratio:.2f}**" in page
    assert "linear_probe, seed 0, round 0, plain: " in capsys.readouterr().err
