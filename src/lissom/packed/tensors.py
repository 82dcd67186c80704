"""What a packed file holds: tensors as they are, or as levels times a scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# The number in the file is the place in this tuple: append only.
DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
)
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor that is kept as it is.

    Attributes:
        values: Any shape, one of ``DTYPES``.
    """

    values: Tensor

    def __post_init__(self) -> None:
        if self.values.dtype not in DTYPES:
            raise ValueError(f"a packed file can't hold {self.values.dtype}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return tuple(self.values.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensor."""
        return self.values.dtype

    def tensor(self) -> Tensor:
        """Give the values."""
        return self.values


@dataclass(frozen=True, slots=True)
class Levels:
    """A quantized tensor: its values are ``levels * scale``, in float32, rounded once to ``dtype``.

    Attributes:
        levels: int32, any shape with at least one axis.
        scale: float32, of shape () or (levels.shape[0],): one for all, or one per output channel.
        dtype: Floating point type of the values.
    """

    levels: Tensor
    scale: Tensor
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.levels.dtype != torch.int32 or not self.levels.ndim:
            raise ValueError(
                f"levels must be int32 with at least one axis, got {self.levels.dtype} of shape "
                f"{tuple(self.levels.shape)}"
            )
        if self.scale.dtype != torch.float32 or tuple(self.scale.shape) not in {
            (),
            (self.levels.shape[0],),
        }:
            raise ValueError(
                f"scale must be float32 of shape () or ({self.levels.shape[0]},), got "
                f"{self.scale.dtype} of shape {tuple(self.scale.shape)}"
            )
        if self.dtype not in FLOATS:
            raise ValueError(f"levels times scale are floating point, not {self.dtype}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return tuple(self.levels.shape)

    def tensor(self) -> Tensor:
        """Give the values: one multiplication in float32, one rounding to ``dtype``."""
        scale = self.scale
        if scale.ndim:
            scale = scale.reshape(-1, *([1] * (self.levels.ndim - 1)))
        return (self.levels.to(torch.float32) * scale).to(self.dtype)


Packable = Stored | Levels
