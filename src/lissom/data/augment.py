"""Random crops and flips of a whole batch at once (pure)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What may happen to a training image.

    Attributes:
        padding: Pixels added on every side before a crop of the old size at a random place.
        flip: Whether every second image, on average, is mirrored left to right.
        reflect: Whether the padding mirrors the image instead of being zero.
    """

    padding: int = 0
    flip: bool = False
    reflect: bool = False


@dataclass(frozen=True, slots=True)
class Draws:
    """Random numbers for a set of N images.

    Attributes:
        top: First row of the crop in the padded image, shape (N,).
        left: First column, shape (N,).
        mirrored: Whether the crop is mirrored, shape (N,), bool.
    """

    top: Tensor
    left: Tensor
    mirrored: Tensor

    def __getitem__(self, index: Tensor) -> Draws:
        return Draws(self.top[index], self.left[index], self.mirrored[index])


def draw(count: int, augmentation: Augmentation, generator: torch.Generator) -> Draws:
    """Draw for ``count`` images; the same generator state gives the same draws."""
    places = 2 * augmentation.padding + 1
    top = torch.randint(places, (count,), generator=generator)
    left = torch.randint(places, (count,), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5
    return Draws(top, left, mirrored if augmentation.flip else torch.zeros_like(mirrored))


def crop_and_flip(images: Tensor, augmentation: Augmentation, draws: Draws) -> Tensor:
    """Cut the drawn window out of every padded image and mirror it where drawn.

    Args:
        images: (N, H, W, C), any type.
        augmentation: What the draws were made for.
        draws: For these N images.

    Returns:
        (N, H, W, C), contiguous.
    """
    count, height, width, _ = images.shape
    padding = augmentation.padding
    columns = torch.arange(width)
    columns = torch.where(draws.mirrored[:, None], columns.flip(0), columns)  # (N, W)
    rows = torch.arange(height) + draws.top[:, None]  # (N, H)
    columns = columns + draws.left[:, None]
    if augmentation.reflect:
        rows = _reflected(rows - padding, height)
        columns = _reflected(columns - padding, width)
    else:
        images = F.pad(images, (0, 0, padding, padding, padding, padding))
    which = torch.arange(count)
    return images[which[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflected(index: Tensor, size: int) -> Tensor:
    """Bring indices outside 0..size-1 back by mirroring at the border pixels."""
    return (size - 1) - ((size - 1) - index.abs()).abs()
