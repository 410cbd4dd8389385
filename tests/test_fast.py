"""bench/fast.py in the small: every side sees the same pixels and learns the same; the tables say what was given."""

import json
from collections.abc import Callable
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
