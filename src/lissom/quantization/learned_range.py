"""The range of an activation as something that a training learns."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lissom.quantization.activation_ranges import Range

_HALF = 0.5001  # steps; what rounding in float adds is less
_SMALLEST = torch.finfo(torch.float32).tiny


class LearnedRange(nn.Module):
    """Rounds a tensor to 2^b values between two learned ends, one of which is exactly 0.

    The ends are learned as logarithms of what they are in relation to the start, so that one
    learning rate does for all tensors; an end at 0 stays there.

    Attributes:
        start: The ends at the start, (2,), a buffer.
        shift: Logarithms, (2,).
    """

    start: Tensor

    def __init__(self, start: Range, bits: int = 8) -> None:
        super().__init__()
        self._largest, self._from_zero = 2**bits - 1, start.low == 0
        self.register_buffer("start", torch.tensor([start.low, start.high]))
        self.shift = nn.Parameter(torch.zeros(2))

    def ends(self) -> Tensor:
        """Give low and high, (2,), with gradients."""
        return self.start * self.shift.exp()

    @property
    def range(self) -> Range:
        """Give the range as it is now."""
        low, high = self.ends().detach().tolist()
        return Range(low, high)

    def forward(self, values: Tensor) -> Tensor:
        """Give the rounded values, any shape."""
        low, high = self.ends()
        return rounded(values, low, high, self._largest, from_zero=self._from_zero)


def rounded(
    values: Tensor, low: Tensor, high: Tensor, largest: int = 255, *, from_zero: bool = False
) -> Tensor:
    """Give s (clip(round(x / s) + z, 0, largest) - z), with gradients for x, low and high.

    s = (high - low) / largest, z = round(-low / s). Straight through for x within the range (or
    half a step beyond it), else 0. For an end: 1 per value beyond it; and of each value inside, its
    rounding error counts as what s would change (the learned step size).

    Args:
        values: x, any shape.
        low: At most 0, a scalar.
        high: At least 0, a scalar. With both 0 the step is 1.
        largest: Of the integers.
        from_zero: Whether ``low`` is 0 and stays 0: it then needs no gradient, which saves time.

    Source:
        Esser et al., ICLR 2020, arXiv:1902.08153, eq. 3; Bhalgat et al., arXiv:2004.09576, for a
        learned offset.
    """
    found: Tensor = _Round.apply(values, low, high, _Form(largest, from_zero))  # type: ignore[no-untyped-call]
    return found


class _Form(NamedTuple):
    largest: int
    from_zero: bool


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, low: Tensor, high: Tensor, form: _Form) -> Tensor:
        largest = form.largest
        step = (high - low).float() / largest
        step = torch.where(step < _SMALLEST, torch.ones_like(step), step)
        zero = (-low / step).round().clamp(0, largest)
        # Few passes over the values: this is most of what a training in int8 costs more.
        result = values.float() * step.reciprocal()
        result = result.round_().clamp_(-zero, largest - zero).mul_(step)
        ctx.save_for_backward(values, result, step)
        ctx.form = form
        return result.to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, result, step = ctx.saved_tensors
        (grad,) = grads
        gap = result - values  # at most half a step for what lies within the range
        inside = grad * (gap.abs() <= _HALF * step)
        # Of both ends, since s = (high - low) / largest.
        error = (inside * gap).sum(dtype=torch.float32) / (step * ctx.form.largest)
        outside = grad - inside
        beyond = outside.sum(dtype=torch.float32)
        if ctx.form.from_zero:  # what is the other end's is multiplied by 0
            return inside, torch.zeros_like(error), beyond + error, None
        above = (outside * (gap < 0)).sum(dtype=torch.float32)
        return inside, beyond - above - error, above + error, None
