"""Building by name: random starts, published weights in their old layouts, and weights that do not fit."""

from collections import OrderedDict
from collections.abc import Iterator

import pytest
import torch
from architectures_models import filled, head_of, images, reference
from torch import Tensor, nn

from fashiontl.core.errors import FashiontlError
from fashiontl.data.torchvision_import import models
from fashiontl.models.blocks import TutorialVGG
from fashiontl.models.build import build
from fashiontl.models.network import Network
from fashiontl.models.registry import ARCHITECTURES, Architecture


@pytest.fixture(autouse=True)
def _one_thread_without_gradients() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


def features(network: Network, size: int = 32) -> Tensor:
    return network.eval().run(images(size), 0, len(network.stage_names) - 1)


def error(name: str, state: dict[str, Tensor] | None = None) -> str:
    with pytest.raises(FashiontlError) as caught:
        build(name, 4, state, image_size=32)
    return str(caught.value)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "shufflenet_v2_x0_5", "regnet_y_400mf"])
def test_a_random_start_is_torchvisions_own(name: str) -> None:
    torch.manual_seed(3)
    model = models.get_model(name, weights=None, num_classes=4).eval()
    torch.manual_seed(3)
    network = build(name, 4, image_size=32).eval()
    assert torch.equal(network(images(32)), model(images(32)))


def test_weights_for_other_classes_keep_the_features_and_get_a_new_head() -> None:
    model = filled(reference("resnet18", 9, 32))
    network = build("resnet18", 4, model.state_dict(), image_size=32)
    assert network.classes == 4
    assert network.training
    assert torch.equal(features(network), nn.Sequential(*list(model.children())[:-1], nn.Flatten())(images(32)))
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in network.parameters())


def test_weights_are_copied_and_become_float32() -> None:
    state = filled(reference("resnet18", 4, 32)).half().state_dict()
    network = build("resnet18", 4, state, image_size=32)
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32, torch.int64}
    full = filled(reference("resnet18", 4, 32)).state_dict()
    for parameter in build("resnet18", 4, full, image_size=32).parameters():
        parameter.zero_()
    assert full["conv1.weight"].abs().sum() > 0


@pytest.mark.parametrize("name", ["vgg11", "regnet_x_400mf"])
def test_a_network_for_weights_read_later_costs_no_memory_where_torchvision_allows_it(name: str) -> None:
    with torch.device("meta"):
        network = build(name, 4, image_size=32)
    assert next(network.parameters()).is_meta == (name != "regnet_x_400mf")


def test_densenet_under_the_names_of_its_published_file() -> None:
    model = filled(reference("densenet121", 4, 32))
    old = {key.replace("norm1", "norm.1").replace("conv2", "conv.2"): v for key, v in model.state_dict().items()}
    # The published file is older than this counter as well.
    old = {key: value for key, value in old.items() if not key.endswith("num_batches_tracked")}
    assert "features.denseblock1.denselayer1.norm.1.running_mean" in old
    network = build("densenet121", 4, old, image_size=32)
    assert torch.equal(features(network), features(build("densenet121", 4, model.state_dict(), image_size=32)))


@pytest.mark.parametrize(("name", "auxiliary"), [("googlenet", "aux1."), ("inception_v3", "AuxLogits.")])
def test_weights_with_auxiliary_heads_load_without_them_and_scale_their_input(name: str, auxiliary: str) -> None:
    with torch.device("meta"):
        model = models.get_model(name, weights=None, num_classes=4, transform_input=True, init_weights=False,
                                 aux_logits=True)  # fmt: skip
    filled(model)
    state = model.state_dict()
    assert any(key.startswith(auxiliary) for key in state)
    network = build(name, 4, state, image_size=96).eval()
    # With auxiliary heads, the last layer is not the last that is registered.
    network.head_layer.load_state_dict(model.get_submodule("fc").state_dict())
    assert torch.equal(network(images(96)), model(images(96)))


def test_vision_transformer_under_the_names_of_its_published_file() -> None:
    model = filled(reference("vit_b_32", 4, 32))
    old = {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): value
        for key, value in model.state_dict().items()
    }
    assert "encoder.layers.encoder_layer_0.mlp.linear_1.weight" in old
    network = build("vit_b_32", 4, old, image_size=32).eval()
    network.head_layer.load_state_dict(head_of(model).state_dict())
    assert torch.equal(network(images(32)), model(images(32)))


def test_positions_of_a_vision_transformer_follow_the_image_size() -> None:
    model = filled(reference("vit_b_32", 4, 96))
    state = model.state_dict()
    network = build("vit_b_32", 4, state, image_size=64)
    interpolated = models.vision_transformer.interpolate_embeddings(64, 32, OrderedDict(state))
    positions = next(value for key, value in network.state_dict().items() if key.endswith("positions"))
    assert positions.shape == (1, 5, 768)
    assert torch.equal(positions, interpolated["encoder.pos_embedding"])
    assert state["encoder.pos_embedding"].shape == (1, 10, 768), "the caller's own state is left as it is"
    assert features(network, 64).shape == (2, 768)


def test_weights_of_another_architecture() -> None:
    assert error("resnet18", filled(reference("mobilenet_v2", 4, 32)).state_dict()) == (
        "these are not weights of resnet18: 102 missing: conv1.weight, bn1.weight, bn1.bias, ...; 314 unexpected: "
        "features.0.0.weight, features.0.1.weight, features.0.1.bias, ..."
    )


def test_a_name_that_does_not_exist() -> None:
    assert error("resnet19") == (
        "unknown architecture 'resnet19'; did you mean resnet9, resnet18, resnet152? (fashiontl list shows all)"
    )


def test_every_resnet_and_densenet_has_a_variant_for_small_images() -> None:
    published = [entry for entry in ARCHITECTURES.values() if entry.family in {"resnet", "densenet"} and entry.weights]
    assert len(published) == 14
    for entry in published:
        variant = ARCHITECTURES[f"{entry.name}_small_stem"]
        assert (variant.builder, variant.weights, variant.small_stem) == (entry.name, (), True)


@pytest.mark.parametrize(
    ("name", "minimum", "side"), [("resnet18_small_stem", 1, 32), ("densenet121_small_stem", 8, 32)]
)
def test_a_small_stem_keeps_the_resolution(name: str, minimum: int, side: int) -> None:
    network = build(name, 4, image_size=32).eval()
    assert network.run(images(32), 0, 1).shape == (2, 64, side, side)
    assert network(images(minimum)).shape == (2, 4)
    with pytest.raises(RuntimeError, match=r"too small|greater than actual input|non-zero"):
        network(images(minimum - 1))
    published = build(ARCHITECTURES[name].builder, 4, image_size=32)
    kernel = 64 * 3 * (7 * 7 - 3 * 3)
    assert parameters(network) == parameters(published) - kernel


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_tutorials_vgg() -> None:
    network = build("tutorial_vgg", 10, image_size=32).eval()
    convolutions = [
        [module.out_channels for module in network.stages[f"stage{number}"] if isinstance(module, nn.Conv2d)]
        for number in range(1, 6)
    ]
    assert convolutions == [[64], [128], [256, 256], [512, 512], [512, 512]]
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]
    assert [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, nn.Linear)] == [
        (512, 4096), (4096, 4096), (4096, 10)
    ]  # fmt: skip
    with torch.device("meta"):
        larger = build("tutorial_vgg", 10, image_size=100)
    linear = next(module for module in larger.modules() if isinstance(module, nn.Linear))
    assert linear.in_features == 512 * 3 * 3


def network_of_a_plugin(classes: int, image_size: int) -> Network:
    return Network({"stage1": [nn.Flatten(1)], "head": [nn.Linear(3 * image_size**2, classes)]})


def test_a_plugins_builder_may_return_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Architecture("mine", "none", 1, builder=f"{__name__}:network_of_a_plugin")
    monkeypatch.setitem(ARCHITECTURES, "mine", entry)
    network = build("mine", 4, image_size=2)
    assert network.stage_names == ("stage1", "head")
    weights = torch.randn(7, 12)
    again = build("mine", 5, {"stages.head.0.weight": weights, "stages.head.0.bias": torch.randn(7)}, image_size=2)
    assert again.classes == 5


def test_the_tutorials_vgg_computes_as_a_chain_what_it_computes_as_a_model() -> None:
    network, model = build("tutorial_vgg", 10, image_size=32).eval(), TutorialVGG(10, 32).eval()
    for chained, own in zip(network.parameters(), model.parameters(), strict=True):
        chained.data = own.data
    assert torch.equal(network(images(32)), model(images(32)))


@pytest.mark.parametrize("name", [name for name, entry in ARCHITECTURES.items() if ":" in entry.builder])
def test_an_architecture_of_our_own_takes_its_smallest_size_and_all_classes(name: str) -> None:
    size = ARCHITECTURES[name].minimum_size
    with torch.device("meta"):
        network = build(name, 7, image_size=size)
        assert network(torch.empty(2, 3, size, size)).shape == (2, 7)
    assert list(network.stages)[-1] == "head"
    assert all(any(True for _ in stage.parameters()) for name, stage in network.stages.items() if name != "neck")
