"""From uint8 images to what a network takes, on the device itself."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

FASHION_MEAN, FASHION_STD = 0.2860, 0.3530  # of the 60,000 training images' pixels, scaled to 0..1
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """What is done to images before a network sees them; it belongs to the checkpoint.

    Each of three channels is normalised by its own mean and std, on the scale 0..1. Grey is repeated to three channels
    first, which is what a checkpoint saw for a grey picture; summing the first convolution over its inputs is not the
    same, since the channels' means differ. Images of 28 pixels are padded with black to 32, which loses nothing; other
    sizes are resized with antialiasing, by `bilinear` or `bicubic` interpolation.
    """

    size: int
    mean: tuple[float, float, float] = (FASHION_MEAN,) * 3
    std: tuple[float, float, float] = (FASHION_STD,) * 3
    interpolation: str = "bilinear"

    def __call__(self, images: Tensor) -> Tensor:
        """Turn uint8, grey `[n, side, side]` or colour `[n, 3, side, side]`, into float32 `[n, 3, size, size]`."""
        size = self.size
        scaled = (images if images.ndim == 4 else images.unsqueeze(1)).float().div_(255)
        if size == 32 and images.shape[-1] == 28:
            scaled = functional.pad(scaled, (2, 2, 2, 2))
        elif size != images.shape[-1]:
            scaled = functional.interpolate(
                scaled, (size, size), mode=self.interpolation, align_corners=False, antialias=True
            )
            # Bicubic overshoots at edges.
            scaled = scaled.clamp_(0, 1)
        mean = scaled.new_tensor(self.mean).view(1, 3, 1, 1)
        std = scaled.new_tensor(self.std).view(1, 3, 1, 1)
        return (scaled.expand(-1, 3, -1, -1) - mean) / std


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip half of the images left to right and shift each by up to 2 pixels, filling with black.

    Args:
        images: uint8, grey `[n, height, width]` or colour `[n, 3, height, width]`, whose channels move together.
        generator: on the CPU, so that every device draws the same.
    """
    count, height, width = len(images), *images.shape[-2:]
    flip = torch.rand(count, generator=generator) < 0.5
    shift = torch.randint(0, 5, (2, count), generator=generator)
    rows = shift[0].view(-1, 1, 1) + torch.arange(height).view(1, -1, 1)
    columns = torch.arange(width).expand(count, 1, width)
    columns = torch.where(flip.view(-1, 1, 1), width - 1 - columns, columns) + shift[1].view(-1, 1, 1)
    padded = functional.pad(images, (2, 2, 2, 2))
    device = images.device
    number = torch.arange(count, device=device).view(-1, 1, 1)
    # Indices on both sides of the channels' slice put the channels last.
    moved = padded[number, ..., rows.to(device), columns.to(device)]
    return moved if images.ndim == 3 else moved.permute(0, 3, 1, 2).contiguous()
