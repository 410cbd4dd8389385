"""Known traps of transfer learning, each as a pair: the guard holds a number, and without it the same number is off."""

import gzip
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from phase_runs import run
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from fashiontl.core.case import PRESETS, Case
from fashiontl.core.errors import FashiontlError
from fashiontl.data.cut import write_idx
from fashiontl.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from fashiontl.data.sources import EMBEDDED_FOLDER, EMBEDDED_MD5, idx_array, load_folder
from fashiontl.freezing import POLICIES, Plan
from fashiontl.freezing import apply as freezing
from fashiontl.freezing.apply import apply, frozen_prefix, parameter_groups
from fashiontl.freezing.lora import prepare
from fashiontl.models.build import build
from fashiontl.models.network import Network
from fashiontl.models.weights.files import load_file, save
from fashiontl.runner import phases
from fashiontl.runner.messages import CaseJob
from fashiontl.training import fit as fit_module
from fashiontl.training.fit import Examples, Fit, fit
from fashiontl.training.prefix import FeatureStore
from fashiontl.training.recipes import Recipe

CLASSES = 4
PREPROCESSING = Preprocessing(28)
NOISE = torch.randint(0, 256, (24, 28, 28), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
EXAMPLES = Examples(NOISE, torch.arange(24) % CLASSES)

pytestmark = pytest.mark.usefixtures("one_thread")


def block(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=4, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.Tanh(), nn.Dropout(0.5)]


def tiny() -> Network:
    torch.manual_seed(0)
    stages = {"stem": block(3, 4), "stage1": block(4, 8), "neck": [nn.AdaptiveAvgPool2d(1), nn.Flatten()]}
    return Network({**stages, "head": [nn.Linear(8, CLASSES)]})


def plan_of(network: Network, policy: str, epoch: int = 0, epochs: int = 4) -> Plan:
    return POLICIES[policy].plan(network.stage_names, epoch, epochs)


def trained(network: Network, policy: str, epochs: int = 2) -> Fit:
    return fit(network, POLICIES[policy], EXAMPLES, Recipe(epochs, 8), PREPROCESSING, seed=0, store=FeatureStore())


def without_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the guard out: every module runs in training mode, as after `network.train()`."""
    monkeypatch.setattr(freezing, "in_training_mode", lambda stage, module: True)
    # Reusing the outputs of a frozen prefix would hide what its modules do at each step.
    monkeypatch.setattr(fit_module, "frozen_prefix", lambda plan: 0)


# BatchNorm: weights frozen by `requires_grad = False` alone.


def drift(policy: str) -> float:
    """How far training moves the running means of a frozen stem."""
    network = tiny()
    before = network.stages["stem"][1].running_mean.clone()
    trained(network, policy)
    return (network.stages["stem"][1].running_mean - before).abs().max().item()


@pytest.mark.parametrize("policy", ["linear_probe", "last_stage", "full_frozen_bn", "bias_only"])
def test_statistics_of_frozen_batchnorm_do_not_drift(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert drift(policy) == 0
    without_modes(monkeypatch)
    assert drift(policy) > 0.1


def test_the_tutorials_loop_lets_them_drift_though_no_weight_moves() -> None:
    network = tiny()
    before = {name: value.clone() for name, value in network.stages["stem"].state_dict().items()}
    for name, parameter in network.named_parameters():
        parameter.requires_grad = name.startswith("stages.head")
    optimizer = torch.optim.SGD(network.stages["head"].parameters(), 0.1)
    for _ in range(3):
        functional.cross_entropy(network.train()(PREPROCESSING(NOISE)), EXAMPLES.labels).backward()
        optimizer.step()
    moved = {name: (value - before[name]).abs().max() for name, value in network.stages["stem"].state_dict().items()}
    assert moved["0.weight"] == 0
    assert moved["1.running_mean"] > 0.05


def difference(policy: str) -> float:
    """Of what frozen stages put out in training and in evaluation, when their statistics are not the batch's."""
    network = tiny()
    network.stages["stem"][1].running_mean.fill_(0.5)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    apply(network, plan_of(network, policy))
    images = PREPROCESSING(NOISE)
    return (network.run(images, 0, 2) - network.eval().run(images, 0, 2)).abs().max().item()


@pytest.mark.parametrize("policy", ["linear_probe", "full_frozen_bn", "bias_only"])
def test_frozen_batchnorm_computes_the_same_in_training_and_evaluation(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert difference(policy) == 0
    without_modes(monkeypatch)
    assert difference(policy) > 0.1


# Dropout.


def test_dropout_is_off_in_frozen_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    def jitter() -> float:
        """How much a frozen prefix changes from one step to the next on the same images."""
        network = tiny()
        apply(network, plan_of(network, "linear_probe"))
        for stage in ("stem", "stage1"):
            network.stages[stage][1].eval()
        images = PREPROCESSING(NOISE)
        return (network.run(images, 0, 3) - network.run(images, 0, 3)).abs().max().item()

    assert jitter() == 0
    without_modes(monkeypatch)
    assert jitter() > 0.01


def test_training_proves_it_and_without_the_guard_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained(tiny(), "linear_probe").proof.holds
    without_modes(monkeypatch)
    violations = trained(tiny(), "linear_probe").proof.violations
    assert "frozen buffers changed: 3 in stem, first stem.1.running_mean" in violations
    assert "modules should be in eval mode and are not: 5 in stage1, first stage1" in violations


# What an optimiser still does to a parameter that was frozen while it holds it.


def flags_only(network: Network, plan: Plan) -> None:
    for planned, stage in zip(plan, network.stages.values(), strict=True):
        stage.requires_grad_(planned.trains != "none")


def moved_after_freezing(freeze: Callable[[Network, Plan], None], *, zero: bool) -> float:
    """How far the stem moves after it was frozen, in an optimiser with momentum and decay that has trained it."""
    network = tiny()
    full = plan_of(network, "scratch")
    apply(network, full)
    optimizer = torch.optim.SGD(parameter_groups(network, full, 0.1, 0.1), momentum=0.9)

    def step() -> None:
        functional.cross_entropy(network(PREPROCESSING(NOISE)), EXAMPLES.labels).backward()
        optimizer.step()

    step()
    freeze(network, plan_of(network, "linear_probe"))
    before = network.stages["stem"][0].weight.detach().clone()
    for _ in range(3):
        if zero:
            optimizer.zero_grad(set_to_none=False)
        step()
    return (network.stages["stem"][0].weight - before).abs().max().item()


@pytest.mark.parametrize("zero", [False, True], ids=["stale", "zeroed"])
def test_a_gradient_of_none_keeps_an_optimiser_from_moving_what_is_frozen(zero: bool) -> None:
    assert moved_after_freezing(apply, zero=zero) == 0
    assert moved_after_freezing(flags_only, zero=zero) > 0.01


# Thawing.


def states_after_thawing(previous_counts: bool) -> dict[str, float]:
    """Steps that the optimiser has counted for each parameter when one stage more begins to train."""
    network = tiny()
    recipe = Recipe(4, 8)
    plan = plan_of(network, "gradual_unfreeze", 0)
    apply(network, plan)
    first = fit_module.new_optimizer(network, plan, recipe, None)
    for _ in range(3):
        functional.cross_entropy(network(PREPROCESSING(NOISE)), EXAMPLES.labels).backward()
        first.step()
    plan = plan_of(network, "gradual_unfreeze", 1)
    apply(network, plan)
    second = fit_module.new_optimizer(network, plan, recipe, first if previous_counts else None)
    held = [id(parameter) for group in second.param_groups for parameter in group["params"]]
    assert len(held) == len(set(held)) == len([p for p in network.parameters() if p.requires_grad])
    names = {parameter: name for name, parameter in network.stages.named_parameters()}
    return {
        names[parameter]: float(second.state[parameter].get("step", 0)) if parameter in second.state else 0.0
        for group in second.param_groups
        for parameter in group["params"]
    }


def test_what_thaws_starts_with_fresh_state_and_what_goes_on_keeps_its_own() -> None:
    fresh = dict.fromkeys(("stage1.0.weight", "stage1.1.weight", "stage1.1.bias"), 0.0)
    assert states_after_thawing(True) == {**fresh, "head.0.weight": 3.0, "head.0.bias": 3.0}
    assert states_after_thawing(False) == {**fresh, "head.0.weight": 0.0, "head.0.bias": 0.0}


# Data.


def tampered(folder: Path) -> Path:
    """A copy as the early ones of Fashion-MNIST were, of which ten test images were training images too."""
    shutil.copytree(EMBEDDED_FOLDER, folder)
    train_images, test_images = (folder / f"{part}-images-idx3-ubyte.gz" for part in ("train", "t10k"))
    images = idx_array(gzip.decompress(test_images.read_bytes()))
    images[:10] = idx_array(gzip.decompress(train_images.read_bytes()))[:10]
    write_idx(test_images, images)
    return folder


def overlaps(folder: Path, checksums: dict[str, str]) -> int:
    images = load_folder("a copy", folder, checksums, "get another one")
    known = {image.numpy().tobytes() for image in images.train_images}
    return sum(image.numpy().tobytes() in known for image in images.test_images)


def test_images_are_what_their_checksum_says(tmp_path: Path) -> None:
    assert overlaps(EMBEDDED_FOLDER, EMBEDDED_MD5) == 0
    folder = tampered(tmp_path / "copy")
    changed = "t10k-images-idx3-ubyte"
    with pytest.raises(FashiontlError, match=f"{changed}.gz: expected content with MD5 {EMBEDDED_MD5[changed]}, got"):
        overlaps(folder, EMBEDDED_MD5)
    # A reader that trusts what it finds takes it without a word, and tests on images that it trained on.
    content = gzip.decompress((folder / f"{changed}.gz").read_bytes())
    trusting = {**EMBEDDED_MD5, changed: hashlib.md5(content, usedforsecurity=False).hexdigest()}
    assert overlaps(folder, trusting) == 10


# Preprocessing.


def test_each_channel_is_normalised_by_the_checkpoints_own_numbers() -> None:
    own = Preprocessing(28, IMAGENET_MEAN, IMAGENET_STD)(NOISE)
    scaled = (NOISE[0, 3, 4] / 255).item()
    for channel, mean, deviation in zip(range(3), IMAGENET_MEAN, IMAGENET_STD, strict=True):
        assert own[0, channel, 3, 4].item() == pytest.approx((scaled - mean) / deviation, abs=1e-5)
    # Fashion-MNIST's numbers in place of the checkpoint's shift what the first layer sees by more than a half.
    assert (own - Preprocessing(28)(NOISE)).abs().mean() > 0.5


def test_interpolation_is_the_checkpoints_own(tmp_path: Path) -> None:
    network = build("resnet9", CLASSES, image_size=48)
    bicubic = Preprocessing(48, IMAGENET_MEAN, IMAGENET_STD, "bicubic")
    save(tmp_path / "resnet9.pt", network, "resnet9", bicubic)
    loaded = load_file("resnet9", CLASSES, 48, tmp_path / "resnet9.pt", "file").preprocessing
    assert torch.equal(loaded(NOISE), bicubic(NOISE))
    without = torch.load(tmp_path / "resnet9.pt", weights_only=True)
    del without["interpolation"]
    torch.save(without, tmp_path / "resnet9.pt")
    guessed = load_file("resnet9", CLASSES, 48, tmp_path / "resnet9.pt", "file").preprocessing
    assert (guessed(NOISE) - bicubic(NOISE)).abs().mean() > 0.05


# Counting.


def by_hand(network: nn.Module, images: Tensor) -> int:
    """Two for each multiply-add of each convolution and linear layer, from the shapes that it meets."""
    total = 0

    def count(module: nn.Conv2d | nn.Linear, _: tuple[Tensor], output: Tensor) -> None:
        nonlocal total
        # A weight's size over its outputs is what each number put out is summed over: inputs over groups, times kernel.
        total += 2 * output.numel() * module.weight[0].numel()

    handles = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return total


def test_flops_are_of_the_forward_pass_because_torch_counts_grouped_backward_wrong() -> None:
    convolution = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    images = torch.randn(1, 8, 16, 16, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        output = convolution(images)
    with FlopCounterMode(display=False) as backward:
        output.sum().backward()
    assert forward.get_total_flops() == by_hand(convolution, images) == 2 * 16 * 16 * 8 * 9 == 36_864
    # The gradients of input and weight cost as much each as the forward pass; of the second, torch 2.13 counts one
    # for all pairs of channels, and not of channels in one group: eight times as much here.
    right, wrong = 2 * 36_864, 36_864 + 8 * 36_864
    assert backward.get_total_flops() in {right, wrong}
    if torch.__version__.startswith("2.13."):
        assert backward.get_total_flops() == wrong


def test_the_flops_of_a_record_are_the_forward_passes() -> None:
    case = Case("mobilenet_v2", "scratch")
    network = build("mobilenet_v2", CLASSES, image_size=32).eval()
    found = run(phases.count, CaseJob(case, PRESETS["smoke"]))["flops"]
    assert found == by_hand(network, torch.zeros(1, 3, 32, 32))


# What is cheap and what only trains few parameters.


def reaches_the_stem(policy: str) -> bool:
    """Whether backpropagation has to come down to the first stage's parameters."""
    network = tiny()
    prepare(network, plan_of(network, policy), PREPROCESSING(NOISE[:1]))
    apply(network, plan_of(network, policy))
    stem = {id(parameter) for parameter in network.stages["stem"].parameters()}
    nodes, seen = [network(PREPROCESSING(NOISE)).sum().grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if id(getattr(node, "variable", None)) in stem:
            return True
        nodes += [after for after, _ in node.next_functions]
    return False


@pytest.mark.parametrize(
    ("policy", "prefix"),
    [("bn_only", 0), ("bias_only", 0), ("lora", 0), ("full", 0), ("linear_probe", 3), ("last_stage", 1)],
)
def test_training_few_parameters_of_each_stage_still_takes_gradients_to_the_first(policy: str, prefix: int) -> None:
    assert reaches_the_stem(policy) == (prefix == 0)
    assert frozen_prefix(plan_of(tiny(), policy)) == prefix


def test_taking_their_stages_for_frozen_would_train_nothing_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained(tiny(), "bias_only").proof.holds
    monkeypatch.setattr(fit_module, "frozen_prefix", lambda plan: 3)
    result = trained(tiny(), "bias_only")
    assert result.reused_stages == 3
    expected = "parameters should train and none moved: 1 in {0}, first {0}.1.bias"
    assert {expected.format(stage) for stage in ("stem", "stage1")} <= {*result.proof.violations}


def test_nor_is_a_stage_reused_whose_batchnorm_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """In training mode an image's output depends on the batch it is in, which the store sees for itself."""
    monkeypatch.setattr(fit_module, "frozen_prefix", lambda plan: 3)
    result = trained(tiny(), "bn_only")
    assert (result.reused_stages, result.proof.holds) == (0, True)
