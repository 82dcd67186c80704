"""Pure mathematics of a uniform quantizer with a dead zone, and of its gradients.

q = sign(w) 1[|w| > t] clip(round(|w| / s), 1, q_max),   w^ = s q,   t >= s / 2

The zeros are the mask: sparsity and bit width are one quantizer's business.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SURROGATE_WIDTH = 0.2  # of the sigmoid that stands for the mask in the gradient, in thresholds


def levels_of(weight: Tensor, step: Tensor, threshold: Tensor, largest: Tensor) -> Tensor:
    """Give the integer levels q.

    Args:
        weight: w, any shape.
        step: s > 0, a scalar, or broadcastable.
        threshold: t >= s / 2, likewise.
        largest: q_max >= 1, a scalar.

    Returns:
        Whole numbers in [-q_max, q_max], of the type of ``weight``.
    """
    size = (weight.abs() / step).round().clamp_min(1).minimum(largest)
    return torch.where(weight.abs() > threshold, weight.sign() * size, torch.zeros_like(weight))


def quantized(weight: Tensor, step: Tensor, threshold: Tensor, largest: Tensor) -> Tensor:
    """Give w^ = s q, exactly that product, with gradients for all four.

    * w: straight through where |w| <= s q_max, for masked weights too, so that they may come back,
      unless all weights of their output (axis 0) are masked;
    * s: round(u) - u for u = |w| / s inside the range, q_max outside (the learned step size);
    * t: through a sigmoid of width 0.2 t around the threshold, whose value is never used;
    * q_max: s where the range clips.

    Args:
        weight: w, any shape.
        step: s > 0, a scalar.
        threshold: t, a scalar.
        largest: q_max >= 1, a scalar; need not be whole, its ceiling is used.

    Source:
        Esser et al., ICLR 2020, arXiv:1902.08153, eq. 3 (without its gradient scale); the dead zone
        and its surrogate are ours.
    """
    found: Tensor = _Quantize.apply(weight, step, threshold, largest)  # type: ignore[no-untyped-call]
    return found


def held(weight: Tensor, step: Tensor, others: tuple[Tensor, ...], levels: Tensor) -> Tensor:
    """Give s q for levels that no longer depend on the weight.

    The gradient reaches s alone; weight and ``others`` receive zeros rather than nothing, because
    processes that train together must all have a gradient for the same parameters.

    Args:
        weight: What the levels were found for.
        step: s, a scalar.
        others: Further parameters of the quantizer.
        levels: q, the weight's shape.
    """
    found: Tensor = _Hold.apply(weight, step, levels, *others)  # type: ignore[no-untyped-call]
    return found


class _Hold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, step: Tensor, levels: Tensor, *others: Tensor) -> Tensor:
        ctx.save_for_backward(weight, step, levels, *others)
        return step * levels.to(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, step, levels, *others = ctx.saved_tensors
        to_step = (gradient * levels).sum().reshape(step.shape)
        return torch.zeros_like(weight), to_step, None, *map(torch.zeros_like, others)


class _Quantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, step: Tensor, threshold: Tensor, largest: Tensor
    ) -> Tensor:
        ctx.save_for_backward(weight, step, threshold, largest)
        return step * levels_of(weight, step, threshold, largest.ceil())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        weight, step, threshold, largest = ctx.saved_tensors
        top = largest.ceil()
        sizes = weight.abs() / step
        inside = sizes <= top
        kept = weight.abs() > threshold
        # A batch norm divides what comes from a silent output by next to nothing.
        gradient = gradient * _sounding(kept)
        signed = gradient * weight.sign()
        magnitude = sizes.round().clamp_min(1).minimum(top)
        to_step = torch.where(inside, magnitude - sizes, top) * kept
        width = SURROGATE_WIDTH * threshold
        soft = torch.sigmoid((weight.abs() - threshold) / width)
        to_threshold = -step * magnitude * soft * (1 - soft) / width
        return (
            gradient * inside,
            (signed * to_step).sum().reshape(step.shape),
            (signed * to_threshold).sum().reshape(threshold.shape),
            (signed * step * (kept & ~inside)).sum().reshape(largest.shape),
        )


def _sounding(kept: Tensor) -> Tensor:
    """Say which outputs have a weight left, broadcastable to the weight."""
    if kept.dim() < 2:
        return torch.ones_like(kept)
    return kept.flatten(1).any(1).reshape(-1, *[1] * (kept.dim() - 1))
