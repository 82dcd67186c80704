"""A quantized tensor as what is stored of it: whole numbers and a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Levelled:
    """A weight w^ = s q.

    Attributes:
        levels: q, int32, the shape of the weight.
        step: s > 0, float32, a scalar.
    """

    levels: Tensor
    step: Tensor

    def __post_init__(self) -> None:
        if self.levels.dtype != torch.int32:
            raise ValueError(f"levels are {self.levels.dtype}; expected int32")
        if self.step.shape != () or self.step.dtype != torch.float32 or not self.step > 0:
            raise ValueError(
                f"step is a {self.step.dtype} of shape {tuple(self.step.shape)}; expected a "
                "float32 scalar above 0"
            )

    @property
    def weight(self) -> Tensor:
        """Give s q in float32, exactly that product."""
        return self.step * self.levels.to(torch.float32)

    @property
    def bits(self) -> int:
        """Give ``bits_of`` the levels."""
        return bits_of(self.levels)

    @property
    def nonzero(self) -> int:
        """Give how many levels are not 0."""
        return int(self.levels.count_nonzero())

    @property
    def density(self) -> float:
        """Give the share of levels that are not 0, in [0, 1]."""
        return self.nonzero / max(self.levels.numel(), 1)


def bits_of(levels: Tensor) -> int:
    """Give b = 1 + log2 q_max, with the largest magnitude rounded up to a power of two.

    1 is ternary, and what a tensor of zeros gets.

    Args:
        levels: q, whole numbers.
    """
    largest = int(levels.abs().max()) if levels.numel() else 0
    return 1 + max(largest - 1, 0).bit_length()
