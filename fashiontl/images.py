"""From uint8 images to what a network takes, on the device itself."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

FASHION_MEAN, FASHION_DEVIATION = 0.2860, 0.3530  # of the 60,000 training images' pixels, scaled to 0..1
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """What is done to grey images before a network sees them; it belongs to the checkpoint.

    Grey is repeated to three channels and normalised by each channel's own mean and deviation, which is what a
    checkpoint saw for a grey picture; summing the first convolution over its inputs is not the same, since the
    channels' means differ. Images of 28 pixels are padded with black to 32, which loses nothing; other sizes are
    resized with antialiasing.

    Attributes:
        size: side of the result in pixels.
        mean: of each channel, on the scale 0..1.
        deviation: of each channel, on the scale 0..1.
        interpolation: `bilinear` or `bicubic`, for sizes that are resized.
    """

    size: int
    mean: tuple[float, float, float] = (FASHION_MEAN,) * 3
    deviation: tuple[float, float, float] = (FASHION_DEVIATION,) * 3
    interpolation: str = "bilinear"

    def __call__(self, images: Tensor) -> Tensor:
        """Turn uint8 `[n, 28, 28]` into float32 `[n, 3, size, size]` on the same device."""
        size = self.size
        grey = images.unsqueeze(1).float().div_(255)
        if size == 32 and images.shape[-1] == 28:
            grey = functional.pad(grey, (2, 2, 2, 2))
        elif size != images.shape[-1]:
            grey = functional.interpolate(
                grey, (size, size), mode=self.interpolation, align_corners=False, antialias=True
            )
            # Bicubic overshoots at edges.
            grey = grey.clamp_(0, 1)
        mean = grey.new_tensor(self.mean).view(1, 3, 1, 1)
        deviation = grey.new_tensor(self.deviation).view(1, 3, 1, 1)
        return (grey.expand(-1, 3, -1, -1) - mean) / deviation


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip half of the images left to right and shift each by up to 2 pixels, filling with black.

    Args:
        images: uint8 `[n, height, width]`.
        generator: on the CPU, so that every device draws the same.

    Returns:
        uint8 `[n, height, width]`, new memory.
    """
    count, height, width = images.shape
    flip = torch.rand(count, generator=generator) < 0.5
    shift = torch.randint(0, 5, (2, count), generator=generator)
    rows = shift[0].view(-1, 1, 1) + torch.arange(height).view(1, -1, 1)
    columns = torch.arange(width).expand(count, 1, width)
    columns = torch.where(flip.view(-1, 1, 1), width - 1 - columns, columns) + shift[1].view(-1, 1, 1)
    padded = functional.pad(images, (2, 2, 2, 2))
    device = images.device
    return padded[torch.arange(count, device=device).view(-1, 1, 1), rows.to(device), columns.to(device)]
