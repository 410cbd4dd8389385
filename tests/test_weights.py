import hashlib
import json
import os
import re
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from damage import cut, flip
from torch import Tensor

from fashiontl.core.case import Case
from fashiontl.core.errors import FashiontlError
from fashiontl.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from fashiontl.data.torchvision_import import models
from fashiontl.models.build import build
from fashiontl.models.weights.start import Start, save, start, weights_digest

ARCHITECTURE = "shufflenet_v2_x0_5"
TAG = "IMAGENET1K_V1"
FILE = "shufflenetv2_x0.5-f707e7126e.pth"
SIZE = 32


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(7)
    return models.get_model(ARCHITECTURE, weights=None).state_dict()


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty TORCH_HOME and no network; returns where torchvision's files would be."""

    def refuse(*_: Any, **__: Any) -> None:
        raise URLError("Network is unreachable")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return checkpoints


@pytest.fixture
def publish(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a stand-in into the cache under the name that it would be published by, its own digest in it."""

    def publish(state: Mapping[str, Tensor], architecture: str = ARCHITECTURE, tag: str = TAG) -> Path:
        weights = models.get_model_weights(architecture)[tag]
        unnamed = hub / "new"
        torch.save(state, unnamed)
        stem = Path(weights.url).name.rpartition("-")[0]
        file = unnamed.rename(hub / f"{stem}-{sha256(unnamed)[:8]}.pth")
        monkeypatch.setattr(weights.value, "url", f"https://download.pytorch.org/models/{file.name}")
        return file

    return publish


def begin(weights: str | Path, architecture: str = ARCHITECTURE, checkpoint: Path | None = None) -> Start:
    return start(
        Case(architecture, "full", weights=str(weights)), SIZE, {architecture: checkpoint} if checkpoint else {}
    )


def backbone(initial: Start) -> dict[str, Tensor]:
    """What does not depend on the task; in torchvision's order, under other names."""
    return {name: value for name, value in initial.network.state_dict().items() if ".head." not in name}


def assert_holds(initial: Start, state: Mapping[str, Tensor]) -> None:
    wanted = [value for name, value in state.items() if not name.startswith("fc.")]
    got = list(backbone(initial).values())
    # Counted first: pytest would spend minutes on showing lists of tensors.
    counts = (len(got), len(wanted))
    assert counts == (336, 336)
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))
    assert initial.network.classes == 4


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def vouch(checkpoint: Path) -> None:
    """Write beside a checkpoint what pretraining writes."""
    facts = {"sha256": sha256(checkpoint), "recipe": {}, "accuracy": 0.5, "seconds": 1.0}
    checkpoint.with_suffix(".json").write_text(json.dumps(facts))


def fails(weights: str | Path, message: str, architecture: str = ARCHITECTURE) -> None:
    with pytest.raises(FashiontlError, match=message):
        begin(weights, architecture)


def test_imagenet_weights_are_read_where_torchvision_keeps_them(
    publish: Callable[..., Path], state: dict[str, Tensor]
) -> None:
    file = publish(state)
    initial = begin("imagenet")
    assert_holds(initial, state)
    assert initial.preprocessing == Preprocessing(SIZE, IMAGENET_MEAN, IMAGENET_STD)
    assert initial.provenance == {
        "name": "shufflenet_v2_x0_5 IMAGENET1K_V1",
        "sha256": sha256(file),
        "recipe": "https://github.com/ericsun99/Shufflenet-v2-Pytorch",
    }


def test_imagenet_weights_that_are_nowhere(hub: Path) -> None:
    with pytest.raises(FashiontlError) as caught:
        begin("imagenet")
    assert str(caught.value) == (
        f"expected the ImageNet weights of {ARCHITECTURE} (IMAGENET1K_V1) at {hub / FILE}, and cannot download them: "
        f"<urlopen error Network is unreachable>. Put the file https://download.pytorch.org/models/{FILE} there, "
        "or set TORCH_HOME to the folder whose hub/checkpoints has it"
    )


def test_imagenet_weights_that_were_never_published() -> None:
    fails("imagenet", "no ImageNet weights for tutorial_vgg; use --weights none", "tutorial_vgg")
    fails("IMAGENET1K_V2", f"^{ARCHITECTURE}: unknown ImageNet weights 'IMAGENET1K_V2'; .*IMAGENET1K_V1")


def foreign(file: Path) -> None:
    torch.save(models.get_model(ARCHITECTURE, weights=None).state_dict(), file)


DAMAGES = [lambda file: file.write_bytes(b""), lambda file: file.write_bytes(b"<html>"), cut, flip, foreign]


@pytest.mark.parametrize("damage", DAMAGES, ids=["empty", "a page", "truncated", "one bit", "other weights"])
def test_a_file_of_a_published_name_holds_what_was_published(
    publish: Callable[..., Path], state: dict[str, Tensor], damage: Callable[[Path], Any]
) -> None:
    file = publish(state)
    begin("imagenet")
    said = file.stem[-8:]
    damage(file)
    message = (
        f"^{re.escape(str(file))}: expected SHA-256 {said}... (published in its name), got {sha256(file)[:8]}: the "
        f"file is damaged or another; remove it, and it is fetched again: rm {re.escape(str(file))}$"
    )
    fails("imagenet", message.replace("...", r"\.\.\.").replace("(", r"\(").replace(")", r"\)"))


def test_a_published_file_that_was_copied_elsewhere_is_verified_too(
    tmp_path: Path, publish: Callable[..., Path], state: dict[str, Tensor]
) -> None:
    copied = publish(state).rename(tmp_path / "elsewhere.pth").rename(tmp_path / Path(published_url()).name)
    assert_holds(begin(copied), state)
    foreign(copied)
    fails(copied, "expected SHA-256 .* got .* rm ")
    # Digits in a name of the user's own say nothing.
    own = copied.rename(tmp_path / f"{ARCHITECTURE}-20240131.pth")
    assert begin(own).provenance["sha256"] == sha256(own)


def published_url() -> str:
    return str(models.get_model_weights(ARCHITECTURE)[TAG].url)


def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.pt"
    torch.save(state, file)
    read = torch.load

    def exchange(*arguments: Any, **options: Any) -> Any:
        contents = read(*arguments, **options)
        torch.save(state, tmp_path / "other.pt")
        (tmp_path / "other.pt").replace(file)
        return contents

    monkeypatch.setattr(torch, "load", exchange)
    fails(file, "mine.pt changed while it was read")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    fails(tmp_path / "pipe.pt", "pipe.pt: expected a file of weights, got a named pipe; name a file")
    (tmp_path / "file.pt").touch()
    fails(tmp_path / "file.pt" / "below.pt", "below.pt: Not a directory")


@pytest.mark.parametrize("key", ["", "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoints_in_torchvisions_naming(tmp_path: Path, state: dict[str, Tensor], key: str, prefix: str) -> None:
    file = tmp_path / "mine.pth"
    named = {prefix + name: value for name, value in state.items()}
    torch.save({key: named, "epoch": 3} if key else named, file)
    initial = begin(file)
    assert_holds(initial, state)
    assert initial.preprocessing == Preprocessing(SIZE, IMAGENET_MEAN, IMAGENET_STD)
    assert initial.provenance == {"name": str(file), "sha256": sha256(file)}


def test_own_format_there_and_back(tmp_path: Path) -> None:
    file = tmp_path / "source.pt"
    torch.manual_seed(5)
    network = build(ARCHITECTURE, 6, image_size=SIZE)
    preprocessing = Preprocessing(SIZE, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert save(file, network, ARCHITECTURE, preprocessing) == sha256(file)
    assert [path.name for path in tmp_path.glob("source*")] == ["source.pt"], "nothing partial stays"
    vouch(file)

    initial = begin("fashion6", checkpoint=file)
    for name, value in backbone(initial).items():
        assert torch.equal(value, network.state_dict()[name]), name
    assert initial.network.classes == 4
    assert all(parameter.requires_grad and parameter.device.type == "cpu" for parameter in initial.network.parameters())
    assert initial.preprocessing == preprocessing
    assert initial.provenance == {"name": "fashion6", "sha256": sha256(file)}

    again = begin(file)
    assert again.provenance["name"] == str(file)


def test_a_file_does_not_keep_the_memory_format_of_its_training(tmp_path: Path) -> None:
    file = tmp_path / "source.pt"
    network = build(ARCHITECTURE, 6, image_size=SIZE)
    strides = {name: value.stride() for name, value in network.state_dict().items()}
    save(file, network.to(memory_format=torch.channels_last), ARCHITECTURE, Preprocessing(SIZE))
    vouch(file)
    loaded = begin("fashion6", checkpoint=file)
    assert {name: value.stride() for name, value in backbone(loaded).items()} == {
        name: strides[name] for name in backbone(loaded)
    }


def test_weights_of_another_architecture(tmp_path: Path, state: dict[str, Tensor]) -> None:
    own = tmp_path / "own.pt"
    save(own, build(ARCHITECTURE, 4, image_size=SIZE), ARCHITECTURE, Preprocessing(SIZE))
    fails(own, f"own.pt holds weights of {ARCHITECTURE}, expected mobilenet_v2; run it with", "mobilenet_v2")
    plain = tmp_path / "plain.pt"
    torch.save(state, plain)
    fails(plain, "these are not weights of mobilenet_v2: ", "mobilenet_v2")


def test_weights_for_images_of_another_size(tmp_path: Path) -> None:
    file = tmp_path / "large.pt"
    save(file, build("tutorial_vgg", 4, image_size=64), "tutorial_vgg", Preprocessing(64))
    fails(file, "large.pt: expected weights of tutorial_vgg for images of 32 pixels, got: RuntimeError", "tutorial_vgg")


# Random bytes, and the openings of pickles that make the unpickler itself fail.
@pytest.mark.parametrize("contents", [b"", b"\x93\x1c\xe5\x00\x9a\x77", b".", b"PK\x03\x04cut", b"\x80\x02}q\x01("])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_what_is_no_checkpoint(tmp_path: Path, contents: bytes) -> None:
    file = tmp_path / "noise.pt"
    file.write_bytes(contents)
    fails(file, r"noise\.pt: expected a checkpoint that torch\.load\(weights_only=True\) reads, got: \w")


@pytest.mark.parametrize(
    ("contents", "got"),
    [
        ([1, 2], "expected a state dict, got list"),
        ({}, "expected names and tensors, got keys none"),
        ({"epoch": 3, "loss": 0.5}, "expected names and tensors, got keys epoch, loss"),
        ({0: torch.ones(1)}, "expected names and tensors, got keys 0"),
    ],
)
def test_what_holds_no_weights(tmp_path: Path, contents: Any, got: str) -> None:
    file = tmp_path / "other.pt"
    torch.save(contents, file)
    fails(file, rf"other\.pt: {got}$")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    fails(tmp_path / "gone.pt", r"^no file .*gone\.pt; --weights takes none, imagenet, .*, or a folder of checkpoints$")


@pytest.mark.parametrize("name", [f"{ARCHITECTURE}.pt", f"{ARCHITECTURE}-f707e712.pth", f"{ARCHITECTURE}.safetensors"])
def test_a_folder_of_checkpoints(tmp_path: Path, state: dict[str, Tensor], name: str) -> None:
    for file in ("resnet18.pt", "shufflenet_v2_x0_5b.pt", "notes.txt"):
        (tmp_path / file).write_text("another's")
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors.torch").save_file(dict(state), tmp_path / name)
    else:
        torch.save(state, tmp_path / name)
    initial = begin(tmp_path)
    assert_holds(initial, state)
    assert initial.provenance["sha256"] == sha256(tmp_path / name)


def test_a_folder_without_the_file_or_with_two(tmp_path: Path) -> None:
    wanted = rf"{ARCHITECTURE}\.pt, \.pth or \.safetensors, or {ARCHITECTURE}-HASH\.pth"
    fails(tmp_path, f"expected one file called {wanted}, got no checkpoints$")
    for suffix in (".pt", "-1.pth"):
        (tmp_path / f"{ARCHITECTURE}{suffix}").write_text("either")
    fails(tmp_path, rf"expected one file called {wanted}, got {ARCHITECTURE}-1\.pth, {ARCHITECTURE}\.pt$")


def test_preprocessing_is_the_checkpoints_own(tmp_path: Path, state: dict[str, Tensor]) -> None:
    file = tmp_path / "mine.pt"
    torch.save({"state_dict": state, "mean": [0.5], "std": (0.1, 0.2, 0.3), "interpolation": "bicubic"}, file)
    initial = begin(file)
    expected = Preprocessing(SIZE, (0.5,) * 3, (0.1, 0.2, 0.3), "bicubic")
    assert initial.preprocessing == expected
    assert initial.warnings == ()
    torch.save({"state_dict": state}, file)
    told = "the checkpoint does not say with which mean and std it was trained; ImageNet's were taken"
    assert begin(file).warnings == (told,)
    torch.save({"state_dict": state, "mean": [0.1, 0.2], "std": [1.0]}, file)
    fails(file, "expected a mean and a std of one or three channels, got 2")


def test_a_joined_hybrid_starts_from_each_members_weights(tmp_path: Path, state: dict[str, Tensor]) -> None:
    other = models.get_model("squeezenet1_1", weights=None).state_dict()
    torch.save(state, tmp_path / f"{ARCHITECTURE}.pt")
    torch.save(other, tmp_path / "squeezenet1_1.pt")
    initial = begin(tmp_path, f"joined:{ARCHITECTURE}+squeezenet1_1")
    assert sorted(initial.provenance["members"]) == [ARCHITECTURE, "squeezenet1_1"]
    held = [value for name, value in initial.network.state_dict().items() if ".head." not in name]
    wanted = [v for s in (state, other) for n, v in s.items() if not n.startswith(("fc.", "classifier."))]
    assert sorted(value.double().sum().item() for value in held) == sorted(v.double().sum().item() for v in wanted)
    torch.save({"state_dict": other, "mean": [0.1], "std": [0.2]}, tmp_path / "squeezenet1_1.pt")
    fails(tmp_path, "expected members with one preprocessing, got 2", f"joined:{ARCHITECTURE}+squeezenet1_1")


def test_equal_weights_have_equal_digests() -> None:
    torch.manual_seed(0)
    one, two = build(ARCHITECTURE, 4, image_size=SIZE), build(ARCHITECTURE, 4, image_size=SIZE)
    assert weights_digest(one) != weights_digest(two)
    two.load_state_dict(one.state_dict())
    assert weights_digest(one) == weights_digest(two)
    buffer = two.get_buffer(next(name for name, _ in two.named_buffers()))
    buffer.view(torch.int32)[0] ^= 1
    assert weights_digest(one) != weights_digest(two), "one bit"
