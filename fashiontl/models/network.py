"""A classifier as a chain of named stages: what freezing policies act on."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from torch import Tensor, nn

from fashiontl.core.errors import FashiontlError

Layer: TypeAlias = nn.Linear | nn.Conv2d

# Weights that an error message names.
_SHOWN = 3


class Network(nn.Module):
    """A classifier whose stages run one after the other.

    In order of execution these are: `stem` (if any), `stage1` ... `stageN`, `neck` (if there is anything between the
    last of these and the head: pooling, flattening, hidden linear layers, as in the object-detection literature),
    `head`. The head holds the classifier's last layer and nothing else that has parameters.

    Raises:
        FashiontlError: the last stage is not such a head.
    """

    def __init__(self, stages: Mapping[str, Sequence[nn.Module]]) -> None:
        super().__init__()
        self.stages = nn.ModuleDict({name: nn.Sequential(*modules) for name, modules in stages.items()})
        if self.stage_names[-1:] != ("head",):
            raise FashiontlError(f"expected a last stage called head, got stages {', '.join(stages) or 'none'}")
        layers = [module for module in self.stages["head"].modules() if list(module.parameters(recurse=False))]
        if len(layers) != 1 or not isinstance(layers[0], Layer):
            kinds = ", ".join(type(layer).__name__ for layer in layers)
            raise FashiontlError(
                f"expected a head with one layer, Linear or Conv2d, got {kinds or 'none'}; put what is before it "
                "into the neck"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, float `[n, 3, size, size]`, to logits `[n, classes]`."""
        return self.run(images, 0, len(self.stages))

    def run(self, inputs: Tensor, start: int, stop: int) -> Tensor:
        """Run stages `start` up to, not including, `stop`, on the output of the one before, which is left as it is."""
        for stage in list(self.stages.values())[start:stop]:
            inputs = stage(inputs)
        return inputs

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the stages in order of execution; the last is `head`."""
        return tuple(self.stages)

    @property
    def cuts(self) -> tuple[int, ...]:
        """Numbers of the stages at which `run` may start and stop, the end included; all of a chain's."""
        return tuple(range(len(self.stages) + 1))

    @property
    def head_layer(self) -> Layer:
        """The classifier's last layer."""
        return next(module for module in self.stages["head"].modules() if isinstance(module, Layer))

    @property
    def classes(self) -> int:
        """Number of the head's outputs."""
        return outputs(self.head_layer)

    def replace_head(self, classes: int) -> None:
        """Put a new last layer, at random from torch's generator and on the old one's device, in the head."""
        head = self.stages["head"]
        name = next(name for name, module in head.named_modules() if module is self.head_layer)
        head.set_submodule(name, resized(self.head_layer, classes))


def outputs(layer: Layer) -> int:
    """Number of features or channels that a layer puts out."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def resized(layer: Layer, count: int) -> Layer:
    """A new layer like another one but for the number of its outputs, on the same device and of the same type."""
    bias = layer.bias is not None
    device, dtype = layer.weight.device, layer.weight.dtype
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, count, bias, device=device, dtype=dtype)
    kernel = (layer.kernel_size[0], layer.kernel_size[1])
    return nn.Conv2d(layer.in_channels, count, kernel, bias=bias, device=device, dtype=dtype)


def state_errors(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Say which weights of a state dict are missing in another, unexpected, or of another shape."""

    def shape(tensor: Tensor) -> str:
        return "x".join(map(str, tensor.shape)) or "a number"

    errors = {
        # Old weights lack this counter; torch fills it in.
        "missing": [key for key in expected if key not in state and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [
            f"{key} (expected {shape(expected[key])}, got {shape(value)})"
            for key, value in state.items()
            if key in expected and value.shape != expected[key].shape
        ],
    }
    return "; ".join(
        f"{len(keys)} {kind}: {', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''}"
        for kind, keys in errors.items()
        if keys
    )
