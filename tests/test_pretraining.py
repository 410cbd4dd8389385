import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import cut, flip

from fashiontl.core.case import Case, Settings
from fashiontl.core.errors import FashiontlError
from fashiontl.data.preprocessing import Preprocessing
from fashiontl.models.build import build
from fashiontl.models.weights.start import save, start
from fashiontl.training import pretraining

ARCHITECTURE = "shufflenet_v2_x0_5"
SETTINGS = Settings(pretrain_per_class=2, test_per_class=3, pretrain_epochs=1, pretrain_batch_size=6)


pytestmark = pytest.mark.usefixtures("one_thread")


def pretrained(cache: Path, settings: Settings = SETTINGS, lines: list[str] | None = None) -> dict[str, Any]:
    say = (lambda text: None) if lines is None else lines.append
    return pretraining.pretrained("fashion6", ARCHITECTURE, "cpu", settings, cache, say)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return pretrained(tmp_path_factory.mktemp("cache") / "made when needed")


def test_the_first_call_trains_and_says_how(tmp_path: Path, first: dict[str, Any]) -> None:
    del tmp_path
    checkpoint = Path(first["checkpoint"])
    assert first["cached"] is False
    assert first["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert first["accuracy"] * 18 == pytest.approx(round(first["accuracy"] * 18))
    assert first["seconds"] > 0
    recipe = first["recipe"]
    told = ("source", "device", "size", "per_class", "epochs", "label_smoothing", "memory_format")
    assert {name: recipe[name] for name in told} == {
        "source": "fashion6",
        "device": "cpu",
        "size": 32,
        "per_class": 2,
        "epochs": 1,
        "label_smoothing": 0.0,
        "memory_format": "channels_last",
    }
    # Nothing that needs no attention stays beside it.
    assert {path.suffix for path in checkpoint.parent.iterdir()} <= {".pt", ".json", ".lock"}


def test_the_second_call_finds_it(first: dict[str, Any]) -> None:
    lines: list[str] = []
    again = pretrained(Path(first["checkpoint"]).parent, lines=lines)
    assert again == {**first, "cached": True}
    assert lines == []


@pytest.mark.parametrize("lost", [".pt", ".json"])
def test_half_of_a_pair_is_made_anew(tmp_path: Path, first: dict[str, Any], lost: str) -> None:
    for suffix in {".pt", ".json"} - {lost}:
        source = Path(first["checkpoint"]).with_suffix(suffix)
        (tmp_path / source.name).write_bytes(source.read_bytes())
    again = pretrained(tmp_path)
    assert (again["cached"], again["sha256"]) == (False, first["sha256"])
    facts = json.loads(Path(again["checkpoint"]).with_suffix(".json").read_text())
    assert facts["sha256"] == first["sha256"]


def copied(first: dict[str, Any], folder: Path) -> Path:
    """The pair in a cache of its own; returns the checkpoint."""
    checkpoint = Path(first["checkpoint"])
    for path in (checkpoint, checkpoint.with_suffix(".json")):
        shutil.copy(path, folder)
    return folder / checkpoint.name


def foreign(file: Path) -> None:
    save(file, build(ARCHITECTURE, 6, image_size=32), ARCHITECTURE, Preprocessing(32))


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b""), cut, flip, foreign])
def test_a_checkpoint_is_verified_whenever_it_is_used(
    tmp_path: Path, first: dict[str, Any], damage: Callable[[Path], Any]
) -> None:
    checkpoint = copied(first, tmp_path)
    damage(checkpoint)
    case = Case(ARCHITECTURE, "full")
    for use in (lambda: pretrained(tmp_path), lambda: start(case, 32, {ARCHITECTURE: checkpoint})):
        with pytest.raises(FashiontlError) as caught:
            use()
        got = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        facts = checkpoint.with_suffix(".json")
        assert str(caught.value).startswith(
            f"{checkpoint}: expected SHA-256 {first['sha256']} (recorded in {facts.name}"
        )
        assert f"got {got}: " in str(caught.value)
        assert str(caught.value).endswith(f"it is trained again: rm {checkpoint} {facts}")
    # The command that the message ends with, and then the next run.
    checkpoint.unlink()
    facts.unlink()
    assert pretrained(tmp_path)["sha256"] == first["sha256"]


@pytest.mark.parametrize(
    "contents",
    [
        b"", b"{", b"[]", b"{}", b"\xff", b'{"sha256": ""}',
        b'{"sha256": "ab", "recipe": {}, "accuracy": 0.5, "seconds": 1}',
        b'{"sha256": "%s", "recipe": {}, "accuracy": null, "seconds": 1}' % (b"0" * 64),
    ],
)  # fmt: skip
def test_facts_that_were_damaged(tmp_path: Path, first: dict[str, Any], contents: bytes) -> None:
    checkpoint = copied(first, tmp_path)
    facts = checkpoint.with_suffix(".json")
    facts.write_bytes(contents)
    for use in (
        lambda: pretrained(tmp_path),
        lambda: start(Case(ARCHITECTURE, "full"), 32, {ARCHITECTURE: checkpoint}),
    ):
        with pytest.raises(FashiontlError) as caught:
            use()
        assert f"{facts}: expected the SHA-256 and the recipe of {checkpoint.name} in JSON, got: " in str(caught.value)
        assert str(caught.value).endswith(f"rm {checkpoint} {facts}")


def test_a_checkpoint_without_its_facts_is_not_used(tmp_path: Path, first: dict[str, Any]) -> None:
    checkpoint = copied(first, tmp_path)
    checkpoint.with_suffix(".json").unlink()
    with pytest.raises(FashiontlError, match=r"expected its SHA-256 in .*\.json beside it, got no such file; .* rm "):
        start(Case(ARCHITECTURE, "full"), 32, {ARCHITECTURE: checkpoint})


@pytest.mark.usefixtures("unfitted")
def test_a_process_killed_between_the_two_files_leaves_no_pair(
    tmp_path: Path, first: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = copied(first, tmp_path)
    checkpoint.unlink()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".pt", ".lock"}
    monkeypatch.undo()
    assert pretrained(tmp_path)["cached"] is False


@pytest.fixture
def unfitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained, since only the file's name is looked at."""
    result = type("Fit", (), {"seconds": 1.0})
    monkeypatch.setattr(pretraining, "fit", lambda *arguments, **options: result)


@pytest.mark.usefixtures("unfitted")
@pytest.mark.parametrize(
    "change", ["pretrain_per_class=3", "pretrain_epochs=2", "pretrain_batch_size=4", "augment=1", "image_size=40"]
)
def test_what_changes_the_weights_changes_the_file(tmp_path: Path, first: dict[str, Any], change: str) -> None:
    name, _, value = change.partition("=")
    other = pretrained(tmp_path, dataclasses.replace(SETTINGS, **{name: type(getattr(SETTINGS, name))(int(value))}))
    assert Path(other["checkpoint"]).name != Path(first["checkpoint"]).name
