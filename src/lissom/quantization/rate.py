"""What an entropy coder will charge for levels, as a function that can be differentiated."""

from __future__ import annotations

import torch
from torch import Tensor

from lissom.quantization.levels import SURROGATE_WIDTH

_PSEUDO_COUNT, _PSEUDO_TOTAL = 0.5, 4.5


def code_lengths(counts: Tensor) -> Tensor:
    """Give l(k) = -log2 p(k), plus the sign's bit for k > 0, from counts of magnitudes.

    Args:
        counts: How often |q| = k occurs, (q_max + 1,), at least two entries.

    Returns:
        Bits per level, (q_max + 1,); never infinite, half a count is added
        to each, but 4.5 to all together at the most.
    """
    smoothed = counts.double() + min(_PSEUDO_COUNT, _PSEUDO_TOTAL / len(counts))
    lengths = -(smoothed / smoothed.sum()).log2()
    lengths[1:] += 1
    return lengths.to(torch.float32)


def magnitude_counts(levels: Tensor, largest: int) -> Tensor:
    """Count |q| = 0 .. ``largest``, (largest + 1,)."""
    return torch.bincount(levels.abs().flatten().to(torch.int64), minlength=largest + 1)


def expected_bits(weight: Tensor, step: Tensor, lengths: Tensor) -> Tensor:
    """Give R = sum over weights of (1 - f) l(floor u) + f l(ceil u), u = |w| / s, f its fraction.

    The code length interpolated between levels: piecewise linear in w and s, so that its gradient
    says what moving a weight towards a cheaper level saves.

    Args:
        weight: w, any shape.
        step: s > 0, a scalar or broadcastable.
        lengths: l, (q_max + 1,); larger magnitudes are charged like q_max.

    Returns:
        Bits, a scalar with gradients for ``weight`` and ``step``.
    """
    top = lengths.shape[0] - 1
    sizes = (weight.abs() / step).clamp_max(top)
    below = sizes.detach().floor().nan_to_num(0)  # a NaN is no index; the sum still shows it
    low = lengths[below.to(torch.int64)]
    high = lengths[(below + 1).clamp_max(top).to(torch.int64)]
    return (low + (sizes - below) * (high - low)).sum()


def threshold_saving(weight: Tensor, threshold: Tensor, lengths: Tensor) -> Tensor:
    """Give 0, with the gradient that says what a wider dead zone saves.

    dR/dt = - sum sigma'((|w| - t) / (0.2 t)) (l(1) - l(0)): the weights near the threshold, by the
    surrogate that the quantizer's own gradient uses.

    Args:
        weight: w, any shape; receives no gradient.
        threshold: t, a scalar.
        lengths: l, (q_max + 1,).
    """
    width = SURROGATE_WIDTH * threshold.detach()
    kept = torch.sigmoid((weight.detach().abs() - threshold) / width).sum()
    return (kept - kept.detach()) * (lengths[1] - lengths[0])


def binary_entropy_bits(density: Tensor, bits: Tensor, count: int) -> Tensor:
    """Give N (d b + H2(d)): b bits per non-zero and an ideal mask (the faithful price).

    Args:
        density: d in [0, 1], a scalar.
        bits: b per non-zero.
        count: N.

    Source:
        Yao et al., Chinese J. Sci. Instrum. 44(5), 2023 (abstract); our reading.
    """
    share = density.clamp(1e-9, 1 - 1e-9)
    mask = -(share * share.log2() + (1 - share) * (1 - share).log2())
    return count * (density * bits + mask)
