"""The oracle of the ladder: levels chosen column by column, one step at a time."""

from __future__ import annotations

import torch
from torch import Tensor

_DAMPING = 0.01  # of the covariance's mean diagonal
_BLOCK = 128  # columns whose errors are passed on together


def cheapest_levels(
    weight: Tensor, step: Tensor, curvature: Tensor, lengths: Tensor, price: float
) -> Tensor:
    """Give argmin over k of curvature (w - s k)^2 + price l(|k|).

    Args:
        weight: w, any shape.
        step: s > 0, broadcastable to it.
        curvature: What a squared error costs, broadcastable to it.
        lengths: l, bits of a magnitude with its sign, (q_max + 1,).
        price: Of a bit, in units of the error; 0 rounds to the nearest.

    Returns:
        Whole numbers in [-q_max, q_max], of the type of ``weight``.
    """
    prices = price * lengths.to(weight)
    size = weight.abs()
    best = curvature * size.square() + prices[0]
    chosen = torch.zeros_like(weight)
    for level in range(1, lengths.shape[0]):  # one at a time: all at once is many copies of it
        cost = curvature * (size - step * level).square() + prices[level]
        better = cost < best
        best = torch.where(better, cost, best)
        chosen = chosen.masked_fill(better, level)
    return chosen * weight.sign()


def error_feedback_levels(
    weight: Tensor, covariance: Tensor, step: Tensor, lengths: Tensor, price: float = 0.0
) -> Tensor:
    """Choose levels column by column, each time moving the other columns to make up for the error.

    With H = C + 0.01 mean(diag C) 1 and U the upper Cholesky factor of its inverse, column i gets
    argmin (w_i - s k)^2 / U_ii^2 + price l(k), and W[:, i:] -= ((w_i - s q_i) / U_ii) U[i, i:]. A
    dead zone appears by itself: zeros are cheap.

    Args:
        weight: (T, S, kH, kW) or (T, S).
        covariance: E[x x^T] of the inputs, (S K, S K) over patches in ``F.unfold`` order, or (S, S)
            over channels: then each kernel position is taken by itself.
        step: s > 0, a scalar, or (T, 1) per output.
        lengths: l, (q_max + 1,).
        price: Of a bit, in units of the output's squared error.

    Returns:
        Levels in the shape of ``weight``.

    Raises:
        ValueError: The covariance has another shape.

    Source:
        Frantar et al., ICLR 2023, arXiv:2210.17323, Sec. 3; the price of a level is ours.
    """
    outputs, channels = weight.shape[0], weight.shape[1]
    cube = weight.detach().to("cpu", torch.float64).reshape(outputs, channels, -1)
    positions = cube.shape[2]
    if covariance.shape[0] == channels * positions:
        rows, steps = cube.flatten(1), step
    elif covariance.shape[0] == channels:
        rows = cube.transpose(1, 2).reshape(-1, channels)
        steps = step.expand(outputs, 1).repeat_interleave(positions, 0) if step.dim() else step
    else:
        raise ValueError(
            f"covariance has shape {tuple(covariance.shape)}; expected {channels * positions} over "
            f"patches or {channels} over channels"
        )
    factor = _inverse_factor(covariance.detach().to("cpu", torch.float64))
    chosen = _columns(rows.clone(), factor, steps.detach().cpu().double(), lengths.cpu(), price)
    if covariance.shape[0] == channels and positions > 1:
        chosen = chosen.reshape(outputs, positions, channels).transpose(1, 2)
    return chosen.reshape(weight.shape).to(weight)


def _inverse_factor(covariance: Tensor) -> Tensor:
    """Give U, upper triangular, with U^T U the inverse of the damped covariance."""
    size = covariance.shape[0]
    damping = (_DAMPING * covariance.diagonal().mean()).clamp_min(1e-12)
    inverse = torch.linalg.inv(covariance + damping * torch.eye(size, dtype=covariance.dtype))
    return torch.linalg.cholesky((inverse + inverse.T) / 2, upper=True)


def _columns(rows: Tensor, factor: Tensor, steps: Tensor, lengths: Tensor, price: float) -> Tensor:
    """Go over the columns of ``rows`` (R, N), which are used up."""
    chosen = torch.zeros_like(rows)
    side = steps.reshape(-1) if steps.dim() else steps
    for start in range(0, rows.shape[1], _BLOCK):
        end = min(start + _BLOCK, rows.shape[1])
        errors = torch.zeros(rows.shape[0], end - start, dtype=rows.dtype)
        for i in range(start, end):
            pivot = factor[i, i]
            levels = cheapest_levels(rows[:, i], side, 1 / pivot.square(), lengths, price)
            chosen[:, i] = levels
            error = (rows[:, i] - side * levels) / pivot
            rows[:, i:end] -= error[:, None] * factor[i, i:end]
            errors[:, i - start] = error
        rows[:, end:] -= errors @ factor[start:end, end:]
    return chosen
