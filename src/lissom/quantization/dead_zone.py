"""The quantizer of one tensor, as a parametrization with learned step, threshold and range."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.quantization.levelled import Levelled
from lissom.quantization.levels import held, levels_of, quantized
from lissom.quantization.rate import (
    code_lengths,
    expected_bits,
    magnitude_counts,
    threshold_saving,
)

_NARROWEST = 1e-8
_MOST_LEVELS = 128  # 8 bits
_FINE = 2.0**20
_MARGIN = 0.01  # steps, between a weight and the border of its level


class DeadZone(nn.Module):
    """Quantizes a weight; what it learns are three numbers.

    s = std(w) exp(sigma), the deviation taken without a gradient; t = s (1/2 + softplus(tau));
    q_max = exp(rho), at least 1. Bits per stored value: b = 1 + log2 q_max, 1 for ternary weights.

    Attributes:
        sigma: Log of the step in deviations.
        tau: Of the dead zone; -infinity is plain rounding.
        rho: Log of the range in steps.
        lengths: l(k) of the moving histogram of magnitudes, (129,), a buffer.
        mask: Weights that may be other than 0, a buffer; all, unless ``keep_mask`` was called.
        rounds: Whether weights outside the dead zone are rounded; if not, they pass as they are.
        fixed: Levels that hold, int32 (gloo sends no int16), a buffer; of no meaning before
            ``hold``.
        holds: Whether they do; the step then moves relative to the deviation at that time.
    """

    lengths: Tensor
    fixed: Tensor
    mask: Tensor
    deviation: Tensor

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
        deviation = float(_deviation(weight))
        largest = max(2 ** (bits - 1), 1)
        step = float(weight.detach().abs().max().clamp_min(_NARROWEST)) / largest
        self.sigma = nn.Parameter(torch.tensor(math.log(step / deviation)))
        self.tau = nn.Parameter(torch.tensor(math.log(math.expm1(dead))))
        self.rho = nn.Parameter(torch.tensor(math.log(largest)))
        self.register_buffer("lengths", torch.ones(_MOST_LEVELS + 1))
        self.register_buffer("fixed", torch.zeros_like(weight, dtype=torch.int32))
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))
        self.register_buffer("deviation", torch.tensor(deviation))
        self.holds, self.rounds = False, True
        self.refresh(weight)

    def step(self, weight: Tensor) -> Tensor:
        """Give s for a weight."""
        deviation = (
            self.deviation
            if self.holds
            else weight.detach().std(correction=0).clamp_min(_NARROWEST)
        )
        return deviation * self.sigma.exp()

    def threshold(self, weight: Tensor) -> Tensor:
        """Give t for a weight."""
        return self.step(weight) * (0.5 + F.softplus(self.tau))

    @property
    def largest(self) -> Tensor:
        """Give q_max, 1 to 128, with a gradient."""
        return self.rho.exp().clamp(1, _MOST_LEVELS)

    def forward(self, weight: Tensor) -> Tensor:
        """Give w^, with gradients for the weight and the three numbers; once held for s alone."""
        if self.holds:
            return held(weight, self.step(weight), (self.tau, self.rho), self.fixed)
        if not self.rounds:
            # Steps so fine that nothing is rounded; the dead zone keeps its gradient.
            fine = weight.detach().abs().amax().clamp_min(_NARROWEST) / _FINE
            return quantized(weight, fine, self.threshold(weight), _FINE + 0 * self.largest)
        step, threshold = self.step(weight), self.threshold(weight)
        return quantized(weight * self.mask, step, threshold, self.largest)

    @torch.no_grad()
    def levels(self, weight: Tensor) -> Tensor:
        """Give q as int32."""
        if self.holds:
            return self.fixed.clone()
        largest = self.largest.ceil()
        step, threshold = self.step(weight), self.threshold(weight)
        return (levels_of(weight, step, threshold, largest) * self.mask).to(torch.int32)

    def bits(self, weight: Tensor) -> Tensor:
        """Give what a coder of the last refreshed histogram would charge, differentiable.

        The dead zone has a gradient without a value: what its weights cost is in the histogram.
        """
        weight = weight * self.mask
        saving = threshold_saving(weight, self.threshold(weight), self.lengths)
        return expected_bits(weight, self.step(weight), self.lengths) + saving

    @torch.no_grad()
    def entropy(self, weight: Tensor) -> Tensor:
        """Give the bits that an ideal coder of magnitudes, with plain signs, takes for the levels.

        Returns:
            float64, a scalar, for all levels together.
        """
        counts = magnitude_counts(self.levels(weight), _MOST_LEVELS).double()
        shares = counts / counts.sum()
        return counts.sum() * torch.special.entr(shares).sum() / math.log(2) + counts[1:].sum()

    @torch.no_grad()
    def levelled(self, weight: Tensor) -> Levelled:
        """Give levels and step as they are now, on the CPU."""
        return Levelled(self.levels(weight).cpu(), self.step(weight).float().cpu())

    @torch.no_grad()
    def start_from(self, weight: Tensor, found: Levelled) -> None:
        """Begin at levels and a step that are known, with the least change of the weight.

        Each weight is moved to the nearest value that the quantizer maps to its level.

        Args:
            weight: Changed in place.
            found: Of the same shape.
        """
        levels = found.levels.to(weight.device)
        size, step = levels.abs(), found.step.to(weight)
        dead = 0.5 + F.softplus(self.tau)
        low = torch.where(size > 1, size - 0.5, dead) + _MARGIN
        high = torch.where(size > 0, (size + 0.5).maximum(dead + 2 * _MARGIN), dead) - _MARGIN
        signed = weight * torch.where(levels == 0, weight.sign(), levels.sign()) / step
        inside = signed.clamp(torch.where(size > 0, low, torch.zeros_like(low)), high)
        weight.copy_(inside * step * torch.where(levels == 0, weight.sign(), levels.sign()))
        self.sigma.copy_((step / _deviation(weight)).log())
        self.rho.copy_(size.max().clamp_min(1).to(self.rho).log())
        self.refresh(weight)

    @torch.no_grad()
    def keep_mask(self, weight: Tensor) -> None:
        """Leave what is 0 now at 0 from now on, and round what is not."""
        self.mask.copy_(self.levels(weight) != 0)
        self.rounds = True

    @torch.no_grad()
    def hold(self, weight: Tensor, levels: Tensor) -> None:
        """Keep levels from now on: the weight has no influence any more.

        Args:
            weight: As it is now; its deviation becomes the unit of the step.
            levels: q, the weight's shape.
        """
        self.deviation.copy_(_deviation(weight))
        self.fixed.copy_(levels)
        self.holds = True

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


def _deviation(weight: Tensor) -> Tensor:
    """Give the standard deviation, without a gradient and never 0; defined for one weight, too."""
    return weight.detach().std(correction=0).clamp_min(_NARROWEST)
