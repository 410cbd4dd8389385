from pathlib import Path

import pytest

from fashiontl.errors import FashiontlError
from fashiontl.options import Axes, matrix


def ids(axes: Axes, preset: str = "quick") -> list[str]:
    return [case.id for case in matrix(axes, preset)[0]]


def test_the_default_matrix_is_four_architectures_by_five_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fashiontl.options.seen_devices", lambda: ["cpu"])
    cases = ids(Axes())
    assert len(cases) == 20
    assert cases[0] == "vgg11-scratch-cpu"
    assert cases[-1] == "densenet121-bn_only-cpu"


def test_names_may_be_repeated_or_separated_by_commas() -> None:
    axes = Axes(arch=["vgg11, resnet18", "vgg11"], policy=["full"], device=["cpu,cuda:1"])
    assert ids(axes) == ["vgg11-full-cpu", "resnet18-full-cpu", "vgg11-full-cuda:1", "resnet18-full-cuda:1"]


def test_the_full_preset_is_ten_classes_from_imagenet() -> None:
    cases, settings = matrix(Axes(arch=["resnet18"], policy=["full"], device=["cuda"]), "full")
    assert [(case.task, case.weights) for case in cases] == [("fashion10", "imagenet")]
    assert settings.data == "original"


def test_scratch_appears_once_whatever_the_weights() -> None:
    axes = Axes(arch=["vgg11"], policy=["scratch,full"], device=["cpu"], weights=["none,imagenet"])
    assert ids(axes) == ["vgg11-scratch-cpu", "vgg11-full-cpu-none", "vgg11-full-cpu-imagenet"]


def test_all_takes_each() -> None:
    assert len(ids(Axes(arch=["resnet18"], policy=["full"], device=["cpu"], task=["fashion4,fashion10"]))) == 2
    assert len(ids(Axes(arch=["all"], policy=["scratch"], device=["cpu"]))) >= 4


def test_a_named_folder_means_the_original_images() -> None:
    _, settings = matrix(Axes(device=["cpu"]), "quick", (), "some/folder")
    assert (settings.data, settings.data_root) == ("original", "some/folder")


def test_a_checkpoint_that_exists_is_a_weight(tmp_path: Path) -> None:
    checkpoint = tmp_path / "mine.pt"
    checkpoint.touch()
    axes = Axes(arch=["vgg11"], policy=["full"], device=["cpu"], weights=[str(checkpoint)])
    assert ids(axes) == ["vgg11-full-cpu-mine.pt"]


def test_all_faults_are_listed_with_the_nearest_names() -> None:
    axes = Axes(arch=["resnet81"], policy=["linear_prob"], device=["gpu"], task=["fashion5"], weights=["imagnet"])
    with pytest.raises(FashiontlError) as caught:
        matrix(axes, "quik", ["epochs=x"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    for line, nearest in zip(lines, ["quick", "resnet18", "linear_probe", "fashion", "cpu", "imagenet"], strict=True):
        assert "did you mean" in line
        assert nearest in line


def test_a_source_that_has_seen_the_target_is_refused() -> None:
    with pytest.raises(FashiontlError, match="fashion6 were trained on classes that task fashion10 contains"):
        matrix(Axes(arch=["vgg11"], task=["fashion10"], weights=["fashion6"], device=["cpu"]), "quick")
