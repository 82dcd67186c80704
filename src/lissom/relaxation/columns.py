"""The columns of a compressed-aware block: what each is worth, and how it vanishes."""

from __future__ import annotations

import torch
from torch import Tensor

from lissom.lowrank.families import family_named
from lissom.lowrank.metric import Metric
from lissom.relaxation.block import CompressedAwareBlock, product
from lissom.relaxation.shrink import rescale, shrink_factors

_SMALLEST = 1e-12
_GAUGE_STEPS = 40  # each stretches by _STRETCH at most
_STRETCH = 2.0  # the gauge changes by at most this factor a step


class Columns:
    """Column j of A together with row j of B, for all j of one block.

    The strength of a column is the share of the layer's root mean square output that it carries:
    ||s A_j|| t_j / sqrt(sum over all columns at the start), where t_j = ||B_j C^1/2|| is what the
    weight layer's channel puts out and s weighs the outputs as the batch norm behind them does
    (|gamma| / sigma; 1 where there is none). Where A is 1 x kW, t_j^2 is the matrix of what the
    channel puts out at kW neighbouring places. Measured so, columns of all layers compare: what
    the loss of one does to the network goes with its square.

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
        self._matrix = metric.matrix.float() if metric else torch.ones(())
        outputs = block.coefficients.shape[0]
        scales = torch.ones(outputs)
        # Norms that start from 0 (the last ones of residual branches) do not say what they will be.
        if output_scales is not None and bool(output_scales.any()):
            scales = output_scales.float().cpu()
        self._scales = scales / scales.mean()
        self.total = 1.0
        self.total = max(float(self.strengths().norm()), _SMALLEST)

    @property
    def device(self) -> torch.device:
        """Give where the block is."""
        return self.block.coefficients.device

    @torch.no_grad()
    def strengths(self) -> Tensor:
        """Give the strength of each column, (r,); exactly 0 for those that have vanished."""
        coefficients = self.block.coefficients.detach()
        self._scales = self._scales.to(coefficients)
        rows = coefficients.reshape(*coefficients.shape[:2], -1) * self._scales[:, None, None]
        seen = torch.einsum("trj,rjk->trk", rows, self._neighbours())
        return (seen * rows).sum(dim=(0, 2)).clamp_min(0).sqrt() / self.total

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
        coefficients = block.coefficients.detach().transpose(0, 1).flatten(1).norm(dim=1)
        basis = block.basis.detach().flatten(1).norm(dim=1)
        alive = (coefficients > _SMALLEST) & (basis > _SMALLEST)
        # A column that has all but vanished must not be blown up in one step.
        ratio = (basis / coefficients.clamp_min(_SMALLEST)).sqrt().clamp(1 / _STRETCH, _STRETCH)
        factors = torch.where(alive, ratio, torch.ones_like(ratio))
        rescale(block.coefficients, _along(factors, block.coefficients, 1), optimizer)
        rescale(block.basis, _along(1 / factors, block.basis, 0), optimizer)

    def balance(self) -> None:
        """Fix the gauge from wherever it is; no training is under way."""
        for _ in range(_GAUGE_STEPS):
            self.fix_gauge(None)

    @torch.no_grad()
    def refit(
        self, mask: Tensor, covariance: Tensor, optimizer: torch.optim.Optimizer | None
    ) -> None:
        """Make the columns in ``mask`` (r,) the best approximation of the block's weight.

        Args:
            mask: What stays; the others become zero. Where they are already, nothing changes.
            covariance: E[x x^T] of the layer's inputs.
            optimizer: Forgets the momenta of both factors; None: there is none.
        """
        block, rank = self.block, int(mask.sum())
        kept = mask.to(block.coefficients.device)
        if not bool(block.coefficients[:, ~kept].any()) or rank > block.highest:
            return
        weight = product(block.basis.detach(), block.coefficients.detach())
        factors = family_named(block.family).factors(weight, (rank,), covariance)
        block.coefficients.zero_()
        block.basis[kept] = factors["first.weight"]
        block.coefficients[:, kept] = factors["last.weight"]
        self.balance()
        for parameter in (block.basis, block.coefficients):
            state = optimizer.state.get(parameter, {}) if optimizer is not None else {}
            for value in state.values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value.zero_()

    @torch.no_grad()
    def shrink(self, amount: Tensor, power: int) -> None:
        """Make the penalty's step (``shrink_factors``); ``amount``: a scalar, or one for each."""
        device = self.block.coefficients.device
        strengths = self.strengths() if power else torch.ones((), device=device)
        factors = shrink_factors(strengths, amount.to(strengths), power)
        self.block.coefficients.mul_(_along(factors, self.block.coefficients, 1))

    @torch.no_grad()
    def keep(self, mask: Tensor) -> None:
        """Set the columns outside ``mask`` (r,) to zero."""
        alive = mask.to(self.block.coefficients)
        self.block.coefficients.mul_(_along(alive, self.block.coefficients, 1))

    def _neighbours(self) -> Tensor:
        """Give t_j^2, (r, kW, kW): mean products of what B_j puts out at neighbouring places."""
        basis, width = self.block.basis.detach(), self._width
        if self._metric is None:
            return basis.new_ones(len(basis), 1, 1)
        matrix = self._matrix = self._matrix.to(basis)
        if width == 1:
            rows = self._metric.rows(as_cube(basis))  # (r, J, N)
            return ((rows @ matrix) * rows).sum(dim=(1, 2)).reshape(-1, 1, 1)
        if not self._metric.is_patch_level:
            columns = basis.squeeze(3).transpose(1, 2)  # (r, kH, S)
            own = ((columns @ matrix) * columns).sum(dim=(1, 2))
            return own[:, None, None] * torch.eye(width, device=basis.device)
        flat = basis.flatten(1)  # (r, S kH)
        blocks = matrix.reshape(flat.shape[1], width, flat.shape[1], width)
        seen = torch.einsum("rp,pjqk->rjqk", flat, blocks)
        return torch.einsum("rjqk,rq->rjk", seen, flat)

    @property
    def _width(self) -> int:
        """Width of the coefficient layer's kernel."""
        return self.block.coefficients[0, 0].numel()


def as_cube(weight: Tensor) -> Tensor:
    """Give a weight as (r, S, K)."""
    return weight.reshape(weight.shape[0], weight.shape[1], -1)


def _along(values: Tensor, parameter: Tensor, axis: int) -> Tensor:
    """Shape (n,) values to multiply along one axis of a parameter."""
    shape = [1] * parameter.dim()
    shape[axis] = -1
    return values.reshape(shape)
