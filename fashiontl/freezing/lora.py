"""Low-rank adapters (LoRA) beside frozen layers, put in by the library peft.

After training, adapters can be merged into the weights that they stand beside, so inference is measured without them.
"""

import importlib
import re
from types import ModuleType

import torch
from torch import Tensor, nn

from fashiontl.core.errors import SkippedError
from fashiontl.freezing.apply import has_adapters
from fashiontl.freezing.policies import ADAPTERS, Plan, unavailable_reason
from fashiontl.models.network import Network

# What Hu et al. (ICLR 2022), appendix D, take for RoBERTa large: an update counts alpha / rank = 2 times.
RANK = 8
ALPHA = 16


def prepare(network: Network, plan: Plan, inputs: Tensor) -> None:
    """Put adapters into the stages whose adapters a plan trains; nothing happens where none do, or a second time.

    Beside a frozen weight W of a linear layer or a convolution, `scale * B A` with rank `RANK` trains. B starts at
    zero, so that the network's outputs stay as they were bit for bit, and A at random from torch's generator. Names of
    parameters change: `conv1.weight` becomes `conv1.base_layer.weight`, beside it are `conv1.lora_A.default.weight` and
    `conv1.lora_B.default.weight`.

    Only layers that a forward pass (on `inputs`) calls can have adapters, not those whose weights another module reads,
    as in the attention of torchvision's Swin. In `nn.MultiheadAttention` the joint projection of queries, keys and
    values has one, the output projection none. Nor have grouped convolutions, whose adapters cannot be merged, and
    dilated ones, whose adapters peft would not dilate. The network is changed in place, and left in eval mode.

    Raises:
        SkippedError: peft is not installed, or the network has no layer that an adapter could be put beside.
    """
    chosen = {name for name, stage in zip(network.stages, plan, strict=False) if stage.trains == "adapters"}
    if not chosen or has_adapters(network):
        return
    peft = load_library()
    called = [(name, module) for name, module in _called(network, inputs) if name.split(".")[0] in chosen]
    layers = [name for name, module in called if _adaptable(module)]
    # Queries, keys and values of equal width share one projection.
    projections = [
        f"{name}.in_proj_weight"
        for name, module in called
        if type(module) is nn.MultiheadAttention and module.in_proj_weight is not None
    ]
    if not layers and not projections:
        raise SkippedError(
            "expected a linear layer or a convolution to put adapters beside, got none in the stages "
            f"{', '.join(sorted(chosen))}; use linear_probe"
        )
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        # A pattern is matched whole; names in a list would also be taken for the ends of longer names.
        target_modules="|".join(map(re.escape, layers)) or None,
        target_parameters=projections or None,
    )
    peft.inject_adapter_in_model(config, network.stages)
    network.eval()


def load_library() -> ModuleType:
    """Peft, which takes seconds and much memory to import: load it before anything is timed or measured.

    Raises:
        SkippedError: it is not installed, or cannot be imported.
    """
    # peft imports torchvision, which may need help.
    importlib.import_module("fashiontl.data.torchvision_import")
    try:
        return importlib.import_module(ADAPTERS)
    except ImportError as error:
        broken = f"needs the library {ADAPTERS}, which cannot be imported: {error}; repair it"
        reason = unavailable_reason(ADAPTERS) or broken
        raise SkippedError(f"a policy that trains adapters {reason}") from error


@torch.no_grad()
def _called(network: Network, inputs: Tensor) -> list[tuple[str, nn.Module]]:
    """The modules that a forward pass calls, in the order of their registration."""
    named, called = list(network.stages.named_modules()), set[nn.Module]()
    handles = [module.register_forward_pre_hook(lambda module, _: called.add(module)) for _, module in named]
    network.eval()(inputs)
    for handle in handles:
        handle.remove()
    return [(name, module) for name, module in named if module in called]


def _adaptable(module: nn.Module) -> bool:
    # A subclass may compute something else with its weight, which its adapter would not.
    if type(module) is nn.Conv2d:
        return module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
    return type(module) is nn.Linear
