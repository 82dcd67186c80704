"""What error a factorization minimises: that of the weight, or of the layer's output."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

RIDGE = 1e-4  # of the covariance's mean diagonal; keeps directions that the data never showed


@dataclass(frozen=True)
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

    def pulled(self, weight: Tensor) -> Tensor:
        """Give W C in the shape of W, (T, S, K)."""
        return self.unrows(self.rows(weight) @ self.matrix)

    def basis(self, channels: Tensor) -> Tensor:
        """Give the columns (N, n) that channel directions (S, r) span: n = r K or r."""
        if not self.is_patch_level:
            return channels
        # A fresh copy: kron refuses the odd strides that a single column may carry.
        fresh = channels.clone(memory_format=torch.contiguous_format)
        return torch.kron(fresh, torch.eye(self.positions, dtype=channels.dtype))

    def onto(self, channels: Tensor) -> tuple[Tensor, Tensor]:
        """Give C P (N, n) and P^T C P (n, n) for the columns P that ``basis`` gives.

        P itself, mostly zeros, is never built.

        Args:
            channels: Channel directions (S, r).
        """
        if not self.is_patch_level:
            cross = self.matrix @ channels
            return cross, channels.T @ cross
        size = self.matrix.shape[0]
        rows = self.matrix.reshape(size, self.channels, self.positions)
        cross = (channels.T @ rows).flatten(1)  # (N, r K)
        inner = channels.T @ cross.reshape(self.channels, -1)
        return cross, inner.reshape(cross.shape[1], -1)

    def over_columns(self, height: int) -> Metric:
        """Give the same metric for a weight (T, S kH, kW), whose channels are the pairs (s, i).

        Args:
            height: kH, for a weight (T, S, kH kW).
        """
        if height not in self._by_height:
            matrix, channels = self.matrix, self.channels * height
            if not self.is_patch_level:
                matrix = torch.kron(matrix, torch.eye(height, dtype=matrix.dtype))
            self._by_height[height] = Metric(matrix, channels, self.positions // height)
        return self._by_height[height]

    @cached_property
    def _by_height(self) -> dict[int, Metric]:
        return {}

    def separated(self) -> tuple[Tensor, Tensor]:
        """Give A (S, S) and B (K, K) whose Kronecker product is close to C.

        Three steps of the power iteration for the nearest Kronecker product; every iterate is
        positive definite because C is.

        Source:
            Van Loan and Pitsianis, Approximation with Kronecker products, 1993.
        """
        return self._separated

    @cached_property
    def outer_inverse(self) -> Tensor:
        """The inverse of A of ``separated``."""
        return torch.linalg.inv(self.separated()[0])

    def roots(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Give the square root of A and its inverse, and the same of B."""
        return self._roots

    @cached_property
    def _roots(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        outer, inner = self.separated()
        return square_roots(outer), square_roots(inner)

    @cached_property
    def _separated(self) -> tuple[Tensor, Tensor]:
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

    Asked again for the same covariance, it gives the same metric, with what is known of it: a layer
    is factorized at many ranks, one after another.

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
    return _LATEST.metric(covariance, channels, positions, ridge)


class _Latest:
    """The metric that was made last, while its covariance lives and stays as it is."""

    def __init__(self) -> None:
        self._facts: tuple[int, ...] = ()
        self._ridge = 0.0
        self._covariance: weakref.ref[Tensor] | None = None
        self._metric: Metric | None = None

    def metric(self, covariance: Tensor, channels: int, positions: int, ridge: float) -> Metric:
        """Give the metric."""
        if covariance.is_inference():  # whether such a tensor has changed is not known
            return Metric(damped(covariance, ridge), channels, positions)
        facts = (covariance._version, channels, positions)
        same = self._covariance is not None and self._covariance() is covariance
        if self._metric is None or not same or (self._facts, self._ridge) != (facts, ridge):
            self._metric = Metric(damped(covariance, ridge), channels, positions)
            self._facts, self._ridge = facts, ridge
            self._covariance = weakref.ref(covariance, self._forget)
        return self._metric

    def _forget(self, gone: weakref.ref[Tensor]) -> None:
        if self._covariance is gone:
            self._metric = self._covariance = None


_LATEST = _Latest()


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


def square_roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Give the square root of a positive definite matrix, and the inverse of the root."""
    values, vectors = torch.linalg.eigh(matrix)
    roots = values.clamp_min(values[-1] * 1e-12).sqrt()
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T
