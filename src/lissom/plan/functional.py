"""Layers applied with other weights than their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def apply_with(
    layer: nn.Conv2d | nn.Linear, inputs: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Apply a layer with another weight and bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(inputs, weight, bias)
    return layer._conv_forward(inputs, weight, bias)


def in_format(weight: Tensor, like: Tensor) -> Tensor:
    """Give a kernel the memory format of another tensor."""
    if weight.dim() != 4:
        return weight
    channels_last = like.is_contiguous(memory_format=torch.channels_last)
    return weight.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
