"""What error a factorization minimises: that of the weight, or of the layer's output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-4  # of the covariance's mean diagonal; keeps directions that the data never showed


@dataclass(frozen=True, slots=True)
class Metric:
    """The quadratic form sum_j tr(D_j C D_j^T) that measures a change D of a weight (T, S, K).

    A patch-level C acts on the S * K columns of one matrix; a channel-level C acts on the S columns
    of each of the K kernel positions alone. ``rows`` brings a weight into either form.

    Attributes:
        matrix: C, damped, double precision: (S K, S K) or (S, S).
        channels: S.
        positions: K.
    """

    matrix: Tensor
    channels: int
    positions: int

    @property
    def is_patch_level(self) -> bool:
        """Whether C says how kernel positions go together."""
        return self.matrix.shape[0] == self.channels * self.positions

    def rows(self, weight: Tensor) -> Tensor:
        """Give a weight (T, S, K) as (T, J, N), C acting on N: (T, 1, S K) or (T, K, S)."""
        return weight.flatten(1).unsqueeze(1) if self.is_patch_level else weight.transpose(1, 2)

    def unrows(self, rows: Tensor) -> Tensor:
        """Undo ``rows``, for any number of channels: (R, J, N) gives (R, channels, K)."""
        if self.is_patch_level:
            return rows.reshape(rows.shape[0], -1, self.positions)
        return rows.transpose(1, 2)

    def basis(self, channels: Tensor) -> Tensor:
        """Give the columns (N, n) that channel directions (S, r) span: n = r K or r."""
        if not self.is_patch_level:
            return channels
        # A fresh copy: kron refuses the odd strides that a single column may carry.
        fresh = channels.clone(memory_format=torch.contiguous_format)
        return torch.kron(fresh, torch.eye(self.positions, dtype=channels.dtype))

    def separated(self) -> tuple[Tensor, Tensor]:
        """Give A (S, S) and B (K, K) whose Kronecker product is close to C.

        Three steps of the power iteration for the nearest Kronecker product; every iterate is
        positive definite because C is.

        Source:
            Van Loan and Pitsianis, Approximation with Kronecker products, 1993.
        """
        size, places = self.channels, self.positions
        if not self.is_patch_level:
            return self.matrix, torch.eye(places, dtype=self.matrix.dtype)
        blocks = self.matrix.reshape(size, places, size, places)
        inner = torch.eye(places, dtype=self.matrix.dtype)
        outer = torch.einsum("skrl,kl->sr", blocks, inner) / places
        for _ in range(3):
            inner = torch.einsum("skrl,sr->kl", blocks, outer) / outer.square().sum()
            outer = torch.einsum("skrl,kl->sr", blocks, inner) / inner.square().sum()
        return outer, inner


def metric_for(weight: Tensor, covariance: Tensor | None, ridge: float = RIDGE) -> Metric:
    """Give the metric for a weight (T, S, K), damped so that it is positive definite.

    Args:
        weight: The weight; only its shape is read.
        covariance: E[x x^T], (S K, S K) in ``F.unfold`` order or (S, S); None measures the weight.
        ridge: What is added to the diagonal, as a fraction of its mean.

    Raises:
        ValueError: The covariance has another shape or holds something that is not finite.
    """
    channels, positions = weight.shape[1], weight.shape[2]
    if covariance is None:
        return Metric(torch.eye(channels, dtype=torch.float64), channels, positions)
    width = channels * positions
    if tuple(covariance.shape) not in ((width, width), (channels, channels)):
        raise ValueError(
            f"covariance has shape {tuple(covariance.shape)}; expected ({width}, {width}) over "
            f"patches or ({channels}, {channels}) over channels"
        )
    return Metric(damped(covariance, ridge), channels, positions)


def damped(covariance: Tensor, ridge: float = RIDGE) -> Tensor:
    """Give a covariance plus ``ridge`` of its mean diagonal, in double precision.

    The ridge grows tenfold until the matrix is positive definite, which rounding in a float32
    covariance may ask for; a covariance of zeros becomes the identity.

    Args:
        covariance: (N, N).
        ridge: Fraction of the mean diagonal.

    Raises:
        ValueError: It is not square, or not finite.
    """
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"a covariance is square, got shape {tuple(covariance.shape)}")
    matrix = covariance.detach().to("cpu", torch.float64)
    matrix = (matrix + matrix.T) / 2
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError("the covariance holds values that are not finite; check the data")
    scale = float(matrix.diagonal().mean())
    identity = torch.eye(matrix.shape[0], dtype=torch.float64)
    if scale <= 0:
        return identity
    while ridge < 1:
        candidate = matrix + ridge * scale * identity
        if int(torch.linalg.cholesky_ex(candidate).info) == 0:
            return candidate
        ridge *= 10
    raise ValueError("the covariance is not positive semi-definite; it must be a mean of x x^T")
