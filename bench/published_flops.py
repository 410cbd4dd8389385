"""Print docs/evidence/flops.md: this project's parameter and FLOP counts beside those that torchvision publishes.

Nothing is downloaded and nothing computed: the networks are on the meta device.

    python bench/published_flops.py > docs/evidence/flops.md
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fashiontl.data.torchvision_import import models, torchvision
from fashiontl.models.build import build
from fashiontl.models.registry import ARCHITECTURES
from fashiontl.reports.leaderboard.markdown import TextColumn, table
from fashiontl.timing.flops import forward_flops

NAMES = tuple(name for name, entry in ARCHITECTURES.items() if entry.builder == name and not entry.small_stem)
CLASSES = 1000

# Published parameters that the network here deliberately does without, and why.
EXCEPTIONS = {
    "inception_v3": (
        3_326_696,
        "the published figure includes the auxiliary head, which runs only in training mode and is off here",
    )
}

_PAGE = """\
# Parameters and FLOPs against torchvision's published figures

Each network as fashiontl builds it, with {classes} classes, beside the figures of torchvision {version}'s default
weights: `num_params`, and `_ops`, which counts multiply-adds (GMAC) of one image at the size that those weights take. A
multiply-add is two FLOP, so the ratio is of GFLOP here to twice the published GMAC. Those are published to three
decimals; of all {count} networks none differs by more than that rounding.

Made by `python bench/published_flops.py`; `tests/test_flops.py` holds every line of it.

{table}
{exceptions}"""


@dataclass(frozen=True)
class Line:
    """One architecture.

    Attributes:
        name: torchvision's and ours.
        image_size: side in pixels of the images for which the figures are published.
        parameters: ours.
        published_parameters: torchvision's.
        flops: ours, FLOP of one image.
        published_flops: twice the published multiply-adds.
    """

    name: str
    image_size: int
    parameters: int
    published_parameters: int
    flops: int
    published_flops: float

    @property
    def ratio(self) -> float:
        """FLOPs here over those published."""
        return self.flops / self.published_flops


class _NoNumbers(TorchDispatchMode):
    """Leave new parameters unset: RegNet cannot be built on the meta device, and its largest has 645 million."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        aten = torch.ops.aten
        if func.overloadpacket in {aten.uniform_, aten.normal_, aten.fill_, aten.zero_}:
            return args[0]
        return func(*args, **(kwargs or {}))


def ours(name: str, image_size: int) -> nn.Module:
    """This project's network on the meta device, as it answers."""
    with torch.device("meta"), _NoNumbers():
        network = build(name, CLASSES, image_size=image_size)
    return network.to("meta").eval()


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def line(name: str) -> Line:
    weights = models.get_model_weights(name).DEFAULT
    (size,) = weights.transforms().crop_size
    network = ours(name, size)
    return Line(
        name,
        size,
        parameters(network),
        weights.meta["num_params"],
        forward_flops(network, torch.empty(1, 3, size, size, device="meta")),
        2e9 * weights.meta["_ops"],
    )


def cells(one: Line) -> tuple[str, ...]:
    return (
        one.name,
        str(one.image_size),
        f"{one.parameters:,}",
        f"{one.published_parameters:,}",
        f"{one.flops / 1e9:.3f}",
        f"{one.published_flops / 1e9:.3f}",
        f"{one.ratio:.4f}",
        "see below" if one.name in EXCEPTIONS else "",
    )


def page(lines: list[Line]) -> str:
    headers = (
        "Model", "Image size (px)", "Parameters", "published", "GFLOP", "2 x published GMAC", "Ratio", "Exception",
    )  # fmt: skip
    texts = zip(*(cells(one) for one in lines), strict=True)
    left = {"Model", "Exception"}
    columns = [
        TextColumn(header, text, "left" if header in left else "right")
        for header, text in zip(headers, texts, strict=True)
    ]
    exceptions = "".join(
        f"\n- {name}: {count:,} parameters fewer than published: {why}.\n" for name, (count, why) in EXCEPTIONS.items()
    )
    return _PAGE.format(
        classes=f"{CLASSES:,}",
        version=torchvision.__version__.partition("+")[0],
        count=len(lines),
        table=table(columns),
        exceptions=exceptions,
    )


if __name__ == "__main__":
    print(page([line(name) for name in NAMES]), end="")
