"""Architectures of our own."""

import torch
from torch import Tensor, nn

from fashiontl.data.torchvision_import import models
from fashiontl.models.network import Network


class TutorialVGG(nn.Module):
    """The plain VGG that Fashion-MNIST tutorials build: no normalisation, no pooling to a fixed size before its head.

    Its features are VGG-11's: blocks of 1, 1, 2, 2, 2 convolutions with 64, 128, 256, 512, 512 channels. Weights start
    as torch's layers do by default, as they do in a tutorial. The first linear layer is made for the size of the
    images, at least 32 pixels.
    """

    def __init__(self, classes: int, image_size: int) -> None:
        super().__init__()
        # Each of the five blocks halves the side.
        side = image_size // 32
        self.features = models.vgg.make_layers(models.vgg.cfgs["A"])
        self.avgpool = nn.Identity()
        self.classifier = nn.Sequential(
            nn.Linear(512 * side * side, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5),
            nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5),
            nn.Linear(4096, classes),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, float `[n, 3, image_size, image_size]`, to logits `[n, classes]`."""
        return self.classifier(torch.flatten(self.features(images), 1))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """Two convolutions around which their input is added; `[n, channels, height, width]` stays so."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*convolved(channels, channels), *convolved(channels, channels))

    def forward(self, features: Tensor) -> Tensor:
        """Add the branch."""
        return features + self.branch(features)  # type: ignore[no-any-return]


def convolved(inputs: int, outputs: int) -> list[nn.Module]:
    """A 3x3 convolution, BatchNorm and ReLU."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def resnet9(classes: int, image_size: int, width: int = 24) -> Network:
    """The nine-layer residual network of Page's "How to train your ResNet" (2018), made for images of 32 pixels.

    The first convolution has 64 channels (`width`) in the original; 24 let a CPU train it on all images.
    """
    del image_size  # any from 8 pixels
    return Network(
        {
            "stem": convolved(3, width),
            "stage1": [*convolved(width, 2 * width), nn.MaxPool2d(2), Residual(2 * width)],
            "stage2": [*convolved(2 * width, 4 * width), nn.MaxPool2d(2)],
            "stage3": [*convolved(4 * width, 8 * width), nn.MaxPool2d(2), Residual(8 * width)],
            "neck": [nn.AdaptiveMaxPool2d(1), nn.Flatten(1)],
            "head": [nn.Linear(8 * width, classes)],
        }
    )
