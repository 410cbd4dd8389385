"""Known traps of transfer learning, each as a pair: the guard holds a number, and without it the same number is off."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fashiontl.core.case import PRESETS, Case
from fashiontl.data.preprocessing import Preprocessing
from fashiontl.freezing import POLICIES, Plan
from fashiontl.freezing import apply as freezing
from fashiontl.freezing.apply import apply
from fashiontl.models.build import build
from fashiontl.models.network import Network
from fashiontl.runner import phases
from fashiontl.runner.messages import CaseJob
from fashiontl.timing import torch_flags
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


def difference(policy: str) -> float:
    """Of what frozen stages put out in training and in evaluation, when their statistics are not the batch's."""
    network = tiny()
    network.stages["stem"][1].running_mean.fill_(0.5)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    apply(network, plan_of(network, policy))
    images = PREPROCESSING(NOISE)
    in_training = network.run(images, 0, 2)
    in_evaluation = network.eval().run(images, 0, 2)
    return (in_training - in_evaluation).abs().max().item()


@pytest.mark.parametrize("policy", ["linear_probe", "full_frozen_bn", "bias_only"])
def test_frozen_batchnorm_computes_the_same_in_training_and_evaluation(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert difference(policy) == 0
    without_modes(monkeypatch)
    assert difference(policy) > 0.1


def jitter() -> float:
    """How much a frozen prefix changes from one step to the next on the same images."""
    network = tiny()
    apply(network, plan_of(network, "linear_probe"))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images = PREPROCESSING(NOISE)
    return (network.run(images, 0, 3) - network.run(images, 0, 3)).abs().max().item()


def test_dropout_is_off_in_frozen_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert jitter() == 0
    without_modes(monkeypatch)
    assert jitter() > 0.01


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


def test_the_flops_of_a_record_are_the_forward_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_flags, "fastest", lambda precision: None)
    case = Case("mobilenet_v2", "scratch")
    settings = replace(PRESETS["smoke"], seconds=0.01)
    flops = phases.inference(CaseJob(case, settings), lambda text: None).values("flops")[0]
    network = build("mobilenet_v2", CLASSES, image_size=settings.image_size).eval()
    images = torch.zeros(1, 3, settings.image_size, settings.image_size)
    assert flops == by_hand(network, images)


def test_nor_is_a_stage_reused_whose_batchnorm_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """In training mode an image's output depends on the batch it is in, which the store sees for itself."""
    monkeypatch.setattr(fit_module, "frozen_prefix", lambda plan: 3)
    result = trained(tiny(), "bn_only")
    assert (result.reused_stages, result.proof.holds) == (0, True)
