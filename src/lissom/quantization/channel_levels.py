"""Weights in few bits with a scale per output channel, as runtimes with integer kernels want them.

q = clip(round(w / s), -q_max, q_max),   w^ = s q,   q_max = 2^(b-1) - 1
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SHRINKS = torch.linspace(1.0, 0.3, 71)
_MOST = 127
_MANTISSA = 2.0**11  # as in float16: a file says such scales in few bits


class ChannelLevels(nn.Module):
    """A parametrization that rounds a weight channel by channel.

    s = c max |w| / q_max, rounded to 11 significant bits, the largest weight as it is now and
    without a gradient; c is the clipping that rounds the weight of the start with the least squared
    error. The gradient is straight through, 0 beyond the range.

    Attributes:
        clipping: c, (C, 1, ...), a buffer.
        largest: q_max.
    """

    clipping: Tensor

    def __init__(self, weight: Tensor, largest: int = 127) -> None:
        """Choose the clipping.

        Args:
            weight: (C, ...), output channels in front.
            largest: q_max, 1 to 127.

        Raises:
            ValueError: ``largest`` is out of range.
        """
        super().__init__()
        if not 1 <= largest <= _MOST:
            raise ValueError(f"largest={largest}: expected 1 to {_MOST}")
        self.largest = largest
        self.register_buffer("clipping", self._best_clipping(weight.detach()))

    def _best_clipping(self, weight: Tensor) -> Tensor:
        best = torch.ones(len(weight), *[1] * (weight.ndim - 1), device=weight.device)
        least = torch.full_like(best, torch.inf)
        for shrink in _SHRINKS.tolist():
            step = self._step(weight, shrink)
            error = self._levels(weight, step).mul_(step).sub_(weight).square_()
            error = error.flatten(1).sum(1).view_as(best)
            best = torch.where(error < least, shrink, best)
            least = torch.minimum(error, least)
        return best

    def _step(self, weight: Tensor, clipping: Tensor | float) -> Tensor:
        peak = weight.detach().flatten(1).abs().amax(1).view(-1, *[1] * (weight.ndim - 1))
        mantissa, exponent = torch.frexp(clipping * peak / self.largest)
        step = torch.ldexp((mantissa * _MANTISSA).round() / _MANTISSA, exponent)
        return torch.where(step > 0, step, torch.ones_like(step))

    def _levels(self, weight: Tensor, step: Tensor) -> Tensor:
        return (weight / step).round().clamp(-self.largest, self.largest)

    def forward(self, weight: Tensor) -> Tensor:
        """Give w^, (C, ...)."""
        step = self._step(weight, self.clipping)
        end = self.largest * step
        inside = weight.clamp(-end, end)
        return inside + (self._levels(weight, step) * step - inside).detach()

    @torch.no_grad()
    def hardened(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Give q, int32, and s, (C,); their product is what ``forward`` gives."""
        step = self._step(weight, self.clipping)
        return self._levels(weight, step).to(torch.int32), step.flatten()
