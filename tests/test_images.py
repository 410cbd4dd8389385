import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fashiontl.data.preprocessing import FASHION_MEAN, FASHION_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocessing, augment


def ramp(count: int = 2) -> torch.Tensor:
    return (torch.arange(count * 28 * 28) % 256).to(torch.uint8).view(count, 28, 28)


def test_28_pixels_are_padded_with_black_to_32() -> None:
    result = Preprocessing(32)(ramp())
    assert result.shape == (2, 3, 32, 32)
    assert result.dtype == torch.float32
    black = -FASHION_MEAN / FASHION_STD
    assert result[:, :, :2].flatten().tolist() == pytest.approx([black] * (2 * 3 * 2 * 32))
    inner = result[1, 2, 2:-2, 2:-2] * FASHION_STD + FASHION_MEAN
    assert torch.allclose(inner * 255, ramp()[1].float(), atol=1e-3)


def test_other_sizes_are_resized() -> None:
    white = torch.full((1, 28, 28), 255, dtype=torch.uint8)
    result = Preprocessing(64)(white)
    assert result.shape == (1, 3, 64, 64)
    assert result.flatten().tolist() == pytest.approx([(1 - FASHION_MEAN) / FASHION_STD] * (3 * 64 * 64))


@given(st.integers(0, 2**31))
def test_augmentation_is_a_flip_and_a_shift(seed: int) -> None:
    image = torch.zeros(1, 28, 28, dtype=torch.uint8)
    image[0, 10, 5] = 200
    moved = augment(image, torch.Generator().manual_seed(seed))
    assert moved.shape == image.shape
    assert moved.dtype == torch.uint8
    [[_, row, column]] = moved.nonzero().tolist()
    assert moved.sum() == 200
    assert abs(row - 10) <= 2
    assert min(abs(column - 5), abs(column - 22)) <= 2


def test_augmentation_follows_its_generator() -> None:
    images = ramp(8)
    first, again = (augment(images, torch.Generator().manual_seed(seed)) for seed in (3, 3))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(images, torch.Generator().manual_seed(4)))


@pytest.mark.parametrize(("side", "size"), [(28, 32), (28, 28), (28, 64), (64, 24)])
def test_grey_and_the_same_in_three_channels_become_the_same(side: int, size: int) -> None:
    grey = torch.randint(0, 256, (3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    prepare = Preprocessing(size, IMAGENET_MEAN, IMAGENET_STD, "bicubic")
    colour = prepare(grey.unsqueeze(1).expand(-1, 3, -1, -1))
    assert colour.shape == (3, 3, size, size)
    assert torch.allclose(prepare(grey), colour, atol=1e-5)


def test_colours_keep_their_channels() -> None:
    red = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    red[:, 0] = 255
    result = Preprocessing(32, IMAGENET_MEAN, IMAGENET_STD)(red)[0, :, 5, 5]
    expected = [(value - m) / d for value, m, d in zip((1, 0, 0), IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    assert result.tolist() == pytest.approx(expected, rel=1e-5)
    assert red.unique().tolist() == [0, 255]


@given(st.integers(0, 2**31))
def test_channels_move_together_as_grey_does(seed: int) -> None:
    images = torch.randint(1, 256, (4, 3, 9, 9), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    moved = augment(images, torch.Generator().manual_seed(seed))
    assert moved.shape == images.shape
    assert moved.is_contiguous()
    for channel in range(3):
        alone = augment(images[:, channel], torch.Generator().manual_seed(seed))
        assert torch.equal(moved[:, channel], alone)
