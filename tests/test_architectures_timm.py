"""timm's models in stages: structure, order, cuts, weights and every invariant of a policy, over families of models."""

import copy
import sys
from functools import cache

import pytest
import torch
from test_freezing_families import train
from torch import Tensor, nn

from fashiontl.core.errors import FashiontlError
from fashiontl.freezing import POLICIES
from fashiontl.freezing.lora import prepare
from fashiontl.models import timm_models
from fashiontl.models.build import build
from fashiontl.models.registry import Architecture, find
from fashiontl.models.timm_models import TimmNetwork

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 4
# One member of each family, and a size that it takes.
SMALL = {
    "resnet10t": 32,
    "vit_tiny_patch16_224": 32,
    "tf_efficientnet_lite0": 32,
    "convnext_atto": 32,
    "mobilenetv3_small_050": 32,
    "regnetx_002": 32,
    "mobilevit_xxs": 64,
    "pvt_v2_b0": 32,
}
LARGE = {"densenet121": 32, "swin_tiny_patch4_window7_224": 64, "mixer_s32_224": 64}
MEMBERS = [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]


@cache
def _member(name: str) -> TimmNetwork:
    torch.manual_seed(0)
    network = build(f"timm/{name}", CLASSES, image_size=size(name))
    # Some heads and layer scales start at or near zero, and then what is below them hardly moves.
    nn.init.normal_(network.head_layer.weight, std=0.1)
    for key, parameter in network.named_parameters():
        if key.endswith("gamma"):
            nn.init.ones_(parameter)
    assert isinstance(network, TimmNetwork)
    return network


def size(name: str) -> int:
    return (SMALL | LARGE)[name]


def member(name: str) -> tuple[TimmNetwork, Tensor]:
    images = torch.randn(4, 3, size(name), size(name), generator=torch.Generator().manual_seed(1))
    return copy.deepcopy(_member(name)), images


def error(name: str, state: dict[str, Tensor] | None = None, image_size: int = 32) -> str:
    with pytest.raises(FashiontlError) as caught:
        build(name, CLASSES, state, image_size=image_size)
    return str(caught.value)


def test_find_describes_a_model_of_timm() -> None:
    assert find("timm/tf_efficientnet_lite0") == Architecture(
        "timm/tf_efficientnet_lite0", "timm", 1, ("in1k",), builder="timm"
    )
    assert find("timm/resnet50").weights[:2] == ("a1_in1k", "a1h_in1k")
    assert find("timm/resnet50.a2_in1k").weights == ("a2_in1k",)
    assert find("timm/botnet50ts_256").weights == ()
    assert find("timm/resnet50") is find("timm/resnet50"), "asked for often, so it is kept"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("timm/resnet10", "; did you mean timm/resnet10t, timm/resnet101, timm/resnet101s?"),
        (
            "timm/resnet10t.c9_in1k",
            "; did you mean timm/resnet10t.c3_in1k, timm/resnet14t.c3_in1k, timm/resnet50.c2_in1k?",
        ),
        ("timm/", ""),
    ],
)
def test_a_model_that_timm_does_not_have(name: str, meant: str) -> None:
    with pytest.raises(FashiontlError) as caught:
        find(name)
    assert str(caught.value) == f"unknown architecture {name!r}{meant} (timm.list_models() gives all)"


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    timm_models.describe.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(FashiontlError) as caught:
        find("timm/resnet10t")
    assert str(caught.value) == (
        "architectures called timm/NAME need timm, which is not installed; pip install 'fashiontl[timm]'"
    )


@pytest.mark.parametrize("name", MEMBERS)
def test_stages_hold_every_parameter_once_and_run_in_their_order(name: str) -> None:
    network, images = member(name)
    names = network.stage_names
    assert names == ("stem", *(f"stage{number}" for number in range(1, len(names) - 2)), "neck", "head")
    parameters = [id(parameter) for stage in network.stages.values() for parameter in stage.parameters()]
    assert len(parameters) == len(set(parameters))
    assert set(parameters) == {id(parameter) for parameter in network.parameters()}
    assert list(network.stages["head"].parameters()) == list(network.model.get_classifier().parameters())
    assert_order(network, images)


def assert_order(network: TimmNetwork, images: Tensor) -> None:
    """The model itself calls its modules in the order of the stages, and there are none outside of stages."""
    stage_of = {id(module): n for n, stage in enumerate(network.stages.values()) for module in stage.modules()}
    called: list[int] = []
    for module in network.model.modules():
        if not list(module.children()):
            module.register_forward_pre_hook(lambda module, _: called.append(stage_of[id(module)]))
    network.eval()(images)
    assert called == sorted(called)
    neck = len(network.stage_names) - 2
    assert set(called) | {neck} == set(range(neck + 2))


def test_batch_normalisation_is_in_the_stage_of_its_convolution() -> None:
    with torch.device("meta"):
        network = build("timm/vgg11_bn", CLASSES, image_size=32)
    assert list(network.stages["stage7"]._modules) == ["features/25", "features/26"]
    assert len(network.stage_names) == 10
    assert isinstance(network, TimmNetwork)
    assert_order(network, torch.randn(1, 3, 32, 32, device="meta"))


@pytest.mark.parametrize("name", MEMBERS)
def test_the_network_is_timms_model_and_can_be_cut_before_its_head(name: str) -> None:
    network, images = member(name)
    network.train()
    last = len(network.stage_names)
    assert network.cuts == (0, last - 1, last)
    assert all(module.training for module in network.modules()), "asking for cuts leaves the modes as they were"
    network.eval()
    with torch.no_grad():
        expected = network.model(images)
        assert torch.isfinite(expected).all()
        assert torch.equal(network(images), expected)
        features = network.run(images, 0, last - 1)
        before = features.clone()
        assert torch.equal(network.run(features, last - 1, last), expected)
        assert torch.equal(features, before)
    assert network.run(images, 0, 0) is images


def test_a_cut_elsewhere_is_an_error() -> None:
    network, images = member("resnet10t")
    with pytest.raises(FashiontlError, match=r"^expected to start and stop at one of stages 0, 6, 7, got 0 and 3$"):
        network.run(images, 0, 3)


def test_a_model_that_does_more_after_its_classifier_has_no_cut() -> None:
    network, images = member("resnet10t")
    network.model.register_forward_hook(lambda module, _, outputs: 2 * outputs)
    assert network.cuts == (0, 7)
    with pytest.raises(FashiontlError, match=r"one of stages 0, 7, got 0 and 6$"):
        network.run(images, 0, 6)


def test_the_stages_follow_the_model() -> None:
    network, _ = member("vit_tiny_patch16_224")
    network.stages["stem"].patch_embed.norm = marked = nn.Identity()
    assert network.model.patch_embed.norm is marked
    network.stages["stem"].norm_pre = marked
    assert network.model.norm_pre is marked
    network.model.cls_token = nn.Parameter(torch.zeros(1, 1, 192))
    assert network.stages["stem"].cls_token is network.model.cls_token
    network.to(torch.float64)
    assert {value.dtype for stage in network.stages.values() for value in stage.parameters()} == {torch.float64}
    network.to("meta")
    assert all(value.is_meta for value in [*network.parameters(), *network.buffers()])


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(5)
    return timm.create_model("resnet10t", num_classes=9).state_dict()  # type: ignore[no-any-return]


@pytest.mark.parametrize("classes", [CLASSES, 9])
def test_weights_keep_the_backbone_and_get_a_new_head(state: dict[str, Tensor], classes: int) -> None:
    network = build("timm/resnet10t", classes, state, image_size=32)
    got = network.state_dict()
    assert network.classes == classes
    same = {key for key, value in state.items() if torch.equal(got[f"model.{key}"], value)}
    assert state.keys() - same == {"fc.weight", "fc.bias"}
    assert "state_dict" not in network.model.pretrained_cfg, "no second copy of the weights stays"
    with torch.no_grad():
        next(network.parameters()).zero_()
    assert state["conv1.0.weight"].abs().sum() > 0, "the caller's own state is left as it is"


def test_weights_without_a_head() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32)
    state = model.state_dict() | {"head.weight": torch.zeros(2, 192), "head.bias": torch.zeros(2)}
    assert build("timm/vit_tiny_patch16_224", CLASSES, state, image_size=32).classes == CLASSES
    headless = timm.create_model("vit_small_patch14_dinov2", img_size=28)
    assert build("timm/vit_small_patch14_dinov2", 3, headless.state_dict(), image_size=28).classes == 3


def test_weights_of_another_architecture(state: dict[str, Tensor]) -> None:
    assert error("timm/mobilenetv3_small_050", state) == (
        "these are not weights of timm/mobilenetv3_small_050: 206 missing: conv_stem.weight, "
        "blocks.0.0.conv_dw.weight, blocks.0.0.bn1.weight, ...; 81 unexpected: conv1.0.weight, conv1.1.weight, "
        "conv1.1.bias, ...; 4 of another shape: bn1.weight (expected 16, got 64), bn1.bias (expected 16, got 64), "
        "bn1.running_mean (expected 16, got 64), ..."
    )
    assert error("timm/resnet10t", state | {"conv1.0.weight": torch.zeros(3)}).endswith(
        "resnet10t: 1 of another shape: conv1.0.weight (expected 24x3x3x3, got 3)"
    )
    assert error("timm/resnet10t", {}).startswith("these are not weights of timm/resnet10t: 72 missing: conv1.0.weight")


@pytest.mark.parametrize(("name", "kind"), [("levit_128s", "tuple"), ("crossvit_9_240", "ModuleList")])
def test_a_model_with_several_classifiers(name: str, kind: str) -> None:
    assert error(f"timm/{name}", image_size=240) == (
        f"timm/{name}: expected one classifier, a Linear or Conv2d layer, got {kind}; choose another model"
    )


def test_a_size_for_which_timm_cannot_make_a_model() -> None:
    assert error("timm/gcvit_xxtiny", image_size=8) == (
        "timm cannot make timm/gcvit_xxtiny for images of 8 pixels: ZeroDivisionError division by zero; "
        "use its own size, --set image_size=224"
    )


def test_a_model_without_groups() -> None:
    assert error("timm/poolformer_s12") == (
        "timm/poolformer_s12: timm does not say how its layers are grouped; choose another model"
    )


@pytest.mark.parametrize(("name", "on_meta"), [("resnet10t", True), ("resnetblur18", False)])
def test_a_network_for_weights_read_later_costs_no_memory_where_timm_allows_it(name: str, on_meta: bool) -> None:
    with torch.device("meta"):
        network = build(f"timm/{name}", CLASSES, image_size=32)
    assert {value.is_meta for value in [*network.parameters(), *network.buffers()]} == {on_meta}
    assert network.cuts == ((0, 7) if on_meta else (0, 6, 7))


# Every family and several policies, but not every pair.
@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("resnet10t", "full_frozen_bn"), ("resnet10t", "lp_ft"), ("vit_tiny_patch16_224", "last_stage"),
        ("tf_efficientnet_lite0", "bias_only"), ("convnext_atto", "linear_probe"), ("mobilenetv3_small_050", "bn_only"),
        ("regnetx_002", "discriminative"), ("mobilevit_xxs", "gradual_unfreeze"), ("pvt_v2_b0", "scratch"),
        *(pytest.param(name, "full", marks=pytest.mark.slow) for name in LARGE),
    ],
)  # fmt: skip
def test_training_keeps_the_policy(name: str, policy: str) -> None:
    train(*member(name), policy)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_adapters_stand_in_the_model_itself(name: str) -> None:
    pytest.importorskip("peft")
    network, images = member(name)
    before = network.eval()(images)
    prepare(network, POLICIES["lora"].plan(network.stage_names, 0, 1), images)
    adapted = {type(module).__module__.split(".")[0] for module in network.stages["stem"].modules()}
    assert "peft" in adapted
    assert torch.equal(network(images), before), "adapters start without an effect"
    train(network, images, "lora")
    assert not torch.equal(network.eval()(images), before)
