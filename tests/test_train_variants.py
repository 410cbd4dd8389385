"""The training loop in other precisions and memory formats, with the networks of `test_train`."""

import math
from typing import Any

import pytest
import torch
from test_train import CLASSES, PREPROCESSING, examples, same, state, tiny, trained
from torch import nn

from fashiontl.freezing import POLICIES
from fashiontl.freezing.apply import apply
from fashiontl.timing.variants import Variant
from fashiontl.training.fit import lr_factor, new_optimizer, predict
from fashiontl.training.recipes import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")


def test_without_a_variant_it_is_the_plain_loop_bit_for_bit() -> None:
    recipe = Recipe(3, 8)
    network, result = trained("scratch", recipe=recipe)
    plain = tiny()
    plan = POLICIES["scratch"].plan(plain.stage_names, 0, 3)
    apply(plain, plan)
    optimizer = new_optimizer(plain, plan, recipe)
    peaks = [group["lr"] for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(0)
    losses = []
    for epoch in range(3):
        losses.append(0.0)
        for number, chosen in enumerate(torch.tensor_split(torch.randperm(24, generator=generator), 3)):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * lr_factor(3 * epoch + number, 9, recipe.warm_up)
            optimizer.zero_grad()
            outputs = plain(PREPROCESSING(examples().images[chosen]))
            labels = examples().labels[chosen]
            loss = nn.functional.cross_entropy(outputs, labels, label_smoothing=recipe.label_smoothing)
            loss.backward()
            optimizer.step()
            losses[-1] += loss.item() * len(chosen) / 24
    assert same(network, plain)
    assert result.losses == pytest.approx(losses, rel=1e-6)
    with torch.inference_mode():
        expected = plain.eval()(PREPROCESSING(examples().images))
    assert torch.equal(predict(network, examples().images, PREPROCESSING), expected)


@pytest.mark.parametrize(
    ("policy", "variant", "tolerance"),
    [
        ("last_stage", Variant("fp32", "channels_last"), 1e-4),
        ("scratch", Variant("bf16", "channels_last"), 5e-2),
        ("gradual_unfreeze", Variant("fp16"), 1e-2),
    ],
)
def test_every_variant_trains_float32_weights_close_to_the_plain_ones(
    policy: str, variant: Variant, tolerance: float
) -> None:
    _, expected = trained(policy)
    network, result = trained(policy, variant=variant, validation=examples(8))
    assert result.proof.holds
    assert len(result.validation) == 4
    assert result.losses == pytest.approx(expected.losses, rel=tolerance)
    if variant.precision != "fp32":
        assert result.losses != expected.losses
    weight = network.get_parameter("stages.stage1.0.weight")
    assert weight.dtype == torch.float32
    assert weight.is_contiguous() == (variant.memory_format == "contiguous")


def test_a_step_whose_gradients_overflow_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Variant, "scaler", lambda self, device: torch.amp.GradScaler(device, init_scale=2.0**60))
    before = tiny()
    network, result = trained("scratch", recipe=Recipe(1, 24), variant=Variant("fp16"))
    assert all(torch.equal(one, other) for one, other in zip(before.parameters(), network.parameters(), strict=True))
    assert result.losses[0] == pytest.approx(math.log(CLASSES), abs=0.4)
    assert not result.proof.holds


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_predictions_are_those_of_the_deployed_network(precision: str) -> None:
    variant = Variant(precision, "channels_last")
    network = tiny().train()
    before = state(network)
    images = examples(205).images
    logits = predict(network, images, PREPROCESSING, variant)
    deployed = variant.deploy(tiny())
    with torch.inference_mode():
        expected = [deployed(variant.deployed_images(PREPROCESSING(part))) for part in torch.split(images, 200)]
    assert torch.equal(logits, torch.cat(expected).float())
    assert logits.dtype == torch.float32
    assert not network.training
    for name, value in network.state_dict().items():
        assert torch.equal(before[name], value)
        assert before[name].dtype == value.dtype


def test_accuracy_runs_are_never_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_it(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"compiled {arguments} {options}")

    monkeypatch.setattr(torch, "compile", compile_it)
    network, result = trained(variant=Variant(execution="compile"), validation=examples(8))
    assert result.losses == trained()[1].losses
    assert predict(network, examples().images, PREPROCESSING, Variant(execution="compile")).shape == (24, CLASSES)
