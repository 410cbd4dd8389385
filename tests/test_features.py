"""Reuse of frozen prefixes' outputs: it changes no more than rounding does, and is refused where it could."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_freezing_families import FAMILIES, member, plan_of, size_of
from torch import Tensor, nn

from fashiontl.core.case import PRESETS, Case
from fashiontl.data.preprocessing import Preprocessing
from fashiontl.freezing import POLICIES
from fashiontl.models.network import Network
from fashiontl.models.weights.start import weights_digest
from fashiontl.runner import phases
from fashiontl.runner.messages import CaseJob, Training
from fashiontl.timing import torch_flags
from fashiontl.timing.variants import Variant
from fashiontl.training import fit as fit_module
from fashiontl.training.fit import Examples, Fit, fit, frozen_cut, predict
from fashiontl.training.prefix import Features, FeatureStore, key_of
from fashiontl.training.recipes import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")

MOST = 2**20
# Batches of 3, 2 and 2 images.
PARTS = torch.tensor_split(torch.arange(14, dtype=torch.uint8).view(7, 2), 3)
EXPECTED = torch.cat(PARTS).float() * 2


def images(count: int = 22) -> Tensor:
    """Three batches, of eight, seven and seven."""
    return torch.randint(0, 256, (count, 28, 28), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


def found(store: FeatureStore, key: str = "a", *, most: int = MOST) -> tuple[Features, int]:
    """Features of exact arithmetic, which do not depend on the batch, and the number of images that were computed."""
    seen = []

    def prefix(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images.float() * 2

    result = store.features(key, PARTS, prefix, most)
    assert result is not None
    assert torch.equal(result.values, EXPECTED)
    return result, sum(seen)


def trained(
    network: Network, policy: str, size: int, store: FeatureStore | None, variant: Variant
) -> tuple[Fit, str, Tensor]:
    torch.manual_seed(0)
    examples, recipe = Examples(images(), torch.arange(22) % 4), Recipe(epochs=2, batch_size=8)
    preprocessing = Preprocessing(size)
    result = fit(network, POLICIES[policy], examples, recipe, preprocessing, seed=0, variant=variant, store=store)
    return result, weights_digest(network), predict(network, images(9), preprocessing, variant)


def assert_reuse_changes_no_bit(architecture: str, policy: str, variant: Variant = Variant()) -> None:  # noqa: B008
    size = size_of(architecture)
    plan_of(member(architecture)[0], policy, 0)
    plain, weights, answers = trained(member(architecture)[0], policy, size, None, variant)
    assert (plain.reused_stages, plain.features) == (0, None)
    store = FeatureStore()
    for _ in range(2):
        result, other_weights, other_answers = trained(member(architecture)[0], policy, size, store, variant)
        assert other_weights == weights
        assert torch.equal(other_answers, answers)
        assert (result.losses, result.proof) == (plain.losses, plain.proof)


@pytest.mark.parametrize("variant", [Variant(), Variant("bf16"), Variant(memory_format="channels_last")])
def test_reuse_trains_the_weights_of_the_plain_loop_in_every_variant(variant: Variant) -> None:
    assert_reuse_changes_no_bit("resnet9", "last_stage", variant)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["densenet", "googlenet", "mobilenet", "swin", "vit"])
def test_so_do_families_of_other_operators(family: str) -> None:
    assert_reuse_changes_no_bit(FAMILIES[family], "last_stage")


def test_what_is_found_is_what_was_computed() -> None:
    store = FeatureStore()
    first, seen = found(store)
    assert (first.source, seen) == ("computed", 14), "each image once, and once more in another batch"
    again, seen = found(store)
    assert (again.source, seen) == ("memory", 5), "the first and the last batch"


def test_one_batch_is_enough() -> None:
    result = FeatureStore().features("a", PARTS[:1], lambda images: images.float() * 2, MOST)
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
def test_nothing_is_reused_where_features_depend_on_the_batch(prefix: Callable[[Tensor], Tensor]) -> None:
    assert FeatureStore().features("a", PARTS, prefix, MOST) is None


@pytest.mark.parametrize(("change", "reused"), [(1e-6, True), (1e-4, False), (math.nan, False)])
def test_what_only_rounds_by_the_place_in_a_batch_is_reused(change: float, reused: bool) -> None:
    """As large linear layers do on several threads; the features that are kept are those of the images in order."""

    def prefix(images: Tensor) -> Tensor:
        return images.float() * 2 + EXPECTED.max() * change * torch.arange(len(images)).view(-1, 1) / 2

    result = FeatureStore().features("a", PARTS, prefix, MOST)
    assert (result is not None) is reused
    if result is not None:
        assert torch.equal(result.values, torch.cat([prefix(part) for part in PARTS]))


def test_nothing_is_reused_where_half_precision_rounds_otherwise() -> None:
    def prefix(images: Tensor) -> Tensor:
        return images.bfloat16() * (1 + torch.arange(len(images)).view(-1, 1) * 2**-7)

    assert FeatureStore().features("a", PARTS, prefix, MOST) is None


def test_a_batch_lies_in_memory_as_the_prefix_lays_it() -> None:
    def strided(images: Tensor) -> Tensor:
        return torch.empty_strided((len(images), 2), (10, 3)).copy_(images)

    result = FeatureStore().features("a", PARTS, strided, MOST)
    assert result is not None
    batch = result.batch(torch.tensor([6, 0, 3]))
    assert torch.equal(batch, torch.tensor([[12.0, 13.0], [0.0, 1.0], [6.0, 7.0]]))
    assert batch.stride() == (10, 3)


def test_memory_has_a_limit_and_the_least_recently_used_goes_first() -> None:
    store = FeatureStore()
    assert store.features("a", PARTS, lambda images: images.float() * 2, EXPECTED.nbytes - 1) is None
    sources = [found(store, key, most=2 * EXPECTED.nbytes)[0].source for key in "abacab"]
    assert sources == ["computed", "computed", "memory", "computed", "memory", "computed"]


def pooled(changed: str = "", stem: str = "stage1", second: nn.Module | None = None) -> Network:
    """A network whose frozen stages do no arithmetic, perhaps with one changed tensor, name or module."""
    torch.manual_seed(0)
    neck = [nn.BatchNorm1d(48), second or nn.Identity()]
    network = Network({stem: [nn.MaxPool2d(8), nn.Flatten()], "neck": neck, "head": [nn.Linear(48, 4)]})
    if changed:
        with torch.no_grad():
            network.state_dict()[f"stages.{changed}"].add_(1e-6)
    return network


def key(network: Network | None = None, **changed: Any) -> str:
    facts: dict[str, Any] = {
        "prefix": 2, "images": images(), "preprocessing": Preprocessing(32), "variant": Variant(), "batches": 3,
    }  # fmt: skip
    return key_of(network or pooled(), **{**facts, **changed})


@pytest.mark.parametrize(
    "other",
    [
        lambda: key(pooled("neck.0.weight")),
        lambda: key(pooled("neck.0.running_mean")),
        lambda: key(pooled(stem="stem")),
        lambda: key(pooled(second=nn.ReLU())),
        lambda: key(prefix=1),
        lambda: key(images=images() ^ 1),
        lambda: key(images=images().flip(0)),
        lambda: key(images=images()[:-1]),
        lambda: key(preprocessing=Preprocessing(64)),
        lambda: key(preprocessing=Preprocessing(32, interpolation="bicubic")),
        lambda: key(variant=Variant("bf16")),
        lambda: key(variant=Variant(memory_format="channels_last")),
        lambda: key(batches=2),
    ],
)
def test_whatever_features_depend_on_is_in_their_key(other: Callable[[], str]) -> None:
    assert len({key(), key(), other()}) == 2


def test_the_head_and_how_a_network_is_timed_are_not() -> None:
    assert key() == key(pooled("head.0.weight")) == key(variant=Variant(execution="compile"))


def test_accuracy_runs_reuse_features_and_their_results_do_not_depend_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # It would stay for the tests after this one.
    monkeypatch.setattr(torch_flags, "deterministic", lambda *_: None)

    def train() -> Training:
        settings = replace(PRESETS["smoke"], test_per_class=3, seeds=2)
        return phases.train(CaseJob(Case("shufflenet_v2_x0_5", "linear_probe", weights="none"), settings), print)

    reused = train()
    assert reused.provenance["features"] == ["computed", "computed"], "each seed draws its own images"
    monkeypatch.setattr(fit_module, "FEATURE_BUDGET", 0)
    plain = train()
    assert ("features" in plain.provenance, plain.provenance["reused_stages"]) == (False, 0)
    assert (plain.provenance["trained"], plain.answers) == (reused.provenance["trained"], reused.answers)


@pytest.mark.parametrize("policy", ["linear_probe", "last_stage"])
def test_what_frozen_stages_answer_to_test_images_is_computed_once_for_all_seeds(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network, store, preprocessing = member("resnet9")[0], FeatureStore(), Preprocessing(32)
    seen: list[int] = []
    network.stages["stage1"].register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    plan = POLICIES[policy].plan(network.stage_names, 0, 1)
    prefix = frozen_cut(network, plan)
    monkeypatch.setattr(fit_module, "_EVALUATION_BATCH", 8)
    for seed in range(3):
        torch.manual_seed(seed)
        network.replace_head(4)
        answers = predict(network, images(), preprocessing, prefix=prefix, store=store)
        assert torch.equal(answers, predict(network, images(), preprocessing))
    assert seen == [8, 8, 6] * 4, "once for all three, and three times without the store"


def test_outputs_for_test_images_that_take_too_much_are_not_kept() -> None:
    seen: list[int] = []

    def prefix(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images.float()

    store = FeatureStore()
    needed = EXPECTED.nbytes
    tries = [
        ("a", needed - 1, 3),
        ("a", needed, 3),
        ("a", needed, 0),
        ("b", needed, 3),
        ("b", 2 * needed, 3),
        ("b", 0, 0),
    ]
    for key, most, computed in tries:
        seen.clear()
        outputs = list(store.tested(key, PARTS, prefix, most))
        assert torch.equal(torch.cat(outputs), EXPECTED / 2)
        assert len(seen) == computed, (key, most)
