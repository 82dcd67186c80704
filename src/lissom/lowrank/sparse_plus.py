"""Split a weight into a part on few input channels and a part of low rank on the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lissom.lowrank.alternating import leading
from lissom.lowrank.factorize import check_rank, double, like
from lissom.lowrank.metric import Metric, metric_for

_EXCHANGES = 8


@dataclass(frozen=True, slots=True)
class _Fit:
    """The best low-rank part for one choice of channels, and what it leaves."""

    taken: Tensor
    rest: Tensor
    directions: Tensor  # (T, rank), orthonormal
    error: float


def sparse_plus_svd(
    weight: Tensor, channels: int, rank: int, *, covariance: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split W = S + L, S on ``channels`` inputs alone, L of rank ``rank`` on all others.

    For given channels the split is optimal: what S reads, it can also use to stand in for what L
    misses, so that L is fitted to the others' covariance given the taken ones. Which channels S
    takes is found by exchange: those whose filters lie furthest outside the span of L's outputs,
    until the error falls no more.

    Args:
        weight: ``(T, S, kH, kW)``, or ``(T, S)``.
        channels: 1 to S - 1.
        rank: 1 to min(T, (S - channels) kH kW).
        covariance: E[x x^T] of the inputs, over patches or over channels; None measures the weight.

    Returns:
        ``order (S,)``, the taken channels first, each part ascending; ``sparse (T, channels, kH,
        kW)``; ``last (T, rank)``; ``first (rank, S - channels, kH, kW)``; or matrices for a matrix.

    Raises:
        ValueError: A shape or number does not fit, or a value is not finite.
    """
    if weight.ndim not in (2, 4):
        raise ValueError(f"needs (T, S) or (T, S, kH, kW), got {tuple(weight.shape)}")
    dense = double(weight).reshape(*weight.shape[:2], -1)
    check_rank("channels", channels, dense.shape[1] - 1)
    check_rank("rank", rank, min(len(dense), (dense.shape[1] - channels) * dense.shape[2]))
    metric = metric_for(dense, covariance)
    fit = _exchanged(dense, channels, rank, metric)
    rows = metric.rows(dense)
    inside, outside = _places(metric, fit.taken), _places(metric, fit.rest)
    first = torch.einsum("tr,tjn->rjn", fit.directions, rows[..., outside])
    missed = rows[..., outside] - torch.einsum("tr,rjn->tjn", fit.directions, first)
    predicted = torch.linalg.solve(
        metric.matrix[inside][:, inside], metric.matrix[inside][:, outside]
    )
    sparse = rows[..., inside] + missed @ predicted.T
    kernel = weight.shape[2:]
    return (
        torch.cat([fit.taken, fit.rest]).to(weight.device),
        like(weight, metric.unrows(sparse).reshape(len(dense), channels, *kernel)),
        like(weight, fit.directions),
        like(weight, metric.unrows(first).reshape(rank, -1, *kernel)),
    )


def compose_sparse_plus_svd(order: Tensor, sparse: Tensor, last: Tensor, first: Tensor) -> Tensor:
    """Add both parts to the dense weight, in the shape that ``sparse`` has with all channels."""
    taken = sparse.shape[1]
    dense = sparse.new_zeros(sparse.shape[0], len(order), *sparse.shape[2:])
    dense[:, order[:taken]] = sparse
    dense[:, order[taken:]] = torch.einsum("tr,r...->t...", last, first)
    return dense


def _exchanged(dense: Tensor, channels: int, rank: int, metric: Metric) -> _Fit:
    """Take the channels outside the span of the low-rank part, until that helps no more."""
    everything = torch.arange(dense.shape[1])
    start = _span(dense, everything, everything[:0], rank, metric)[0]
    best: _Fit | None = None
    directions = start
    for _ in range(_EXCHANGES):
        outside = dense - torch.einsum("tr,ur,usk->tsk", directions, directions, dense)
        strengths = _energies(outside, metric)
        taken = strengths.argsort(descending=True, stable=True)[:channels].sort().values
        rest = everything[~torch.isin(everything, taken)]
        directions, error = _span(dense, rest, taken, rank, metric)
        if best is not None and error >= best.error * (1 - 1e-9):
            break
        best = _Fit(taken, rest, directions, error)
    assert best is not None
    return best


def _span(
    dense: Tensor, rest: Tensor, taken: Tensor, rank: int, metric: Metric
) -> tuple[Tensor, float]:
    """Give the output directions of the best L, and the squared error that it leaves."""
    inside, outside = _places(metric, taken), _places(metric, rest)
    given = metric.matrix[outside][:, outside]
    if len(inside):
        cross = metric.matrix[outside][:, inside]
        given = given - cross @ torch.linalg.solve(metric.matrix[inside][:, inside], cross.T)
    rows = metric.rows(dense)[..., outside]
    energy = torch.einsum("tjn,nm,ujm->tu", rows, given, rows)
    directions = leading(energy, rank)
    kept = torch.einsum("tr,tu,ur->", directions, energy, directions)
    return directions, float(energy.trace() - kept)


def _energies(dense: Tensor, metric: Metric) -> Tensor:
    """Give what each input channel alone contributes to the squared output, (S,)."""
    if not metric.is_patch_level:
        return dense.square().sum(dim=(0, 2)) * metric.matrix.diagonal()
    size, places = metric.channels, metric.positions
    blocks = metric.matrix.reshape(size, places, size, places)
    own = blocks.diagonal(dim1=0, dim2=2)  # (K, K, S)
    return torch.einsum("tsk,kls,tsl->s", dense, own, dense)


def _places(metric: Metric, channels: Tensor) -> Tensor:
    """Give the rows of C that belong to channels."""
    if not metric.is_patch_level:
        return channels
    return (channels[:, None] * metric.positions + torch.arange(metric.positions)).flatten()
