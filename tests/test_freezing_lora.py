"""Low-rank adapters: where they go, that they change nothing at first, and that they can be merged."""

import copy
import re
import sys

import pytest
import torch
from test_freezing_families import FAMILIES, member
from test_freezing_stand_in import stand_in
from torch import Tensor, nn
from torch.nn import functional

from fashiontl.core.errors import SkippedError
from fashiontl.freezing import POLICIES, Plan
from fashiontl.freezing.apply import apply, parameter_groups
from fashiontl.freezing.lora import RANK, prepare
from fashiontl.freezing.proof import FreezeVerifier
from fashiontl.models.build import build
from fashiontl.models.network import Network

pytestmark = pytest.mark.usefixtures("one_thread")

# Convolutions, attention whose weights another module reads, joint attention, and a small one of each other kind.
every_member = pytest.mark.parametrize(
    "architecture", ["resnet9", *(FAMILIES[family] for family in ("swin", "vit", "convnext", "densenet"))]
)


def plan_of(network: Network, policy: str = "lora") -> Plan:
    return POLICIES[policy].plan(network.stage_names, 0, 1)


def adapted(network: Network, images: Tensor) -> Network:
    prepare(network, plan_of(network), images)
    return network


def adapters(network: Network) -> dict[str, nn.Parameter]:
    return {name: value for name, value in network.stages.named_parameters() if ".lora_" in name}


def shape_of(architecture: str, size: int) -> Network:
    with torch.device("meta"):
        return adapted(build(architecture, 4, image_size=size), torch.empty(1, 3, size, size))


def trainable(network: Network) -> int:
    apply(network, plan_of(network))
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def convolution(inputs: int, outputs: int, side: int) -> int:
    """Numbers in the adapter of a convolution: a convolution to `RANK` channels and one of 1x1 back."""
    return RANK * (side * side * inputs + outputs)


def test_trainable_parameters_of_resnet18() -> None:
    blocks = [
        convolution(inputs, outputs, 3) + 3 * convolution(outputs, outputs, 3)
        for inputs, outputs in ((64, 64), (64, 128), (128, 256), (256, 512))
    ]
    shortcuts = [convolution(width, 2 * width, 1) for width in (64, 128, 256)]
    head = 512 * 4 + 4
    expected = convolution(3, 64, 7) + sum(blocks) + sum(shortcuts) + head
    assert expected == 289_436
    assert trainable(shape_of("resnet18", 32)) == expected


@every_member
def test_adapters_change_no_output_and_the_network_stays_a_chain(architecture: str) -> None:
    network, images = member(architecture)
    with torch.inference_mode():
        before = network.eval()(images)
    names = set(network.state_dict())
    adapted(network, images)
    with torch.inference_mode():
        assert torch.equal(network(images), before)
        stages = len(network.stages)
        assert torch.equal(network.run(network.run(images, 0, 2), 2, stages), before)
        assert torch.equal(copy.deepcopy(network)(images), before)
    assert {name.replace(".base_layer.", ".") for name in network.state_dict() if ".lora_" not in name} == names
    assert not any(name.startswith("head.") for name in adapters(network))
    again = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.add_(1)
    again.load_state_dict(network.state_dict())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in network.state_dict().items())


@every_member
def test_every_adapter_learns_and_nothing_else_below_the_head(architecture: str) -> None:
    network, images = member(architecture)
    adapted(network, images)
    plan = plan_of(network)
    apply(network, plan)
    verifier = FreezeVerifier(network)
    verifier.begin(plan)
    optimizer = torch.optim.SGD(parameter_groups(network, plan, 1e-4, 0.0), momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        functional.cross_entropy(network(images), torch.arange(4)).backward()
        optimizer.step()
    verifier.end()
    proof = verifier.result()
    assert proof.holds, proof.violations
    # Where an adapter has no effect, its B would stay at the zero it starts from.
    idle = [name for name, value in adapters(network).items() if ".lora_B." in name and not value.any()]
    assert idle == []
    assert proof.trained_parameters + len(proof.unmoved) == len(adapters(network)) + len(
        list(network.stages["head"].parameters())
    )


@every_member
def test_merged_weights_compute_the_same(architecture: str) -> None:
    network, images = member(architecture)
    # In double precision a wrong update would not pass for rounding.
    network, images = network.double(), images.double()
    before = network.eval()(images).detach()
    adapted(network, images)
    with torch.no_grad():
        for parameter in adapters(network).values():
            nn.init.normal_(parameter, std=0.02)
        expected = network(images)
        for module in list(network.modules()):
            if hasattr(module, "lora_A"):
                module.merge()
        merged = network(images)
    assert not torch.allclose(expected, before, rtol=1e-3)
    assert torch.allclose(merged, expected, rtol=1e-9)


@pytest.mark.parametrize(("architecture", "inside"), [(FAMILIES["swin"], "attn."), (FAMILIES["vit"], "out_proj")])
def test_layers_whose_weights_another_module_reads_have_no_adapter(architecture: str, inside: str) -> None:
    network, images = member(architecture)
    assert any(inside in name for name, _ in network.named_parameters())
    adapted(network, images)
    assert [name for name in adapters(network) if inside in name] == []


class Scaled(nn.Conv2d):
    """Computes with another weight than its own."""

    def forward(self, images: Tensor) -> Tensor:
        return self._conv_forward(images, self.weight / self.weight.norm(), self.bias)


def test_convolutions_that_an_adapter_would_not_follow_have_none() -> None:
    layers = [
        nn.Conv2d(3, 4, 1),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        Scaled(4, 4, 3),
    ]
    network = Network({"stage1": layers, "neck": [nn.Flatten()], "head": [nn.Linear(64, 4)]})
    adapted(network, torch.zeros(1, 3, 12, 12))
    assert list(adapters(network)) == [f"stage1.0.lora_{half}.default.weight" for half in "AB"]


def test_a_network_without_a_layer_to_adapt_is_skipped() -> None:
    network = Network({"stage1": [nn.Conv2d(3, 3, 3, groups=3)], "neck": [nn.Flatten()], "head": [nn.Linear(27, 4)]})
    message = (
        "expected a linear layer or a convolution to put adapters beside, got none in the stages neck, stage1; "
        "use linear_probe"
    )
    with pytest.raises(SkippedError, match=f"^{re.escape(message)}$"):
        adapted(network, torch.zeros(1, 3, 5, 5))


def test_without_peft_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    network = stand_in()
    prepare(network, plan_of(network, "full"), torch.zeros(1, 2, 4, 4))
    message = "a policy that trains adapters needs the library peft; pip install 'fashiontl[lora]'"
    with pytest.raises(SkippedError, match=f"^{re.escape(message)}$"):
        prepare(network, plan_of(network), torch.zeros(1, 2, 4, 4))


def test_a_peft_that_is_there_but_broken_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "peft", raising=False)
    monkeypatch.setitem(sys.modules, "peft.mapping", None)
    monkeypatch.setitem(sys.modules, "peft.auto", None)
    network = stand_in()
    with pytest.raises(SkippedError, match=r"needs the library peft, which cannot be imported: .*peft\.(auto|mapping)"):
        prepare(network, plan_of(network), torch.zeros(1, 2, 4, 4))
