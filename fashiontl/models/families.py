"""Where each family of models is cut into stages.

Each entry lists a model's own modules in the order in which its `forward` runs them; what `forward` does without a
module (flattening, mostly) gets one here. Stages begin where the resolution drops, or where the papers count stages.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import nn

from fashiontl.core.errors import FashiontlError, unknown_name
from fashiontl.models.blocks import FirstToken, InceptionInput, SpatialMean, TokenStem
from fashiontl.models.network import Network

Modules: TypeAlias = Sequence[nn.Module]


def split(model: nn.Module, family: str) -> Network:
    """Cut a model, of torchvision's layout and without auxiliary heads, into stages made of its own modules.

    Raises:
        FashiontlError: the family is not in `FAMILIES`.
    """
    if family not in FAMILIES:
        raise FashiontlError(unknown_name("family", family, FAMILIES))
    return FAMILIES[family](model)


def _chain(stem: Modules, features: Sequence[Modules], neck: Modules, head: Modules) -> Network:
    numbered = {f"stage{number}": modules for number, modules in enumerate(features, start=1)}
    stages = {"stem": stem, **numbered, "neck": neck, "head": head}
    return Network({name: modules for name, modules in stages.items() if modules})


# What `forward` does without a module of the model's own.
_MADE: dict[str, Callable[[], nn.Module]] = {
    "+flatten": lambda: nn.Flatten(1),
    "+pool": lambda: nn.AdaptiveAvgPool2d(1),
    "+relu": lambda: nn.ReLU(inplace=True),
    "+mean": SpatialMean,
    "+input": InceptionInput,
}


def _listed(stem: str, features: Sequence[str], neck: str, head: str) -> Callable[[Any], Network]:
    """A family whose models all have modules of the same names, given in order and separated by spaces."""

    def modules(model: nn.Module, names: str) -> Modules:
        return [_MADE[name]() if name in _MADE else model.get_submodule(name) for name in names.split()]

    return lambda model: _chain(
        modules(model, stem), [modules(model, names) for names in features], modules(model, neck), modules(model, head)
    )


def _after(modules: Modules, kind: type[nn.Module]) -> list[list[nn.Module]]:
    """Cut a sequence after each module of a kind."""
    parts: list[list[nn.Module]] = [[]]
    for module in modules:
        parts[-1].append(module)
        if isinstance(module, kind):
            parts.append([])
    return [part for part in parts if part]


def _at_strides(modules: Modules) -> list[list[nn.Module]]:
    """Cut a sequence before each block that lowers the resolution."""
    parts: list[list[nn.Module]] = [[]]
    for module in modules:
        if any(isinstance(layer, nn.Conv2d) and layer.stride != (1, 1) for layer in module.modules()):
            parts.append([])
        parts[-1].append(module)
    return [part for part in parts if part]


def _with_downsampling(blocks: Modules) -> list[Modules]:
    """Stages from an alternation of blocks and downsampling: each of the latter opens the stage after it."""
    return [blocks[:1], *(blocks[start : start + 2] for start in range(1, len(blocks), 2))]


def _vgg(model: Any) -> Network:
    *neck, head = model.classifier
    return _chain([], _after(model.features, nn.MaxPool2d), [model.avgpool, nn.Flatten(1), *neck], [head])


def _squeezenet(model: Any) -> Network:
    dropout, *head = model.classifier
    stem, *features = _after(model.features, nn.MaxPool2d)
    return _chain(stem, features, [dropout], [*head, nn.Flatten(1)])


def _mobilenet(model: Any) -> Network:
    *neck, head = model.classifier
    # Version 2 pools without a module, version 3 with one.
    pool = getattr(model, "avgpool", nn.AdaptiveAvgPool2d(1))
    return _chain([model.features[0]], _at_strides(model.features[1:]), [pool, nn.Flatten(1), *neck], [head])


def _efficientnet(model: Any) -> Network:
    stem, *blocks, last_block, last_convolution = model.features
    dropout, head = model.classifier
    features = [*([block] for block in blocks), [last_block, last_convolution]]
    return _chain([stem], features, [model.avgpool, nn.Flatten(1), dropout], [head])


def _mnasnet(model: Any) -> Network:
    layers = model.layers
    dropout, head = model.classifier
    features = [*([stack] for stack in layers[8:13]), layers[13:]]
    return _chain(layers[:8], features, [SpatialMean(), dropout], [head])


def _convnext(model: Any) -> Network:
    stem, *blocks = model.features
    norm, flatten, head = model.classifier
    return _chain([stem], _with_downsampling(blocks), [model.avgpool, norm, flatten], [head])


def _swin(model: Any) -> Network:
    stem, *blocks = model.features
    neck = [model.norm, model.permute, model.avgpool, model.flatten]
    return _chain([stem], _with_downsampling(blocks), neck, [model.head])


def _vit(model: Any) -> Network:
    blocks = list(model.encoder.layers)
    quarter = len(blocks) // 4
    features = [blocks[start : start + quarter] for start in range(0, len(blocks), quarter)]
    return _chain([TokenStem(model)], features, [model.encoder.ln, FirstToken()], [model.heads.head])


def _maxvit(model: Any) -> Network:
    *neck, head = model.classifier
    return _chain([model.stem], [[block] for block in model.blocks], neck, [head])


FAMILIES: dict[str, Callable[[Any], Network]] = {
    "vgg": _vgg,
    "alexnet": _vgg,
    "squeezenet": _squeezenet,
    "resnet": _listed("conv1 bn1 relu maxpool", ("layer1", "layer2", "layer3", "layer4"), "avgpool +flatten", "fc"),
    "regnet": _listed(
        "stem",
        ("trunk_output.block1", "trunk_output.block2", "trunk_output.block3", "trunk_output.block4"),
        "avgpool +flatten",
        "fc",
    ),
    "densenet": _listed(
        "features.conv0 features.norm0 features.relu0 features.pool0",
        (
            "features.denseblock1 features.transition1",
            "features.denseblock2 features.transition2",
            "features.denseblock3 features.transition3",
            "features.denseblock4 features.norm5 +relu",
        ),
        "+pool +flatten",
        "classifier",
    ),
    "mobilenet": _mobilenet,
    "efficientnet": _efficientnet,
    "mnasnet": _mnasnet,
    "shufflenet": _listed("conv1 maxpool", ("stage2", "stage3", "stage4 conv5"), "+mean", "fc"),
    "convnext": _convnext,
    "swin": _swin,
    "vit": _vit,
    "maxvit": _maxvit,
    "googlenet": _listed(
        "+input conv1 maxpool1 conv2 conv3 maxpool2",
        (
            "inception3a inception3b maxpool3",
            "inception4a inception4b inception4c inception4d inception4e",
            "maxpool4 inception5a inception5b",
        ),
        "avgpool +flatten dropout",
        "fc",
    ),
    "inception": _listed(
        "+input Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 maxpool1 Conv2d_3b_1x1 Conv2d_4a_3x3 maxpool2",
        ("Mixed_5b Mixed_5c Mixed_5d", "Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e", "Mixed_7a Mixed_7b Mixed_7c"),
        "avgpool dropout +flatten",
        "fc",
    ),
}
