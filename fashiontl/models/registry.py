"""The table of architectures. No torch here, so that listing and validating options is instant."""

import math
from dataclasses import dataclass, replace

from fashiontl.core.errors import FashiontlError, unknown_name


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        name: torchvision's, or our own.
        family: how it is cut into stages, a name in `fashiontl.models.families.FAMILIES`; empty where the builder
            returns a `Network`, which has its stages.
        minimum_size: side in pixels of the smallest images that it takes, found by trying.
        weights: names of the published weights.
        size_multiple: a divisor that the side must have.
        builder: a model of torchvision, `timm` for the model of timm that the name says, or `module:function`, called
            with `classes` and `image_size`, which returns a `Network` or a module of the family. Empty takes the name.
        small_stem: whether a 3x3 convolution of stride 1 and no pooling take the place of the published stem.
    """

    name: str
    family: str = ""
    minimum_size: int = 1
    weights: tuple[str, ...] = ()
    size_multiple: int = 1
    builder: str = ""
    small_stem: bool = False

    def __post_init__(self) -> None:
        if not self.builder:
            object.__setattr__(self, "builder", self.name)


_V1 = ("IMAGENET1K_V1",)
_V2 = (*_V1, "IMAGENET1K_V2")
_SWAG = ("IMAGENET1K_SWAG_E2E_V1", "IMAGENET1K_SWAG_LINEAR_V1")

# Names, family, smallest side, published weights.
_ROWS = (
    ("alexnet", "alexnet", 63, _V1),
    ("vgg11 vgg11_bn vgg13 vgg13_bn", "vgg", 32, _V1),
    ("vgg16", "vgg", 32, (*_V1, "IMAGENET1K_FEATURES")),
    ("vgg16_bn vgg19 vgg19_bn", "vgg", 32, _V1),
    ("squeezenet1_0", "squeezenet", 21, _V1),
    ("squeezenet1_1", "squeezenet", 17, _V1),
    ("googlenet", "googlenet", 15, _V1),
    ("inception_v3", "inception", 75, _V1),
    ("resnet18 resnet34", "resnet", 1, _V1),
    ("resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d", "resnet", 1, _V2),
    ("resnext101_64x4d", "resnet", 1, _V1),
    ("wide_resnet50_2 wide_resnet101_2", "resnet", 1, _V2),
    ("densenet121 densenet161 densenet169 densenet201", "densenet", 29, _V1),
    ("mobilenet_v2", "mobilenet", 1, _V2),
    ("mobilenet_v3_small", "mobilenet", 1, _V1),
    ("mobilenet_v3_large", "mobilenet", 1, _V2),
    ("mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3", "mnasnet", 1, _V1),
    ("shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0", "shufflenet", 1, _V1),
    ("efficientnet_b0", "efficientnet", 1, _V1),
    ("efficientnet_b1", "efficientnet", 1, _V2),
    ("efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5", "efficientnet", 1, _V1),
    ("efficientnet_b6 efficientnet_b7", "efficientnet", 1, _V1),
    ("efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l", "efficientnet", 1, _V1),
    ("regnet_x_400mf regnet_x_800mf regnet_x_1_6gf regnet_x_3_2gf", "regnet", 1, _V2),
    ("regnet_x_8gf regnet_x_16gf regnet_x_32gf", "regnet", 1, _V2),
    ("regnet_y_400mf regnet_y_800mf regnet_y_1_6gf regnet_y_3_2gf regnet_y_8gf", "regnet", 1, _V2),
    ("regnet_y_16gf regnet_y_32gf", "regnet", 1, (*_V2, *_SWAG)),
    ("regnet_y_128gf", "regnet", 1, _SWAG),
    ("convnext_tiny convnext_small convnext_base convnext_large", "convnext", 32, _V1),
    ("swin_t swin_s swin_b swin_v2_t swin_v2_s swin_v2_b", "swin", 4, _V1),
)

_TORCHVISION = (
    *(Architecture(name, *row) for names, *row in _ROWS for name in names.split()),  # type: ignore[arg-type]
    Architecture("vit_b_16", "vit", 16, (*_V1, *_SWAG), size_multiple=16),
    Architecture("vit_b_32", "vit", 32, _V1, size_multiple=32),
    Architecture("vit_l_16", "vit", 16, (*_V1, *_SWAG), size_multiple=16),
    Architecture("vit_l_32", "vit", 32, _V1, size_multiple=32),
    Architecture("vit_h_14", "vit", 14, _SWAG, size_multiple=14),
    # Windows of 7 at a 32nd of the side. 221 to 223 pixels run too, because strides round up, but nothing else does.
    Architecture("maxvit_t", "maxvit", 224, _V1, size_multiple=224),
)

# For images of about 32 pixels, which the published stems reduce to a quarter at once; DenseNet halves 3 times more.
_SMALLEST_WITH_SMALL_STEM = {"resnet": 1, "densenet": 8}
_SMALL_STEM = tuple(
    replace(entry, name=f"{entry.name}_small_stem", minimum_size=smallest, weights=(), small_stem=True)
    for entry in _TORCHVISION
    if (smallest := _SMALLEST_WITH_SMALL_STEM.get(entry.family))
)

_OWN = (
    Architecture("tutorial_vgg", "vgg", 32, builder="fashiontl.models.blocks:TutorialVGG"),
    Architecture("resnet9", "", 8, builder="fashiontl.models.blocks:resnet9"),
)

ARCHITECTURES: dict[str, Architecture] = {entry.name: entry for entry in (*_TORCHVISION, *_SMALL_STEM, *_OWN)}


# `mean:` answers with the mean of the probabilities of networks that are trained separately, `joined:` with one linear
# head on the concatenated features of several.
HYBRIDS = ("mean", "joined")


def members(name: str) -> tuple[str, ...]:
    """The architectures that a hybrid combines; none of another architecture.

    >>> members("mean:vgg11+resnet18"), members("resnet18")
    (('vgg11', 'resnet18'), ())
    """
    kind, _, names = name.partition(":")
    return tuple(names.split("+")) if kind in HYBRIDS and "+" in names else ()


def trained_separately(name: str) -> tuple[str, ...]:
    """The networks that are trained on their own: the members of a `mean:` hybrid, else the architecture itself."""
    return members(name) if name.startswith("mean:") else (name,)


def fitting_size(name: str, image_size: int) -> int:
    """The least side of at least `image_size` pixels that an architecture, or every member of a hybrid, takes.

    >>> fitting_size("resnet18", 32), fitting_size("alexnet", 32), fitting_size("vit_b_16", 40)
    (32, 63, 48)
    >>> fitting_size("mean:alexnet+vit_b_16", 32)
    64
    """
    entries = [find(member) for member in members(name) or (name,)]
    least = max(image_size, *(entry.minimum_size for entry in entries))
    multiple = math.lcm(*(entry.size_multiple for entry in entries))
    return -(-least // multiple) * multiple


def check_name(name: str) -> None:
    """Raise a FashiontlError, with all errors of its members, for a name of neither architecture nor hybrid."""
    kind, colon, names = name.partition(":")
    hybrid = colon and kind in HYBRIDS
    separate = names.split("+") if hybrid else [name]
    errors = []
    if hybrid and len(set(separate)) < max(2, len(separate)):
        errors.append(f"{name}: expected two or more different members, as in mean:vgg11+resnet18")
    for member in separate:
        try:
            find(member)
        except FashiontlError as error:
            errors.append(str(error))
    if errors:
        raise FashiontlError("\n".join(errors))


def find(name: str) -> Architecture:
    """The architecture of a name.

    Raises:
        FashiontlError: there is none, or it is one of timm's, `timm/NAME`, and timm is not installed.
    """
    if name.startswith("timm/"):
        from fashiontl.models.timm_models import describe

        return describe(name)
    if name not in ARCHITECTURES:
        raise FashiontlError(unknown_name("architecture", name, ARCHITECTURES))
    return ARCHITECTURES[name]
