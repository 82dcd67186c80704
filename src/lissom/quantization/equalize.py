"""Changes of weights that leave the function alone, or move it back, before rounding to int8.

Tensors in, tensors out: where the layers stand, and what lies between them, is the caller's.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MOST = 32.0  # a channel that hardly ever speaks must not blow up the weights that read it


def equalizing_factors(peaks: Tensor, reading: Tensor) -> Tensor:
    """Give by how much to divide each channel between two layers, for both sides to round well.

    A tensor of activations shares one scale, so a channel of small values loses levels; the
    weights that read it share a scale with those of the other channels, so that small weights do.
    Dividing channel c by sqrt(peaks_c / reading_c) makes the two alike in every channel.

    Args:
        peaks: (C,), largest absolute value of each channel between the layers.
        reading: (C,), largest absolute weight with which the second layer reads it.

    Returns:
        (C,) of geometric mean 1, within a factor of 32; 1 where a channel is silent or unread.

    Source:
        Nagel et al., ICCV 2019, arXiv:1906.04721, Sec. 4.1; with the range of the activations in
        place of the first layer's weights, which have a scale per channel here.
    """
    alive = (peaks > 0) & (reading > 0)
    if not bool(alive.any()):
        return torch.ones_like(peaks)
    wanted = torch.where(alive, peaks / reading, torch.ones_like(peaks)).log() / 2
    wanted = wanted - wanted[alive].mean()
    factors = wanted.exp().clamp(1 / _MOST, _MOST)
    return torch.where(alive, factors, torch.ones_like(factors))


def reading_weights(weight: Tensor, groups: int) -> Tensor:
    """Give the largest absolute weight with which a layer reads each of its input channels.

    Args:
        weight: Kernel (C_out, C_in / groups, ...) of a convolution or linear layer.
        groups: Of the convolution; 1 for a linear layer.

    Returns:
        (C_in,).
    """
    return _by_group(weight, groups).abs().amax(dim=(1, 3)).flatten()


def divide_channels(weight: Tensor, bias: Tensor | None, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Divide the output channels of the first layer.

    Args:
        weight: (C, ...).
        bias: (C,); None stands for zeros.
        factors: (C,).
    """
    shaped = factors.reshape(-1, *(1,) * (weight.dim() - 1))
    return weight / shaped, (torch.zeros_like(factors) if bias is None else bias / factors)


def multiply_readers(weight: Tensor, factors: Tensor, groups: int) -> Tensor:
    """Multiply the weights that read each channel, in the second layer.

    Args:
        weight: (C_out, C_in / groups, ...).
        factors: (C_in,).
        groups: Of the convolution; 1 for a linear layer.
    """
    grouped = _by_group(weight, groups)
    return (grouped * factors.reshape(groups, 1, -1, 1)).reshape(weight.shape)


def corrected_bias(bias: Tensor | None, intended: Tensor, found: Tensor) -> Tensor:
    """Move a bias by what rounding shifts the mean of each output channel.

    Args:
        bias: (C,); None stands for zeros.
        intended: (C,), mean of the layer's outputs over calibration data, before rounding.
        found: (C,), the same with rounded weights and inputs.

    Source:
        Nagel et al., ICCV 2019, arXiv:1906.04721, Sec. 4.2, the empirical form.
    """
    shift = intended - found
    return shift if bias is None else bias + shift


def _by_group(weight: Tensor, groups: int) -> Tensor:
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
