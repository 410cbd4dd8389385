"""Every policy on a network of every family: the invariants that no model may break."""

import copy
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fashiontl.core.errors import SkippedError
from fashiontl.data.torchvision_import import models
from fashiontl.freezing import POLICIES, Plan
from fashiontl.freezing.apply import apply, has_statistics, parameter_groups
from fashiontl.freezing.lora import prepare
from fashiontl.freezing.proof import FreezeVerifier
from fashiontl.models.build import build
from fashiontl.models.families import split
from fashiontl.models.network import Network
from fashiontl.models.registry import ARCHITECTURES

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 4
EPOCHS = 3
# The first architecture of each family.
FAMILIES = {entry.family: entry.name for entry in reversed(ARCHITECTURES.values()) if entry.builder == entry.name}
MEMBERS = (*FAMILIES.values(), "resnet9")


def narrow(name: str) -> Network:
    """VGG or AlexNet with 16 features in place of 4,096, which hold nearly all of their weights."""
    with torch.device("meta"):
        model = models.get_model(name)
    features = model.features.to_empty(device="cpu")
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    wide = model.classifier[0 if name == "vgg11" else 1].in_features
    classifier = [nn.Linear(wide, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, CLASSES)]
    return split(SimpleNamespace(features=features, avgpool=model.avgpool, classifier=classifier), "vgg")


def convnext() -> nn.Module:
    widths = ((8, 16), (16, 24), (24, 32), (32, None))
    return models.ConvNeXt([models.convnext.CNBlockConfig(*width, 1) for width in widths], num_classes=CLASSES)


# Networks of torchvision's classes at a size that trains in a moment; the others are small enough as they are.
SMALL: dict[str, Callable[[], Network]] = {
    "alexnet": lambda: narrow("alexnet"),
    "vgg": lambda: narrow("vgg11"),
    "densenet": lambda: split(models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=CLASSES), "densenet"),
    "convnext": lambda: split(convnext(), "convnext"),
    "swin": lambda: split(
        models.SwinTransformer([4, 4], 8, [1, 1, 2, 1], [2, 2, 2, 2], [2, 2], num_classes=CLASSES), "swin"
    ),
    "vit": lambda: split(models.VisionTransformer(32, 16, 4, 2, 16, 32, num_classes=CLASSES), "vit"),
    "maxvit": lambda: split(
        models.MaxVit((64, 64), 8, 2, [8, 16, 16, 24], [1, 1, 1, 1], 8, 0.0, num_classes=CLASSES), "maxvit"
    ),
}
SIZES = {"alexnet": 63, "inception": 75, "maxvit": 64}


@cache
def _member(architecture: str) -> Network:
    family = ARCHITECTURES[architecture].family
    torch.manual_seed(0)
    network = SMALL[family]() if family in SMALL else build(architecture, CLASSES, image_size=size_of(architecture))
    # Some heads start at zero, and then nothing below them gets a gradient at the first step.
    nn.init.normal_(network.head_layer.weight, std=0.1)
    for module in network.modules():
        if has_statistics(module):
            module.momentum = 1.0
    with torch.no_grad():
        # Fresh statistics are of no data, on which activations of deep networks explode.
        network.train()(images_for(architecture))
        for module in network.modules():
            if has_statistics(module):
                # Four images leave some channels all but constant, which would magnify every gradient.
                module.running_var.clamp_(min=0.1)
    return network


def size_of(architecture: str) -> int:
    return SIZES.get(ARCHITECTURES[architecture].family, 32)


def images_for(architecture: str) -> Tensor:
    size = size_of(architecture)
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))


def member(architecture: str) -> tuple[Network, Tensor]:
    """A small network of an architecture's family, and images that it takes."""
    return copy.deepcopy(_member(architecture)), images_for(architecture)


@cache
def shape_of(architecture: str) -> Network:
    """A network without numbers: flags, modes and groups need none. Shared, because `apply` sets all of them."""
    with torch.device("meta"):
        return build(architecture, CLASSES, image_size=224)


def plan_of(network: Network, policy: str, epoch: int) -> Plan:
    try:
        return POLICIES[policy].plan(network.stage_names, epoch, EPOCHS)
    except SkippedError:
        pytest.skip("this family has fewer stages")


def assert_invariants(network: Network, plan: Plan) -> None:
    """What holds of a network to which a plan is applied, seen from outside."""
    parameters = [id(parameter) for stage in network.stages.values() for parameter in stage.parameters()]
    assert len(parameters) == len(set(parameters)), "a parameter is in two stages"
    assert set(parameters) == {id(parameter) for parameter in network.parameters()}, "a parameter is in no stage"
    for planned, stage in zip(plan, network.stages.values(), strict=True):
        flags = [parameter.requires_grad for parameter in stage.parameters()]
        assert not any(flags) or planned.trains != "none"
        assert all(flags) or planned.trains != "all" or planned.normalisation == "eval"
        for module in stage.modules():
            assert_mode(module, planned.trains, planned.normalisation)
    assert all(parameter.requires_grad for parameter in network.head_layer.parameters())
    held = [id(parameter) for group in parameter_groups(network, plan, 1e-3, 0.1) for parameter in group["params"]]
    assert len(held) == len(set(held)), "the optimiser holds a parameter twice"
    assert set(held) == {id(parameter) for parameter in network.parameters() if parameter.requires_grad}


def assert_mode(module: nn.Module, trains: str, normalisation: str) -> None:
    own = list(module.parameters(recurse=False))
    if trains in {"none", "bias", "adapters"} or (own and not any(parameter.requires_grad for parameter in own)):
        assert not module.training, "nothing trains here, and yet it is in training mode"
    if has_statistics(module):
        assert module.training == (normalisation == "batch")
    elif not own and not list(module.children()):
        # Dropout, stochastic depth, activations.
        assert module.training == (trains == "all")


@pytest.mark.parametrize("architecture", MEMBERS)
def test_flags_modes_and_groups(architecture: str) -> None:
    network = shape_of(architecture)
    policies = [name for name in POLICIES if name.replace("surgical_", "stage") in {name, *network.stage_names}]
    for policy in {*policies} - {"lora"}:
        for plan in dict.fromkeys(plan_of(network, policy, epoch) for epoch in range(EPOCHS)):
            apply(network, plan)
            assert_invariants(network, plan)


def train(network: Network, images: Tensor, policy: str) -> None:
    """Two steps under each plan of a policy, verified bit for bit."""
    plans = dict.fromkeys(plan_of(network, policy, epoch) for epoch in range(EPOCHS))
    prepare(network, next(iter(plans)), images)
    verifier = FreezeVerifier(network)
    for plan in plans:
        apply(network, plan)
        assert_invariants(network, plan)
        verifier.begin(plan)
        optimizer = torch.optim.SGD(parameter_groups(network, plan, 1e-4, 0.1), momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(images), torch.arange(4))
            assert loss.isfinite()
            loss.backward()
            optimizer.step()
        verifier.end()
    assert verifier.result().holds, verifier.result().violations
    assert verifier.result().trained_parameters


@pytest.mark.parametrize("policy", POLICIES)
def test_training_keeps_every_policy(policy: str) -> None:
    train(*member("resnet9"), policy)


# Every policy and every family, but not every pair.
PAIRS = [
    (architecture, list(POLICIES)[(3 * number + step) % len(POLICIES)])
    for number, architecture in enumerate(sorted({*MEMBERS} - {"resnet9", "vit_b_16"}))
    for step in (0, 9)
]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "policy"), PAIRS)
def test_training_keeps_the_policy_in_every_family(architecture: str, policy: str) -> None:
    train(*member(architecture), policy)
