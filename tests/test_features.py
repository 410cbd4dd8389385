import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_freezing_families import FAMILIES, member, plan_of, size_of
from test_phases import PROBE, SETTINGS, as_in_a_worker, job, run  # noqa: F401 - a fixture
from torch import Tensor, nn

from fashiontl.core.errors import FashiontlError
from fashiontl.data.preprocessing import Preprocessing
from fashiontl.freezing import POLICIES
from fashiontl.machine.devices import Cpu
from fashiontl.machine.environment import read_environment
from fashiontl.models.network import Network
from fashiontl.models.weights.start import digest
from fashiontl.runner import phases
from fashiontl.runner.phases import accuracy
from fashiontl.timing.variants import Variant
from fashiontl.training import fit as fit_module
from fashiontl.training import prefix
from fashiontl.training.fit import Examples, Fit, fit, predict
from fashiontl.training.prefix import Features, FeatureStore
from fashiontl.training.recipes import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(epochs=2, batch_size=8)
KEY = "a" * 64
MOST = 2**20
# Batches of 3, 2 and 2 images.
PARTS = torch.tensor_split(torch.arange(14, dtype=torch.uint8).view(7, 2), 3)
EXPECTED = torch.cat(PARTS).float() * 2
FILE_BYTES = EXPECTED.nbytes + prefix._FORMAT_BYTES


def images(count: int = 22) -> Tensor:
    """Three batches, of eight, seven and seven."""
    return torch.randint(0, 256, (count, 28, 28), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


class Prefix:
    """Exact arithmetic, which no company changes; it counts the images that it is given."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images.float() * 2


def found(store: FeatureStore, key: str = KEY, *, most: int = MOST) -> tuple[Features, int]:
    prefix = Prefix()
    result = store.features(key, PARTS, prefix, most)
    assert result is not None
    assert torch.equal(result.values, EXPECTED)
    return result, prefix.seen


def on_disk(folder: Path, **options: Any) -> FeatureStore:
    return FeatureStore(folder, **{"worth_writing": 0.0, "disk_bytes": 2**30, **options})


def trained(
    network: Network,
    policy: str,
    size: int,
    store: FeatureStore | None,
    variant: Variant = Variant(),  # noqa: B008
) -> tuple[Fit, str, Tensor]:
    torch.manual_seed(0)
    examples = Examples(images(), torch.arange(22) % 4)
    preprocessing = Preprocessing(size)
    result = fit(network, POLICIES[policy], examples, RECIPE, preprocessing, seed=0, variant=variant, store=store)
    return result, digest(network), predict(network, images(9), preprocessing, variant)


def assert_reuse_changes_no_bit(architecture: str, policy: str, folder: Path, variant: Variant = Variant()) -> None:  # noqa: B008
    size = size_of(architecture)
    plan_of(member(architecture)[0], policy, 0)
    plain, weights, answers = trained(member(architecture)[0], policy, size, None, variant)
    assert (plain.reused_stages, plain.features) == (0, None)
    store = on_disk(folder)
    for kept in (store, store, on_disk(folder)):
        result, other_weights, other_answers = trained(member(architecture)[0], policy, size, kept, variant)
        assert other_weights == weights
        assert torch.equal(other_answers, answers)
        assert result.losses == plain.losses
        assert result.proof == plain.proof


@pytest.mark.parametrize("policy", sorted({*POLICIES} - {"lora"}))
def test_every_policy_trains_the_weights_of_the_plain_loop(policy: str, tmp_path: Path) -> None:
    assert_reuse_changes_no_bit("resnet9", policy, tmp_path)


@pytest.mark.parametrize("variant", [Variant("bf16"), Variant(memory_format="channels_last")])
def test_so_does_every_variant(variant: Variant, tmp_path: Path) -> None:
    assert_reuse_changes_no_bit("resnet9", "last_stage", tmp_path, variant)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["linear_probe", "last_stage"])
@pytest.mark.parametrize("architecture", FAMILIES.values())
def test_so_does_every_family(architecture: str, policy: str, tmp_path: Path) -> None:
    assert_reuse_changes_no_bit(architecture, policy, tmp_path)


def pooled() -> Network:
    """A network whose frozen stages do no arithmetic."""
    torch.manual_seed(0)
    stage: list[nn.Module] = [nn.MaxPool2d(8), nn.Flatten()]
    return Network({"stage1": stage, "neck": [nn.BatchNorm1d(48), nn.Identity()], "head": [nn.Linear(48, 4)]})


def test_a_training_says_where_its_features_came_from(tmp_path: Path) -> None:
    store = on_disk(tmp_path)
    sources = [trained(pooled(), "linear_probe", 32, kept)[0] for kept in (store, store, on_disk(tmp_path), None)]
    assert [result.features for result in sources] == ["computed", "memory", "disk", None]
    assert [result.reused_stages for result in sources] == [2, 2, 2, 0]


def test_what_is_found_is_what_was_computed(tmp_path: Path) -> None:
    store = on_disk(tmp_path)
    first, seen = found(store)
    assert first.source == "computed"
    assert seen == 14, "each image once, and once more in other company"
    assert [path.name for path in tmp_path.iterdir()] == [f"{KEY}.pt"]
    again, seen = found(store)
    assert (again.source, seen) == ("memory", 5), "the first and the last batch"
    elsewhere, seen = found(on_disk(tmp_path))
    assert (elsewhere.source, seen) == ("disk", 5)


def test_one_batch_is_enough() -> None:
    result = FeatureStore(None).features(KEY, PARTS[:1], Prefix(), MOST)
    assert result is not None
    assert torch.equal(result.values, EXPECTED[:3])


@pytest.mark.parametrize(
    "prefix",
    [
        lambda images: images.float() + torch.arange(len(images)).view(-1, 1),
        lambda images: images.float() + len(images),
        lambda images: images.float() - images.float().mean(),
    ],
    ids=["place", "size", "neighbours"],
)
def test_nothing_is_reused_where_an_image_depends_on_its_company(
    prefix: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    assert on_disk(tmp_path).features(KEY, PARTS, prefix, MOST) is None
    assert list(tmp_path.iterdir()) == []


def test_a_batch_lies_in_memory_as_the_prefix_lays_it() -> None:
    def strided(images: Tensor) -> Tensor:
        return torch.empty_strided((len(images), 2), (10, 3)).copy_(images)

    result = FeatureStore(None).features(KEY, PARTS, strided, MOST)
    assert result is not None
    batch = result.batch(torch.tensor([6, 0, 3]))
    assert torch.equal(batch, torch.tensor([[12.0, 13.0], [0.0, 1.0], [6.0, 7.0]]))
    assert batch.stride() == (10, 3)


def test_memory_has_a_limit_and_the_least_recently_used_goes_first() -> None:
    store = FeatureStore(None)
    assert store.features(KEY, PARTS, Prefix(), EXPECTED.nbytes - 1) is None
    two = 2 * EXPECTED.nbytes
    keys = [letter * 64 for letter in "aba" + "c" + "ab"]
    sources = [found(store, key, most=two)[0].source for key in keys]
    assert sources == ["computed", "computed", "memory", "computed", "memory", "computed"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    contents = path.read_bytes()
    place = contents.index(EXPECTED.numpy().tobytes()) + 26
    path.write_bytes(contents[:place] + bytes([contents[place] ^ 1]) + contents[place + 1 :])


def save(values: Tensor, path: Path, key: str = KEY) -> None:
    torch.save({"key": key, "values": values, "sha256": prefix._sha256(values)}, path)


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        flip,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no file of torch"),
        lambda path: torch.save({"other": EXPECTED}, path),
        partial(save, EXPECTED + 1),
        partial(save, EXPECTED[:-1]),
        partial(save, EXPECTED.double()),
        # Only what lies between the batches that are computed anew differs.
        partial(save, torch.cat([EXPECTED[:3], EXPECTED[3:5] + 1, EXPECTED[5:]]), key="1" * 64),
    ],
    ids=[
        "truncated",
        "one bit",
        "empty",
        "foreign",
        "other contents",
        "other code",
        "other number",
        "other type",
        "of another key",
    ],
)
def test_a_damaged_file_is_computed_again_and_replaced(damage: Callable[[Path], Any], tmp_path: Path) -> None:
    found(on_disk(tmp_path))
    damage(tmp_path / f"{KEY}.pt")
    assert found(on_disk(tmp_path))[0].source == "computed"
    assert found(on_disk(tmp_path))[0].source == "disk"


def test_the_files_used_longest_ago_go_first(tmp_path: Path) -> None:
    store = partial(on_disk, tmp_path, disk_bytes=2 * FILE_BYTES + 8000)
    keys = {letter: letter * 64 for letter in "abc"}
    for second, letter in enumerate("ab"):
        found(store(), keys[letter])
        os.utime(tmp_path / f"{keys[letter]}.pt", (1000 + second, 1000 + second))
    assert found(store(), keys["a"])[0].source == "disk", "which makes it the last used"
    leftover = tmp_path / "killed.partial"
    leftover.write_bytes(bytes(prefix._FORMAT_BYTES + 8000))
    os.utime(leftover, (900, 900))
    found(store(), keys["c"])
    names = {path.name for path in tmp_path.iterdir()}
    assert "killed.partial" not in names
    assert names == {f"{keys[letter]}.pt" for letter in "abc"}, "three small files still fit"
    tight = on_disk(tmp_path, disk_bytes=FILE_BYTES + 2 * (tmp_path / f"{keys['a']}.pt").stat().st_size)
    found(tight, "d" * 64)
    assert {path.name[0] for path in tmp_path.iterdir()} == {"a", "c", "d"}


def test_what_is_larger_than_the_folder_may_be_is_not_written(tmp_path: Path) -> None:
    found(on_disk(tmp_path, disk_bytes=FILE_BYTES - 1))
    assert list(tmp_path.iterdir()) == []
    found(on_disk(tmp_path, disk_bytes=FILE_BYTES))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("seconds", "files"), [(0.9, 0), (1.0, 1)])
def test_only_what_took_long_is_written(seconds: float, files: int, tmp_path: Path) -> None:
    times = iter((10.0, 10.0 + seconds))
    found(FeatureStore(tmp_path, disk_bytes=2**30, clock=lambda: next(times)))
    assert len(list(tmp_path.iterdir())) == files


def test_the_environment_says_how_much_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASHIONTL_FEATURES_BYTES", raising=False)
    assert FeatureStore(tmp_path)._disk_bytes == 4 * 2**30
    monkeypatch.setenv("FASHIONTL_FEATURES_BYTES", "0")
    store = FeatureStore(tmp_path, worth_writing=0.0)
    assert [found(store)[0].source for _ in range(2)] == ["computed", "memory"]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("FASHIONTL_FEATURES_BYTES", "4 GiB")
    with pytest.raises(FashiontlError, match="expected a whole number of bytes, got '4 GiB'; 0 keeps"):
        FeatureStore(tmp_path)


def test_a_folder_that_cannot_be_written_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = on_disk(tmp_path / "file" / "features")
    assert [found(store)[0].source for _ in range(2)] == ["computed", "memory"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space left"), RuntimeError("unexpected pos 64 vs 0")])
def test_a_full_disk_fails_nothing(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any, file: Any) -> None:
        file.write(b"a part")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    assert found(on_disk(tmp_path))[0].source == "computed"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; from test_features import *\n"
        "for number in range(20): print(found(on_disk(Path(sys.argv[1])), f'{number % 2}' * 64)[0].source)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [writer.communicate()[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [len(answer) for answer in answers] == [20, 20]
    assert {path.name for path in tmp_path.iterdir()} == {"0" * 64 + ".pt", "1" * 64 + ".pt"}
    assert found(on_disk(tmp_path), "0" * 64)[0].source == "disk"


BASE: dict[str, Any] = {
    "prefix": 2,
    "images": images(),
    "preprocessing": Preprocessing(32),
    "variant": Variant(),
    "batches": 3,
}


def key(network: Network | None = None, **changed: Any) -> str:
    return FeatureStore(None).key_of(network or pooled(), **{**BASE, **changed})


def changed(name: str, by: float = 1e-6) -> Network:
    network = pooled()
    with torch.no_grad():
        network.state_dict()[f"stages.{name}"].add_(by)
    return network


def renamed() -> Network:
    network = pooled()
    return Network({("stem" if name == "stage1" else name): list(stage) for name, stage in network.stages.items()})


def restructured() -> Network:
    network = pooled()
    network.stages["neck"][1] = nn.ReLU()
    return network


@pytest.mark.parametrize(
    "other",
    [
        lambda: key(changed("neck.0.weight")),
        lambda: key(changed("neck.0.running_mean")),
        lambda: key(renamed()),
        lambda: key(restructured()),
        lambda: key(prefix=1),
        lambda: key(images=images() ^ 1),
        lambda: key(images=images().flip(0)),
        lambda: key(images=images()[:-1]),
        lambda: key(preprocessing=Preprocessing(64)),
        lambda: key(preprocessing=Preprocessing(32, interpolation="bicubic")),
        lambda: key(variant=Variant("bf16")),
        lambda: key(variant=Variant("tf32")),
        lambda: key(variant=Variant(memory_format="channels_last")),
        lambda: key(batches=2),
    ],
)
def test_whatever_features_depend_on_is_in_their_key(other: Callable[[], str]) -> None:
    assert len({key(), key(), other()}) == 2


@pytest.mark.parametrize("field", ["torch", "torchvision", "fashiontl", "cpu"])
def test_so_is_the_machine(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = key()
    other = replace(read_environment(threads=1), **{field: "other"})
    monkeypatch.setattr(prefix, "read_environment", lambda *, threads: other)
    assert key() != here


def test_so_are_threads_device_determinism_and_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {key()}
    for target, name, value in (
        (torch, "get_num_threads", lambda: 7),
        (prefix, "split", lambda device: ("mps", 0)),
        (torch, "are_deterministic_algorithms_enabled", lambda: "other"),
        (torch.__config__, "show", lambda: "CPU capability usage: DEFAULT"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, value)
            keys.add(key())
    monkeypatch.setattr(Cpu, "facts", lambda device: {"driver": "other"})
    assert len({*keys, key()}) == 6


def test_the_head_and_how_a_network_is_timed_are_not() -> None:
    assert key() == key(changed("head.0.weight")) == key(variant=Variant(execution="compile"))


def test_runs_share_features_and_results_do_not_depend_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def values(**more: Any) -> dict[str, Any]:
        value = run(phases.train, job(PROBE, replace(SETTINGS, seeds=2), **more))
        return {**value, "training_time": None}

    monkeypatch.setattr(accuracy, "FeatureStore", partial(FeatureStore, worth_writing=0.0))
    alone, first, again = values(cache=""), values(cache=str(tmp_path)), values(cache=str(tmp_path))
    assert alone["features"] == first["features"] == ["computed", "computed"], "each seed draws its own images"
    assert again["features"] == ["disk", "disk"]
    assert len(list((tmp_path / "features").iterdir())) == 2
    assert alone == first == {**again, "features": first["features"]}
    monkeypatch.setattr(fit_module, "FEATURE_BUDGET", 0)
    plain = values(cache=str(tmp_path))
    assert (plain["features"], plain["reused_stages"]) == ([None, None], 0)
    assert (plain["trained"], plain["answers"]) == (first["trained"], first["answers"])
