"""Chains of stages, on a network small enough to follow."""

import pytest
import torch
from torch import nn

from fashiontl.core.errors import FashiontlError
from fashiontl.models.network import Network


def small() -> Network:
    return Network(
        {
            "stem": [nn.Conv2d(3, 4, 3), nn.ReLU()],
            "stage1": [nn.Conv2d(4, 5, 3)],
            "neck": [nn.AdaptiveAvgPool2d(1), nn.Flatten(1)],
            "head": [nn.Linear(5, 6)],
        }
    )


def test_forward_is_all_stages_in_order_and_run_is_a_span_of_them() -> None:
    network, images = small(), torch.randn(2, 3, 8, 8)
    features = network.run(images, 0, 2)
    assert features.shape == (2, 5, 4, 4)
    assert torch.equal(network.run(features, 2, 4), network(images))
    assert network.run(images, 0, 0) is images


def test_a_new_head_has_the_classes_asked_for_and_fresh_weights() -> None:
    network = small().double()
    before = network.head_layer
    network.replace_head(6)
    assert network.classes == 6
    assert network.head_layer.weight.dtype == torch.float64
    assert not torch.equal(network.head_layer.weight, before.weight)
    network.replace_head(3)
    assert network.classes == 3
    assert network.double()(torch.randn(2, 3, 8, 8).double()).shape == (2, 3)


def test_a_convolution_as_head_is_replaced_where_it_stands() -> None:
    network = Network({"stage1": [nn.Conv2d(3, 4, 3)], "head": [nn.ReLU(), nn.Conv2d(4, 6, 1), nn.Flatten(1)]})
    network.replace_head(2)
    assert [type(module) for module in network.stages["head"]] == [nn.ReLU, nn.Conv2d, nn.Flatten]
    assert network.classes == 2


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({}, "expected a last stage called head, got stages none"),
        ({"head": [nn.Linear(1, 1)], "neck": []}, "expected a last stage called head, got stages head, neck"),
        (
            {"head": [nn.Linear(1, 1), nn.Linear(1, 1)]},
            "expected a head with one layer, Linear or Conv2d, got Linear, Linear; put what is before it into the neck",
        ),
        (
            {"head": [nn.LayerNorm(1)]},
            "expected a head with one layer, Linear or Conv2d, got LayerNorm; put what is before it into the neck",
        ),
        (
            {"head": [nn.ReLU()]},
            "expected a head with one layer, Linear or Conv2d, got none; put what is before it into the neck",
        ),
    ],
)
def test_a_head_that_is_not_one_layer_is_an_error(stages: dict[str, list[nn.Module]], message: str) -> None:
    with pytest.raises(FashiontlError) as caught:
        Network(stages)
    assert str(caught.value) == message
