"""Scores per channel from weights and gradients; higher = keep.

Pure mathematics. ``rows`` holds what one tensor has for each channel: (channels, width).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def l1(rows: Tensor) -> Tensor:
    """Give the sum of absolute weights of each channel.

    Args:
        rows: (channels, width).

    Returns:
        (channels,).

    Source:
        Li et al., ICLR 2017, arXiv:1608.08710, Sec. 3.1.
    """
    return rows.abs().sum(1)


def l2(rows: Tensor) -> Tensor:
    """Give the Euclidean norm of each channel's weights.

    Args:
        rows: (channels, width).

    Returns:
        (channels,).

    Source:
        He et al., IJCAI 2018, arXiv:1808.06866, Sec. 3.2.
    """
    return rows.square().sum(1).sqrt()


def fpgm(rows: Tensor) -> Tensor:
    """Give the sum of distances to all other channels: small near the geometric median.

    A channel close to the others is replaceable, whatever its norm.

    Args:
        rows: (channels, width).

    Returns:
        (channels,).

    Source:
        He et al., CVPR 2019, arXiv:1811.00250, Eq. 4.
    """
    # Not the matrix-product form: it gives equal rows a distance above zero.
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def bn_scale(scales: Tensor) -> Tensor:
    """Give the size of each channel's batch-normalization scale.

    Args:
        scales: gamma, (channels,).

    Returns:
        (channels,).

    Source:
        Liu et al., ICCV 2017, arXiv:1708.06519, Sec. 3.
    """
    return scales.abs()


def taylor(rows: Tensor, gradient_rows: Tensor) -> Tensor:
    """Give each channel's w . g, signed: the first-order fall of the loss when its weights go.

    The sum over everything that goes with the channel is taken before the absolute value.

    Args:
        rows: Weights, (channels, width).
        gradient_rows: Gradient of the loss, of the same shape.

    Returns:
        (channels,).

    Raises:
        ValueError: The shapes differ.

    Source:
        Molchanov et al., CVPR 2019, arXiv:1906.10771, Eq. 8.
    """
    if rows.shape != gradient_rows.shape:
        raise ValueError(
            f"weights have shape {tuple(rows.shape)}, their gradients {tuple(gradient_rows.shape)}"
        )
    return (rows * gradient_rows).sum(1)


def aggregate(scores: Sequence[Tensor]) -> Tensor:
    """Give the mean over tensors, each divided by its own mean so that all count alike.

    Args:
        scores: One (channels,) per tensor, not negative.

    Raises:
        ValueError: There is none.
    """
    if not scores:
        raise ValueError("nothing to aggregate: expected the scores of at least one tensor")
    shares = [score / score.mean().clamp_min(torch.finfo(score.dtype).tiny) for score in scores]
    return torch.stack(shares).mean(0)
