"""The columns of a compressed-aware block: what each is worth, and how it vanishes."""

from __future__ import annotations

import torch
from torch import Tensor

from lissom.lowrank.metric import Metric
from lissom.relaxation.block import CompressedAwareBlock
from lissom.relaxation.shrink import rescale, shrink_factors

_SMALLEST = 1e-12
_STRETCH = 2.0  # the gauge changes by at most this factor a step


class Columns:
    """Column j of A together with row j of B, for all j of one block.

    The strength of a column is the share of the layer's root mean square output that it carries:
    ||s A_j|| t_j / sqrt(sum over all columns at the start), where t_j = ||B_j C^1/2|| is what the
    weight layer's channel puts out and s weighs the outputs as the batch norm behind them does
    (|gamma| / sigma; 1 where there is none). Measured so, columns of all layers compare: what the
    loss of one does to the network goes with its square.

    Attributes:
        layer: Name of the layer that the block stands for.
        block: The block.
        total: Root of the sum of squares over the columns at the start, the unit of a strength.
    """

    def __init__(
        self,
        layer: str,
        block: CompressedAwareBlock,
        metric: Metric | None,
        output_scales: Tensor | None,
    ) -> None:
        """Fix the units in which strengths are measured.

        Args:
            layer: Name for messages and prices.
            block: Filled.
            metric: Of the layer's inputs; None measures ||A_j|| alone and leaves the gauge free.
            output_scales: s, (T,), or None for 1.
        """
        self.layer, self.block = layer, block
        self._metric = metric
        self._root = torch.linalg.cholesky(metric.matrix).float() if metric else torch.ones(())
        outputs = block.coefficients.shape[0]
        scales = torch.ones(outputs)
        # Norms that start from 0 (the last ones of residual branches) do not say what they will be.
        if output_scales is not None and bool(output_scales.any()):
            scales = output_scales.float().cpu()
        self._scales = scales / scales.mean()
        self.total = 1.0
        self.total = max(float(self.strengths().norm()), _SMALLEST)

    @torch.no_grad()
    def strengths(self) -> Tensor:
        """Give the strength of each column, (r,); exactly 0 for those that have vanished."""
        flat = self.block.coefficients.detach().flatten(1)  # (T, r)
        self._scales = self._scales.to(flat.device)
        return (flat * self._scales[:, None]).norm(dim=0) * self._gains() / self.total

    @torch.no_grad()
    def fix_gauge(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Balance the factors, ||A_j|| = ||B_j||; neither function nor strengths change.

        The proximal step shrinks A alone. Unbalanced, the steps of B would come to nothing, or (A
        large, B small) to many times the learning rate: B moves the product by A A^T times its
        gradient.
        """
        if self._metric is None:
            return
        block = self.block
        coefficients = block.coefficients.detach().flatten(1).norm(dim=0)
        basis = block.basis.detach().flatten(1).norm(dim=1)
        alive = (coefficients > _SMALLEST) & (basis > _SMALLEST)
        # A column that has all but vanished must not be blown up in one step.
        ratio = (basis / coefficients.clamp_min(_SMALLEST)).sqrt().clamp(1 / _STRETCH, _STRETCH)
        factors = torch.where(alive, ratio, torch.ones_like(ratio))
        rescale(block.coefficients, _along(factors, block.coefficients, 1), optimizer)
        rescale(block.basis, _along(1 / factors, block.basis, 0), optimizer)

    @torch.no_grad()
    def shrink(self, amount: Tensor, power: int) -> None:
        """Make the penalty's step (``shrink_factors``); ``amount``: a scalar, or one for each."""
        strengths = self.strengths()
        factors = shrink_factors(strengths, amount.to(strengths), power)
        self.block.coefficients.mul_(_along(factors, self.block.coefficients, 1))

    @torch.no_grad()
    def keep(self, mask: Tensor) -> None:
        """Set the columns outside ``mask`` (r,) to zero."""
        alive = mask.to(self.block.coefficients)
        self.block.coefficients.mul_(_along(alive, self.block.coefficients, 1))

    def _gains(self) -> Tensor:
        """Give t_j = ||B_j C^1/2||, (r,)."""
        basis = self.block.basis
        if self._metric is None:
            return basis.new_ones(basis.shape[0])
        rows = self._metric.rows(as_cube(basis.detach()))  # (r, J, N)
        self._root = self._root.to(rows.device)
        return (rows @ self._root).flatten(1).norm(dim=1)


def as_cube(weight: Tensor) -> Tensor:
    """Give a weight as (r, S, K)."""
    return weight.reshape(weight.shape[0], weight.shape[1], -1)


def _along(values: Tensor, parameter: Tensor, axis: int) -> Tensor:
    """Shape (n,) values to multiply along one axis of a parameter."""
    shape = [1] * parameter.dim()
    shape[axis] = -1
    return values.reshape(shape)
