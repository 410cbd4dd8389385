"""FLOPs by hand, by torch's counter and by torchvision's published figures."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from fashiontl.core.case import PRESETS, Case
from fashiontl.data.torchvision_import import models
from fashiontl.runner.messages import CaseJob
from fashiontl.runner.workload import Workload
from fashiontl.timing import flops
from fashiontl.timing.flops import forward_flops, step_flops

ROOT = Path(__file__).parent.parent
DEVICES = pytest.mark.parametrize("device", ["cpu", "meta"])

pytestmark = pytest.mark.usefixtures("one_thread")


def backwards(model: nn.Module, inputs: Tensor) -> int:
    """What comes on top of the forward pass."""
    return step_flops(lambda: model(inputs).sum().backward()) - forward_flops(model, inputs)


# By hand: the layer, the shape of its input, and its forward pass. Outputs x what each is summed over x 2.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "linear": (lambda: nn.Linear(8, 4), (3, 8), 3 * 4 * 8 * 2),
    "linear, two batch dimensions": (lambda: nn.Linear(8, 4, bias=False), (2, 3, 8), 2 * 3 * 4 * 8 * 2),
    "convolution": (lambda: nn.Conv2d(3, 5, 3), (2, 3, 8, 8), 2 * 5 * 6 * 6 * 3 * 9 * 2),
    "one image without a batch": (lambda: nn.Conv2d(3, 5, 3), (3, 8, 8), 5 * 6 * 6 * 3 * 9 * 2),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8), (1, 8, 16, 16), 8 * 16 * 16 * 9 * 2),
    "one dimension": (lambda: nn.Conv1d(3, 5, 3), (2, 3, 8), 2 * 5 * 6 * 3 * 3 * 2),
    "three dimensions": (lambda: nn.Conv3d(3, 5, 3), (1, 3, 4, 4, 4), 5 * 2 * 2 * 2 * 3 * 27 * 2),
    # Each input meets every weight of its channel once, wherever in the output that lands.
    "transposed": (lambda: nn.ConvTranspose2d(3, 5, 3), (2, 3, 8, 8), 2 * 3 * 8 * 8 * 5 * 9 * 2),
}


@DEVICES
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_costs_as_much_again_for_each_gradient_that_is_wanted(name: str, device: str) -> None:
    make, shape, forward = LAYERS[name]
    layer = make().to(device)
    inputs = torch.randn(shape, device=device)
    assert forward_flops(layer, inputs) == forward
    assert backwards(layer, inputs) == forward, "of the weight alone"
    assert backwards(layer, inputs.clone().requires_grad_()) == 2 * forward
    layer.requires_grad_(requires_grad=False)
    assert backwards(layer, inputs.clone().requires_grad_()) == forward, "of the input alone"
    with torch.no_grad():
        assert step_flops(lambda: layer(inputs)) == forward


@given(
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    spacing=st.fixed_dictionaries(
        {"stride": st.integers(1, 3), "padding": st.integers(0, 2), "dilation": st.integers(1, 2)}
    ),
    groups=st.integers(1, 4),
    shape=st.tuples(st.integers(1, 3), st.integers(5, 9), st.integers(5, 9)),
    transposed=st.booleans(),
)
def test_any_convolution(
    channels: tuple[int, int], kernel: tuple[int, int], spacing: dict[str, int], groups: int,
    shape: tuple[int, int, int], *, transposed: bool,
) -> None:  # fmt: skip
    inputs, outputs = channels
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = kind(groups * inputs, groups * outputs, kernel, groups=groups, **spacing, device="meta")
    batch, *sides = shape
    images = torch.empty(batch, groups * inputs, *sides, device="meta", requires_grad=True)
    output = layer(images)
    # One side meets, at each of its pixels, all weights of the other side's channels in its group.
    met, others = (images, outputs) if transposed else (output, inputs)
    forward = 2 * met.numel() * others * kernel[0] * kernel[1]
    assert forward_flops(layer, images) == forward
    assert backwards(layer, images) == 2 * forward


def test_a_linear_layers_backward_pass_on_mps() -> None:
    inputs, gradient, weight = (torch.empty(shape, device="meta") for shape in ((2, 3, 8), (2, 3, 4), (4, 8)))
    for wanted, products in (((True, True, True), 2), ((False, True, True), 1), ((True, False, False), 1)):
        count = step_flops(lambda: torch.ops.aten.linear_backward(inputs, gradient, weight, wanted))  # noqa: B023
        assert count == products * 2 * 2 * 3 * 4 * 8


# Frozen layers: 4 -> 6 -> 5 -> 3 on two vectors.
FIRST, SECOND, THIRD = 2 * 2 * 4 * 6, 2 * 2 * 6 * 5, 2 * 2 * 5 * 3


@DEVICES
@pytest.mark.parametrize(
    ("trains", "gradients"),
    [
        ((True, True, True), FIRST + 2 * SECOND + 2 * THIRD),
        ((False, False, True), THIRD),
        # Down to the first layer, the frozen ones pass the gradient on and take none for themselves.
        ((True, False, False), FIRST + SECOND + THIRD),
        ((False, True, False), SECOND + THIRD),
    ],
)
def test_frozen_layers(trains: tuple[bool, ...], gradients: int, device: str) -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)).to(device)
    for layer, on in zip(network, trains, strict=True):
        layer.requires_grad_(requires_grad=on)
    inputs = torch.ones(2, 4, device=device)
    assert forward_flops(network, inputs) == FIRST + SECOND + THIRD
    assert backwards(network, inputs) == gradients


@DEVICES
@pytest.mark.parametrize("masked", [False, True])
def test_attention_costs_two_products_and_backwards_four_whatever_kernel_runs(device: str, masked: bool) -> None:
    query = torch.randn(2, 3, 5, 8, device=device, requires_grad=True)
    key, value = (torch.randn(2, 3, 7, 8, device=device, requires_grad=True) for _ in range(2))
    mask = torch.ones(5, 7, device=device, dtype=torch.bool) if masked else None

    def attend() -> Tensor:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    forward = 2 * (2 * 2 * 3 * 5 * 7 * 8)
    with torch.no_grad():
        assert step_flops(attend) == forward
    assert step_flops(attend) == forward
    assert step_flops(lambda: attend().sum().backward()) == 3 * forward


@pytest.mark.parametrize(
    "backward",
    ["_scaled_dot_product_flash_attention_backward", "_scaled_dot_product_efficient_attention_backward",
     "_scaled_dot_product_cudnn_attention_backward", "_scaled_dot_product_fused_attention_overrideable_backward"],
)  # fmt: skip
def test_the_kernels_of_gpus_count_backwards_like_the_cpus(backward: str) -> None:
    """Their formulas, called as the counter calls them: the kernels themselves need a GPU."""
    counter = FlopCounterMode(display=False, custom_mapping=flops._FORMULAS)
    query, key, value = torch.empty(2, 3, 5, 8), torch.empty(2, 3, 7, 8), torch.empty(2, 3, 7, 4)
    formula = counter.flop_registry[getattr(torch.ops.aten, backward)]
    count = formula(torch.empty(2, 3, 5, 4), query, key, value, query, out_val=(query, key, value))
    assert count == 2 * (2 * 2 * 3 * 5 * 7 * (8 + 4))


@DEVICES
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_multi_head_attention_counts_alike_with_and_without_gradients(device: str, mode: Callable[[], Any]) -> None:
    """Without them torch takes a fused path of which its counter sees nothing."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, device=device).eval()
    tokens = torch.randn(2, 5, 8, device=device)
    projections, attention, perceptron = 4 * (2 * 5 * 8 * 8), 2 * (2 * 5 * 5 * 8), 2 * (2 * 5 * 8 * 16)
    with mode():
        assert forward_flops(layer, tokens) == 2 * (projections + attention + perceptron)
        assert step_flops(lambda: layer(tokens)) == 2 * (projections + attention + perceptron)
    assert torch.backends.mha.get_fastpath_enabled()


@DEVICES
def test_below_inference_mode_with_an_input_that_wants_a_gradient(device: str) -> None:
    layer = nn.Linear(8, 4, device=device)
    inputs = torch.ones(3, 8, device=device, requires_grad=True)
    with torch.inference_mode():
        assert forward_flops(layer, inputs) == 3 * 4 * 8 * 2
        assert torch.is_inference_mode_enabled()
        assert forward_flops(layer, torch.ones(3, 8, device=device)) == 3 * 4 * 8 * 2


def test_what_is_computed_again_counts_again() -> None:
    network, inputs = nn.Sequential(nn.Linear(4, 6), nn.ReLU()), torch.ones(2, 4, requires_grad=True)
    assert step_flops(lambda: network(inputs).sum().backward()) == 3 * FIRST
    assert step_flops(lambda: checkpoint(network, inputs, use_reentrant=False).sum().backward()) == 4 * FIRST


SMALL: dict[str, Callable[[], nn.Module]] = {
    "depthwise": lambda: models.mobilenet_v2(num_classes=4, width_mult=0.25),
    "attention": lambda: models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4),
    "windows": lambda: models.SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=4),
}


@pytest.mark.parametrize("name", SMALL)
def test_the_meta_device_counts_what_the_cpu_does(name: str) -> None:
    model, images = SMALL[name](), torch.zeros(2, 3, 32, 32)

    def counts(device: str) -> tuple[int, int]:
        there, inputs = model.to(device), images.to(device)
        return forward_flops(there.eval(), inputs), step_flops(lambda: there.train()(inputs).sum().backward())

    forward, step = real = counts("cpu")
    model.zero_grad()
    assert counts("meta") == real
    # The images take no gradient, so the first layer costs one pass less.
    assert 2.5 * forward < step < 3 * forward


# Every freezing policy, on ResNet-18 at 32 pixels: a step on two images.

RESNET18 = replace(PRESETS["smoke"], throughput_batch=2)


def resnet18(policy: str) -> tuple[int, Any]:
    """The FLOPs of a training step in the first epoch, and the network."""
    case = Case("resnet18", policy, weights="none")
    work = Workload.of(CaseJob(case, RESNET18))
    starts = work.starts()
    return step_flops(work.training_step(starts)), starts[0].network


@pytest.fixture(scope="module")
def costs() -> dict[str, int]:
    """What a step must come to, from the parts of the network."""
    _, network = resnet18("scratch")
    forward = forward_flops(network.eval(), torch.zeros(2, 3, 32, 32))
    head = 2 * 2 * network.head_layer.weight.numel()
    (stem,) = (module for module in network.stages["stem"].modules() if isinstance(module, nn.Conv2d))
    # No gradient is wanted of the images. BatchNorm's alone passes through every convolution, none of which takes one.
    first = 2 * 2 * 16 * 16 * stem.weight.numel()
    return {"linear_probe": forward + head, "full": 3 * forward - first, "bn_only": 2 * forward - first + head}


@pytest.mark.parametrize("policy", ["linear_probe", "full", "bn_only", "last_stage", "lora"])
def test_a_step_costs_what_its_policy_makes_it_compute(policy: str, costs: dict[str, int]) -> None:
    if policy == "lora":
        pytest.importorskip("peft")
    count, _ = resnet18(policy)
    if policy in costs:
        assert count == costs[policy]
    else:
        assert costs["linear_probe"] < count < costs["full"]


# torchvision's published figures.


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("published_flops", ROOT / "bench" / "published_flops.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


published = _script()
PAGE = (ROOT / "docs" / "evidence" / "flops.md").read_text()
ROWS = {cells[1].strip(): [cell.strip() for cell in cells[1:-1]] for cells in (
    row.split("|") for row in PAGE.splitlines() if row.startswith("| ")
)}  # fmt: skip
del ROWS["Model"]


def test_the_page_has_every_model_of_torchvision() -> None:
    assert tuple(ROWS) == published.NAMES
    assert set(ROWS) == set(models.list_models(module=models))
    for name, (count, reason) in published.EXCEPTIONS.items():
        assert f"- {name}: {count:,} parameters fewer than published: {reason}." in PAGE


# One of each family whenever tests run, the others with the slow ones.
FAST = {
    "alexnet", "vgg11", "squeezenet1_1", "resnet18", "regnet_x_400mf", "densenet121", "mobilenet_v3_small",
    "efficientnet_b0", "mnasnet0_5", "shufflenet_v2_x0_5", "convnext_tiny", "swin_t", "vit_b_32", "googlenet",
    "inception_v3",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in published.NAMES]
)
def test_a_models_figures_are_the_published_ones(name: str) -> None:
    line = published.line(name)
    fewer, _ = published.EXCEPTIONS.get(name, (0, ""))
    assert line.parameters == line.published_parameters - fewer
    assert line.ratio == pytest.approx(1, abs=0.02)
    # Published are GMAC to three decimals.
    assert line.flops == pytest.approx(line.published_flops, abs=2 * 0.0005e9, rel=0)
    assert ROWS[name] == list(published.cells(line)), "python bench/published_flops.py > docs/evidence/flops.md"
