"""Every architecture as a chain of stages against torchvision's own model."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from architectures_models import SMALLEST, TORCHVISION, filled, head_of, images, reference, size_for
from torch import nn

from fashiontl.core.errors import FashiontlError
from fashiontl.data.torchvision_import import models
from fashiontl.models.build import build
from fashiontl.models.families import FAMILIES, split
from fashiontl.models.network import Network
from fashiontl.models.registry import ARCHITECTURES

CLASSES = 7


@dataclass
class Pair:
    """torchvision's model and a network built from its state, two objects with equal weights, and their input."""

    name: str
    model: nn.Module
    network: Network
    inputs: torch.Tensor


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


# MaxViT takes no images smaller than 224 pixels.
@pytest.fixture(scope="module", params=[*SMALLEST, pytest.param("maxvit_t", marks=pytest.mark.slow)])
def pair(request: pytest.FixtureRequest) -> Pair:
    name, size = request.param, size_for(request.param)
    model = filled(reference(name, CLASSES, size))
    network = build(name, CLASSES, model.state_dict(), image_size=size).eval()
    network.head_layer.load_state_dict(head_of(model).state_dict())
    return Pair(name, model, network, images(size))


def stage_of_modules(network: Network) -> dict[int, int]:
    return {id(m): number for number, stage in enumerate(network.stages.values()) for m in stage.modules()}


def executed_stages(model: nn.Module, network: Network, inputs: torch.Tensor) -> list[int]:
    """Stage of each module without children, in the order in which the model itself calls them."""
    number = stage_of_modules(network)
    called: list[int] = []
    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(lambda leaf, *_: called.append(number[id(leaf)])) for leaf in leaves]
    model.eval()(inputs)
    for handle in handles:
        handle.remove()
    return called


def assert_structure(model: nn.Module, network: Network) -> None:
    """What holds for any network, whatever its weights."""
    parameters = [id(p) for stage in network.stages.values() for p in stage.parameters()]
    assert len(parameters) == len(set(parameters)), "a parameter is in two stages"
    assert set(parameters) == {id(p) for p in model.parameters()}
    assert {id(b) for b in network.buffers()} == {id(b) for b in model.buffers()}
    assert all(stage_parameters for stage_parameters in _sizes(network, but="neck")), "a stage has no parameters"
    names = network.stage_names
    numbered = [name for name in names if name.startswith("stage")]
    assert numbered == [f"stage{number}" for number in range(1, len(numbered) + 1)]
    assert len(numbered) >= 3
    assert [name for name in names if name not in numbered] in (["stem", "neck", "head"], ["neck", "head"])
    layers = [module for module in network.stages["head"].modules() if list(module.parameters(recurse=False))]
    assert layers == [network.head_layer] == [head_of(model)]


def _sizes(network: Network, but: str) -> list[int]:
    return [len(list(stage.parameters())) for name, stage in network.stages.items() if name != but]


def test_a_network_computes_what_torchvision_computes_bit_for_bit(pair: Pair) -> None:
    expected = pair.model(pair.inputs)
    assert expected.shape == (2, CLASSES)
    assert torch.isfinite(expected).all()
    assert not torch.equal(expected[0], expected[1]), "the images made no difference, so this would compare nothing"
    assert torch.equal(pair.network(pair.inputs), expected)


@pytest.mark.parametrize("training", [False, True])
def test_no_stage_changes_its_input_because_cached_features_are_used_again(pair: Pair, training: bool) -> None:
    features = pair.inputs
    expected = pair.network.eval()(pair.inputs)
    pair.network.train(training)
    for number in range(len(pair.network.stage_names)):
        before = features.clone()
        result = pair.network.run(features, number, number + 1)
        assert torch.equal(features, before), pair.network.stage_names[number]
        features = result
    pair.network.eval()
    assert training or torch.equal(features, expected)


def test_modules_are_the_models_own_and_run_in_the_order_of_the_stages(pair: Pair) -> None:
    network = split(pair.model, ARCHITECTURES[pair.name].family)
    assert_structure(pair.model, network)
    order = executed_stages(pair.model, network, pair.inputs)
    assert order == sorted(order)
    assert set(order) == set(range(len(network.stage_names))) - _without_modules(pair.model, network)


def _without_modules(model: nn.Module, network: Network) -> set[int]:
    """Stages made only of what torchvision does without a module: the neck of ShuffleNet and of DenseNet."""
    own = {id(module) for module in model.modules()}
    return {
        number
        for number, stage in enumerate(network.stages.values())
        if not any(id(module) in own for module in stage.modules())
    }


def test_the_table_names_every_classifier_of_torchvision_and_its_weights() -> None:
    published = {
        name: tuple(weights.name for weights in models.get_model_weights(name))
        for name in models.list_models(module=models)
    }
    assert {name: ARCHITECTURES[name].weights for name in TORCHVISION} == published


def test_every_family_has_a_layout_and_every_layout_an_architecture() -> None:
    assert {entry.family for entry in ARCHITECTURES.values()} - {""} == set(FAMILIES)


def test_an_unknown_family_is_an_error() -> None:
    message = r"unknown family 'resnets'; did you mean resnet, .*\? \(fashiontl list shows all\)"
    with pytest.raises(FashiontlError, match=message):
        split(nn.Identity(), "resnets")


# torchvision cannot build a RegNet on the meta device, so the largest would take minutes.
BUILT = [name for name in TORCHVISION if name[-5:] not in {"_16gf", "_32gf", "128gf"}]
FIRST = {ARCHITECTURES[name].family: name for name in reversed(BUILT)}
LAST = {ARCHITECTURES[name].family: name for name in BUILT}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*FIRST.values(), *LAST.values()}))
def test_the_first_and_last_model_of_each_family(name: str) -> None:
    """Parameters as published, structure and order; without numbers, so on the meta device."""
    weights, family = models.get_model_weights(name).DEFAULT, ARCHITECTURES[name].family
    size = weights.meta["min_size"][0] if family == "vit" else size_for(name)
    model = reference(name, 1000, size)
    # Published for Inception with its auxiliary head, which is off here.
    auxiliary = 3_326_696 if name == "inception_v3" else 0
    assert sum(p.numel() for p in model.parameters()) == weights.meta["num_params"] - auxiliary
    network = split(model, family)
    assert_structure(model, network)
    order = executed_stages(model, network, images(size, str(next(model.parameters()).device)))
    assert order == sorted(order)
