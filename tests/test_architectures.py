"""The table itself, and the sizes that it allows."""

import pytest

from fashiontl.models.registry import ARCHITECTURES, Architecture, size_error


def test_the_builder_is_the_name_unless_given() -> None:
    assert Architecture("mine", "resnet", 1).builder == "mine"
    assert Architecture("mine", "resnet", 1, builder="package.module:function").builder == "package.module:function"


def test_every_resnet_and_densenet_has_a_variant_for_small_images() -> None:
    published = [entry for entry in ARCHITECTURES.values() if entry.family in {"resnet", "densenet"} and entry.weights]
    assert len(published) == 14
    for entry in published:
        variant = ARCHITECTURES[f"{entry.name}_small_stem"]
        assert (variant.builder, variant.weights, variant.small_stem) == (entry.name, (), True)


@pytest.mark.parametrize(
    ("name", "image_size", "fault"),
    [
        ("vgg11", 32, None),
        ("vgg11", 31, "vgg11 takes images of at least 32 pixels, got 31; use --set image_size=32"),
        ("resnet18", 0, "resnet18 takes images of at least 1 pixels, got 0; use --set image_size=1"),
        ("vit_b_16", 8, "vit_b_16 takes images of at least 16 pixels, got 8; use --set image_size=16"),
        (
            "vit_b_16",
            33,
            "vit_b_16 takes images whose side is a multiple of 16 pixels, got 33; use --set image_size=48",
        ),
        (
            "maxvit_t",
            225,
            "maxvit_t takes images whose side is a multiple of 224 pixels, got 225; use --set image_size=448",
        ),
    ],
)
def test_a_size_that_does_not_fit_is_explained(name: str, image_size: int, fault: str | None) -> None:
    assert size_error(name, image_size) == fault
