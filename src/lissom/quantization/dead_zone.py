"""The quantizer of one tensor, as a parametrization with learned step, threshold and range."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.quantization.levels import levels_of, quantized
from lissom.quantization.rate import code_lengths, expected_bits, magnitude_counts

_NARROWEST = 1e-8


class DeadZone(nn.Module):
    """Quantizes a weight; what it learns are three numbers.

    s = std(w) exp(sigma), the deviation taken without a gradient; t = s (1/2 + softplus(tau));
    q_max = exp(rho), at least 1. Bits per stored value: b = 1 + log2 q_max, 1 for ternary weights.

    Attributes:
        sigma: Log of the step in deviations.
        tau: Of the dead zone; -infinity is plain rounding.
        rho: Log of the range in steps.
        lengths: l(k) of the moving histogram of magnitudes, (limit + 1,), a buffer.
    """

    lengths: Tensor

    def __init__(self, weight: Tensor, bits: int = 4, dead: float = 0.1) -> None:
        """Start with ``bits`` bits over the weight's range, and nearly plain rounding.

        Args:
            weight: The tensor; only its deviation and largest magnitude are read.
            bits: 1 to 8, sign included.
            dead: t / s - 1/2 > 0 at the start.

        Raises:
            ValueError: ``bits`` or ``dead`` is out of range.
        """
        super().__init__()
        if not 1 <= bits <= 8 or not dead > 0:
            raise ValueError(f"bits={bits}, dead={dead}: expected 1 to 8 bits and dead > 0")
        deviation = float(weight.detach().std().clamp_min(_NARROWEST))
        largest = max(2 ** (bits - 1), 1)
        step = float(weight.detach().abs().max().clamp_min(_NARROWEST)) / largest
        self.sigma = nn.Parameter(torch.tensor(math.log(step / deviation)))
        self.tau = nn.Parameter(torch.tensor(math.log(math.expm1(dead))))
        self.rho = nn.Parameter(torch.tensor(math.log(largest)))
        self.register_buffer("lengths", torch.ones(2 ** (bits - 1) + 1))
        self.refresh(weight)

    def step(self, weight: Tensor) -> Tensor:
        """Give s for a weight."""
        return weight.detach().std().clamp_min(_NARROWEST) * self.sigma.exp()

    def threshold(self, weight: Tensor) -> Tensor:
        """Give t for a weight."""
        return self.step(weight) * (0.5 + F.softplus(self.tau))

    @property
    def largest(self) -> Tensor:
        """Give q_max, at least 1, with a gradient."""
        return self.rho.exp().clamp_min(1)

    def forward(self, weight: Tensor) -> Tensor:
        """Give w^, with gradients for the weight and the three numbers."""
        return quantized(weight, self.step(weight), self.threshold(weight), self.largest)

    @torch.no_grad()
    def levels(self, weight: Tensor) -> Tensor:
        """Give q as int32."""
        largest = self.largest.ceil()
        found = levels_of(weight, self.step(weight), self.threshold(weight), largest)
        return found.to(torch.int32)

    def bits(self, weight: Tensor) -> Tensor:
        """Give what a coder of the last refreshed histogram would charge, differentiable."""
        return expected_bits(weight, self.step(weight), self.lengths)

    @torch.no_grad()
    def refresh(self, weight: Tensor, keep: float = 0.0) -> None:
        """Take the histogram of magnitudes anew.

        Args:
            weight: As it is now.
            keep: Share of the old code lengths that stays.
        """
        top = self.lengths.shape[0] - 1
        levels = self.levels(weight).abs().clamp_max(top)
        fresh = code_lengths(magnitude_counts(levels, top)).to(self.lengths)
        self.lengths.lerp_(fresh, 1 - keep)
