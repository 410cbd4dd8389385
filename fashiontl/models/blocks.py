"""Modules for what torchvision's models do in `forward` itself."""

from typing import Any

import torch
from torch import Tensor, nn


class TokenStem(nn.Module):
    """The stem of torchvision's `VisionTransformer`, of its modules: `[n, 3, s, s]` to `[n, tokens, width]`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.patches = model.conv_proj
        self.class_token = model.class_token
        self.positions = model.encoder.pos_embedding
        self.dropout = model.encoder.dropout

    def forward(self, images: Tensor) -> Tensor:
        """Patches behind the class token, with positions added."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches], dim=1)
        return self.dropout(tokens + self.positions)  # type: ignore[no-any-return]


class FirstToken(nn.Module):
    """The class token, `[n, tokens, width]` to `[n, width]`."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Take the first token."""
        return tokens[:, 0]


class SpatialMean(nn.Module):
    """Mean over height and width, `[n, channels, height, width]` to `[n, channels]`."""

    def forward(self, features: Tensor) -> Tensor:
        """Average."""
        return features.mean([2, 3])


class InceptionInput(nn.Module):
    """From ImageNet's mean and std to a mean and std of 0.5, with which Inception's weights were made."""

    def forward(self, images: Tensor) -> Tensor:
        """Rescale each channel; the numbers and their order are torchvision's `_transform_input`."""
        red = images[:, :1] * (0.229 / 0.5) + (0.485 - 0.5) / 0.5
        green = images[:, 1:2] * (0.224 / 0.5) + (0.456 - 0.5) / 0.5
        blue = images[:, 2:] * (0.225 / 0.5) + (0.406 - 0.5) / 0.5
        return torch.cat((red, green, blue), 1)


def shrink_stem(model: nn.Module, convolution: str, pool: str) -> None:
    """Replace a model's first convolution and the pooling after it, both by name, with a stem for small images.

    A 3x3 convolution of stride 1 and no pooling, as in the CIFAR networks of He et al., CVPR 2016, section 4.2, at the
    model's own width.
    """
    published = model.get_submodule(convolution)
    assert isinstance(published, nn.Conv2d)
    smaller = nn.Conv2d(published.in_channels, published.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(smaller.weight, mode="fan_out", nonlinearity="relu")
    model.set_submodule(convolution, smaller)
    model.set_submodule(pool, nn.Identity())
