"""Where each family of models is cut into stages.

Each function lists a model's own modules in the order in which its `forward` runs them; what `forward` does without a
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
    """Cut a model into stages made of its own modules, so that both compute the same.

    Args:
        model: of torchvision's layout for the family, without auxiliary heads.
        family: a name in `FAMILIES`.

    Raises:
        FashiontlError: unknown family.
    """
    if family not in FAMILIES:
        raise FashiontlError(unknown_name("family", family, FAMILIES))
    return FAMILIES[family](model)


def _chain(*, stem: Modules = (), features: Sequence[Modules], neck: Modules, head: Modules) -> Network:
    numbered = {f"stage{number}": modules for number, modules in enumerate(features, start=1)}
    stages = {"stem": stem, **numbered, "neck": neck, "head": head}
    return Network({name: modules for name, modules in stages.items() if modules})


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


def _vgg(model: Any) -> Network:
    return _chain(
        features=_after(model.features, nn.MaxPool2d),
        neck=[model.avgpool, nn.Flatten(1), *model.classifier[:-1]],
        head=[model.classifier[-1]],
    )


def _squeezenet(model: Any) -> Network:
    dropout, convolution, relu, pool = model.classifier
    stem, *features = _after(model.features, nn.MaxPool2d)
    return _chain(stem=stem, features=features, neck=[dropout], head=[convolution, relu, pool, nn.Flatten(1)])


def _resnet(model: Any) -> Network:
    return _chain(
        stem=[model.conv1, model.bn1, model.relu, model.maxpool],
        features=[[model.layer1], [model.layer2], [model.layer3], [model.layer4]],
        neck=[model.avgpool, nn.Flatten(1)],
        head=[model.fc],
    )


def _regnet(model: Any) -> Network:
    return _chain(
        stem=[model.stem],
        features=[[block] for block in model.trunk_output],
        neck=[model.avgpool, nn.Flatten(1)],
        head=[model.fc],
    )


def _densenet(model: Any) -> Network:
    features = model.features
    return _chain(
        stem=[features.conv0, features.norm0, features.relu0, features.pool0],
        features=[
            [features.denseblock1, features.transition1],
            [features.denseblock2, features.transition2],
            [features.denseblock3, features.transition3],
            [features.denseblock4, features.norm5, nn.ReLU(inplace=True)],
        ],
        neck=[nn.AdaptiveAvgPool2d(1), nn.Flatten(1)],
        head=[model.classifier],
    )


def _mobilenet(model: Any) -> Network:
    *neck, head = model.classifier
    # Version 2 pools without a module, version 3 with one.
    pool = getattr(model, "avgpool", nn.AdaptiveAvgPool2d(1))
    return _chain(
        stem=[model.features[0]],
        features=_at_strides(model.features[1:]),
        neck=[pool, nn.Flatten(1), *neck],
        head=[head],
    )


def _efficientnet(model: Any) -> Network:
    stem, *blocks, last_block, last_convolution = model.features
    dropout, head = model.classifier
    return _chain(
        stem=[stem],
        features=[*([block] for block in blocks), [last_block, last_convolution]],
        neck=[model.avgpool, nn.Flatten(1), dropout],
        head=[head],
    )


def _mnasnet(model: Any) -> Network:
    layers = model.layers
    dropout, head = model.classifier
    return _chain(
        stem=layers[:8],
        features=[*([stack] for stack in layers[8:13]), layers[13:]],
        neck=[SpatialMean(), dropout],
        head=[head],
    )


def _shufflenet(model: Any) -> Network:
    return _chain(
        stem=[model.conv1, model.maxpool],
        features=[[model.stage2], [model.stage3], [model.stage4, model.conv5]],
        neck=[SpatialMean()],
        head=[model.fc],
    )


def _convnext(model: Any) -> Network:
    stem, *blocks = model.features
    norm, flatten, head = model.classifier
    return _chain(stem=[stem], features=_with_downsampling(blocks), neck=[model.avgpool, norm, flatten], head=[head])


def _swin(model: Any) -> Network:
    stem, *blocks = model.features
    return _chain(
        stem=[stem],
        features=_with_downsampling(blocks),
        neck=[model.norm, model.permute, model.avgpool, model.flatten],
        head=[model.head],
    )


def _with_downsampling(blocks: Modules) -> list[Modules]:
    """Stages from an alternation of blocks and downsampling: each of the latter opens the stage after it."""
    return [blocks[:1], *(blocks[start : start + 2] for start in range(1, len(blocks), 2))]


def _vit(model: Any) -> Network:
    blocks = list(model.encoder.layers)
    quarter = len(blocks) // 4
    return _chain(
        stem=[TokenStem(model)],
        features=[blocks[start : start + quarter] for start in range(0, len(blocks), quarter)],
        neck=[model.encoder.ln, FirstToken()],
        head=[model.heads.head],
    )


def _maxvit(model: Any) -> Network:
    *neck, head = model.classifier
    return _chain(stem=[model.stem], features=[[block] for block in model.blocks], neck=neck, head=[head])


def _googlenet(model: Any) -> Network:
    return _chain(
        stem=[InceptionInput(), model.conv1, model.maxpool1, model.conv2, model.conv3, model.maxpool2],
        features=[
            [model.inception3a, model.inception3b, model.maxpool3],
            [model.inception4a, model.inception4b, model.inception4c, model.inception4d, model.inception4e],
            [model.maxpool4, model.inception5a, model.inception5b],
        ],
        neck=[model.avgpool, nn.Flatten(1), model.dropout],
        head=[model.fc],
    )


def _inception(model: Any) -> Network:
    first = [model.Conv2d_1a_3x3, model.Conv2d_2a_3x3, model.Conv2d_2b_3x3, model.maxpool1]
    second = [model.Conv2d_3b_1x1, model.Conv2d_4a_3x3, model.maxpool2]
    return _chain(
        stem=[InceptionInput(), *first, *second],
        features=[
            [model.Mixed_5b, model.Mixed_5c, model.Mixed_5d],
            [model.Mixed_6a, model.Mixed_6b, model.Mixed_6c, model.Mixed_6d, model.Mixed_6e],
            [model.Mixed_7a, model.Mixed_7b, model.Mixed_7c],
        ],
        neck=[model.avgpool, model.dropout, nn.Flatten(1)],
        head=[model.fc],
    )


FAMILIES: dict[str, Callable[[Any], Network]] = {
    "vgg": _vgg,
    "alexnet": _vgg,
    "squeezenet": _squeezenet,
    "resnet": _resnet,
    "regnet": _regnet,
    "densenet": _densenet,
    "mobilenet": _mobilenet,
    "efficientnet": _efficientnet,
    "mnasnet": _mnasnet,
    "shufflenet": _shufflenet,
    "convnext": _convnext,
    "swin": _swin,
    "vit": _vit,
    "maxvit": _maxvit,
    "googlenet": _googlenet,
    "inception": _inception,
}
