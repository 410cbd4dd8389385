"""torchvision's own models, filled fast with weights that no layer leaves without an effect."""

from typing import Any

import torch
from torch import Tensor, nn

from fashiontl.data.torchvision_import import models
from fashiontl.models.build import _ARGUMENTS
from fashiontl.models.registry import ARCHITECTURES, fitting_size

# The smallest of each family, and one more where torchvision builds a family in two ways.
SMALLEST = (
    "alexnet", "vgg11", "squeezenet1_0", "googlenet", "inception_v3", "resnet18", "densenet121", "mobilenet_v2",
    "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5", "efficientnet_b0", "regnet_x_400mf", "convnext_tiny",
    "swin_t", "swin_v2_t", "vit_b_32",
)  # fmt: skip
TORCHVISION = tuple(name for name, entry in ARCHITECTURES.items() if entry.builder == name and not entry.small_stem)


def reference(name: str, classes: int, image_size: int, device: str = "meta") -> nn.Module:
    """torchvision's model of that name, made by torchvision alone."""
    family = ARCHITECTURES[name].family
    arguments: dict[str, Any] = _ARGUMENTS[family](image_size) if family in _ARGUMENTS else {}
    with torch.device("cpu") if family == "regnet" else torch.device(device):
        return models.get_model(name, weights=None, num_classes=classes, **arguments)


def filled(model: nn.Module) -> nn.Module:
    """The model in eval mode on the CPU; activations keep their scale, and no parameter is zero as some start."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1_000_003, generator=generator)
    state = model.state_dict()
    for key, value in state.items():
        state[key] = _filled(key, value, noise)
    model.load_state_dict(state, assign=True)
    return model.eval()


def _filled(key: str, like: Tensor, noise: Tensor) -> Tensor:
    if not like.is_floating_point():
        return torch.zeros(like.shape, dtype=like.dtype)
    noise = noise[: like.numel()]
    values = noise.repeat(-(-like.numel() // len(noise)))[: like.numel()].reshape(like.shape)
    if key.endswith("running_var"):
        return 1 + 0.1 * values.abs()
    if like.dim() > 1 and key.endswith("weight"):
        return values * (2 * len(like) / like.numel()) ** 0.5
    return 0.1 * values + (1 if key.endswith("weight") else 0)


def head_of(model: nn.Module) -> nn.Module:
    """The last layer that maps to classes: torchvision registers it last."""
    return [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]


def size_for(name: str) -> int:
    """The benchmark's 32 pixels, or the next size that the architecture takes."""
    return fitting_size(name, 32)


def images(size: int, device: str = "cpu") -> Tensor:
    generator = torch.Generator().manual_seed(1) if device == "cpu" else None
    return torch.randn(2, 3, size, size, generator=generator, device=device)
