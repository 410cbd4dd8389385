from pathlib import Path

import pytest

from fashiontl.core.errors import FashiontlError
from fashiontl.matrix.options import matrix


def ids(axes: dict[str, list[str]], preset: str = "quick") -> list[str]:
    return [case.id for case in matrix(axes, preset)[0]]


def test_the_default_matrix_is_four_architectures_by_five_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fashiontl.matrix.options.seen_devices", lambda: ["cpu"])
    cases = ids({})
    assert len(cases) == 20
    assert cases[0] == "vgg11-scratch-cpu"
    assert cases[-1] == "densenet121-bn_only-cpu"


def test_names_may_be_repeated_or_separated_by_commas() -> None:
    axes = {"arch": ["vgg11, resnet18", "vgg11"], "policy": ["full"], "device": ["cpu,cuda:1"]}
    assert ids(axes) == ["vgg11-full-cpu", "resnet18-full-cpu", "vgg11-full-cuda:1", "resnet18-full-cuda:1"]


def test_the_full_preset_is_ten_classes_from_imagenet() -> None:
    cases, settings = matrix({"arch": ["resnet18"], "policy": ["full"], "device": ["cuda"]}, "full")
    assert [(case.task, case.weights) for case in cases] == [("fashion10", "imagenet")]
    assert settings.data == "original"


def test_scratch_appears_once_whatever_the_weights() -> None:
    axes = {"arch": ["vgg11"], "policy": ["scratch,full"], "device": ["cpu"], "weights": ["none,imagenet"]}
    assert ids(axes) == ["vgg11-scratch-cpu", "vgg11-full-cpu-none", "vgg11-full-cpu-imagenet"]


def test_a_named_folder_means_the_original_images() -> None:
    _, settings = matrix({"device": ["cpu"]}, "quick", (), "some/folder")
    assert (settings.data, settings.data_root) == ("original", "some/folder")


def test_variants_are_axes_and_a_default_one_is_not_named() -> None:
    axes = {
        "arch": ["resnet18"], "policy": ["full"], "device": ["cpu"], "precision": ["fp32,bf16"], "execution": ["eager"],
        "memory_format": ["all"], "image_size": ["64"], "batch": ["8, 16"],
    }  # fmt: skip
    found = ids(axes)
    assert len(found) == len(set(found)) == 8
    assert found[0] == "resnet18-full-cpu-64px-batch8"
    assert found[-1] == "resnet18-full-cpu-bf16-channels_last-64px-batch16"


def test_faults_of_variants() -> None:
    sizes = ["0", "2x", "9" * 5000]
    axes = {"precision": ["fp8"], "memory_format": ["channels_first"], "image_size": sizes, "batch": ["-1", "5000000"]}
    with pytest.raises(FashiontlError) as caught:
        matrix(axes, "quick")
    assert [line.partition(";")[0].partition(", got ")[0] for line in str(caught.value).splitlines()] == [
        "unknown precision 'fp8'",
        "unknown memory format 'channels_first'",
        *["image size: expected a whole number from 1 to 4,096"] * 3,
        *["batch: expected a whole number from 1 to 1,000,000"] * 2,
    ]


def test_all_faults_are_listed_with_the_nearest_names() -> None:
    axes = {
        "arch": ["resnet81"],
        "policy": ["linear_prob"],
        "device": ["gpu"],
        "task": ["fashion5"],
        "weights": ["imagnet"],
    }
    with pytest.raises(FashiontlError) as caught:
        matrix(axes, "quik", ["epochs=x"], extensions=["no_such_module"])
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("extension no_such_module: ModuleNotFoundError: ")
    for line, nearest in zip(lines, ["quick", "resnet18", "linear_probe", "fashion", "cpu", "imagenet"], strict=True):
        assert "did you mean" in line
        assert nearest in line


def test_few_shot_names_count_as_their_task() -> None:
    cases, _ = matrix(
        {"arch": ["vgg11"], "policy": ["full"], "task": ["fashion4@25,fashion10@5"], "device": ["cpu"]}, "quick"
    )
    assert [case.weights for case in cases] == ["fashion6", "imagenet"]
    with pytest.raises(FashiontlError, match="fashion6 were trained on classes that task fashion10@5 contains"):
        matrix({"arch": ["vgg11"], "task": ["fashion10@5"], "weights": ["fashion6"], "device": ["cpu"]}, "quick")
    with pytest.raises(FashiontlError, match=r"^task fashion4@0: expected at least 1 training image a class"):
        matrix({"task": ["fashion4@0"], "device": ["cpu"]}, "quick")


def test_published_names_files_and_folders_are_weights(tmp_path: Path) -> None:
    file = tmp_path / "mine.pt"
    file.touch()
    weights = ["IMAGENET1K_V1,IMAGENET1K_SWAG_E2E_V1", str(tmp_path), str(file)]
    axes = {"arch": ["vit_b_16"], "policy": ["full"], "device": ["cpu"], "weights": weights}
    assert [case.weights for case in matrix(axes, "quick", ["image_size=224"])[0]] == [
        "IMAGENET1K_V1", "IMAGENET1K_SWAG_E2E_V1", str(tmp_path), str(file),
    ]  # fmt: skip
    with pytest.raises(FashiontlError, match=r"^unknown weights 'IMAGENET1K_V3'; did you mean IMAGENET1K_V2, IM"):
        matrix({"weights": ["IMAGENET1K_V3"], "device": ["cpu"]}, "quick")


@pytest.mark.usefixtures("own_tables")
def test_extensions_are_loaded_before_names_are_checked(tmp_path: Path) -> None:
    (tmp_path / "doubled.py").write_text(
        "from dataclasses import replace\n"
        "from fashiontl.models.registry import find\n"
        "from fashiontl.matrix.extensions import register\n"
        "register(replace(find('resnet18'), name='doubled', builder='doubled:build', weights=()))\n"
    )
    axes = {"arch": ["doubled"], "policy": ["scratch"], "device": ["cpu"]}
    with pytest.raises(FashiontlError, match="unknown architecture 'doubled'"):
        matrix(axes, "quick")
    cases, _ = matrix(axes, "quick", extensions=[str(tmp_path / "doubled.py")])
    assert [case.id for case in cases] == ["doubled-scratch-cpu"]


@pytest.mark.parametrize("named", ["lora", "all"])
def test_a_policy_without_its_library_stays_in_the_matrix_to_become_a_skipped_row(
    named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "vgg11-lora-cpu" in ids({"arch": ["vgg11"], "policy": [named], "device": ["cpu"]})


def test_faults_of_hybrids() -> None:
    with pytest.raises(FashiontlError) as caught:
        matrix({"arch": ["mean:vgg11+resnet51", "joined:vgg11"], "policy": ["full"], "device": ["cpu"]}, "quick")
    unknown, single = str(caught.value).splitlines()
    assert unknown.startswith("unknown architecture 'resnet51'")
    assert single.startswith("joined:vgg11: expected two or more")


def test_the_tutorials_preset_names_its_networks() -> None:
    cases, settings = matrix({"device": ["cpu"]}, "tutorial")
    assert [case.id for case in cases] == ["tutorial_vgg-scratch-cpu-fashion10", "resnet50-scratch-cpu-fashion10"]
    assert (settings.recipe, settings.epochs, settings.batch_size) == ("naive_adam", 20, 32)
