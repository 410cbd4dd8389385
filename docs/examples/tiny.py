"""An architecture of one's own: a network in three stages."""

from typing import Any

from fashiontl.matrix.extensions import register
from fashiontl.models.registry import Architecture


def build(classes: int, image_size: int) -> Any:
    """A network for images of any size; torch is imported here, so that listing and collecting stay quick."""
    del image_size
    from torch import nn

    from fashiontl.models.network import Network

    return Network(
        {
            "stem": [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()],
            "stage1": [nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()],
            "neck": [nn.AdaptiveAvgPool2d(1), nn.Flatten()],
            "head": [nn.Linear(16, classes)],
        }
    )


register(Architecture("tiny", builder="tiny:build"))
