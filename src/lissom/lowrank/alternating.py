"""Least squares under the metric of the layer's outputs, one factor at a time.

The weight is given as (T, S, K) in double precision, the metric as ``lissom.lowrank.metric`` says.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lissom.lowrank.metric import Metric

_SWEEPS = 20
_SETTLED = 1e-9  # relative gain of a sweep below which the alternation has converged
STEPS = 5  # of conjugate gradients in each solve; the alternation solves again
_SOLVED = 1e-16  # share of the slope at zero below which a least-squares problem counts as solved


def input_directions(dense: Tensor, rank_out: int, rank_in: int, metric: Metric) -> Tensor:
    """Alternate between both modes of the whitened weight (HOOI), from HOSVD.

    Args:
        dense: (T, S, K).
        rank_out: Rank of the output mode.
        rank_in: Rank of the input mode.
        metric: Its nearest Kronecker product is what whitens.

    Returns:
        Orthonormal input directions (S, rank_in).
    """
    (_, inverse_root), _ = metric.roots()
    white = whitened(dense, metric)
    if rank_out == dense.shape[0]:  # nothing to alternate with
        return torch.linalg.qr(inverse_root @ leading(mode_gram(white, 1), rank_in)).Q
    outputs = leading(mode_gram(white, 0), rank_out)
    inputs, captured = outputs, 0.0
    for _ in range(_SWEEPS):
        seen = torch.einsum("tsk,ta->ask", white, outputs)
        inputs = leading(mode_gram(seen, 1), rank_in)
        kept = torch.einsum("tsk,sb->tbk", white, inputs)
        gram = mode_gram(kept, 0)
        outputs = leading(gram, rank_out)
        energy = float(torch.einsum("ta,tu,ua->", outputs, gram, outputs))
        if energy - captured <= _SETTLED * energy:
            break
        captured = energy
    return torch.linalg.qr(inverse_root @ inputs).Q


def reduced_rank_regression(
    dense: Tensor, inputs: Tensor, rank_out: int, metric: Metric
) -> tuple[Tensor, Tensor]:
    """Give the best output factor (T, rank_out) and core (rank_out, rank_in, K) for given inputs.

    With z = P^T x for inputs P: M = W C P (P^T C P)^-1 regresses the output on z, and the leading
    directions of M (P^T C P) M^T are the best outputs of a lower rank.

    Args:
        dense: (T, S, K).
        inputs: P (S, rank_in), of full column rank.
        rank_out: Rank of the output mode.
        metric: C.
    """
    cross, gram = metric.onto(inputs)  # (N, n), (n, n)
    factor = torch.linalg.cholesky(gram)
    target = (metric.rows(dense) @ cross).flatten(0, 1)  # (T J, n)
    white = torch.linalg.solve_triangular(factor, target.T, upper=False).T
    seen = white.reshape(dense.shape[0], -1)
    outputs = leading(seen @ seen.T, rank_out)
    solved = torch.linalg.solve_triangular(factor.T, white.T, upper=True).T
    shaped = solved.reshape(dense.shape[0], -1, cross.shape[1])  # (T, J, n)
    core = torch.einsum("ta,tjn->ajn", outputs, shaped)
    return outputs, metric.unrows(core)


def fit_inputs(inputs: Tensor, core: Tensor, pulled: Tensor, metric: Metric) -> Tensor:
    """Improve V (S, rank_in) in min E||(target - core x V^T) x||^2 for fixed core and target.

    Preconditioned by the solution under the nearest Kronecker product to C.

    Args:
        inputs: V to start from; the error never rises.
        core: (A, rank_in, K).
        pulled: target C, (A, S, K).
        metric: C.
    """
    inner, left = metric.separated()[1], metric.outer_inverse
    right = torch.linalg.pinv(torch.einsum("abk,kl,acl->bc", core, inner, core), hermitian=True)
    return conjugate_gradients(
        inputs,
        pulled,
        metric,
        lambda factor: torch.einsum("abk,sb->ask", core, factor),
        lambda rows: torch.einsum("ask,abk->sb", rows, core),
        lambda residual: left @ residual @ right,
    )


def conjugate_gradients(
    start: Tensor,
    pulled: Tensor,
    metric: Metric,
    expand: Callable[[Tensor], Tensor],
    project: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
) -> Tensor:
    """Improve a factor x in min E||(target - expand(x)) input||^2; the error never rises.

    Args:
        start: x to start from.
        pulled: target C, for the weight to approximate (A, S, K).
        metric: C, over patches.
        expand: The linear map from the factor to a weight (A, S, K).
        project: Its transpose.
        precondition: A symmetric positive map on factors, close to the inverse of the problem's.

    Source:
        Hestenes and Stiefel, J. Res. Nat. Bur. Stand. 49, 1952.
    """

    def curved_by(factor: Tensor) -> Tensor:
        return project(metric.pulled(expand(factor)))

    wanted = project(pulled)
    solved = _SOLVED * float((wanted * precondition(wanted)).sum())
    factor, residual = start, wanted - curved_by(start)
    direction = step = precondition(residual)
    slope = float((residual * step).sum())
    for _ in range(STEPS):
        if slope <= solved:
            break
        curved = curved_by(direction)
        length = slope / float((direction * curved).sum())
        factor = factor + length * direction
        residual = residual - length * curved
        step = precondition(residual)
        previous, slope = slope, float((residual * step).sum())
        direction = step + (slope / previous) * direction
    return factor


def mode_gram(tensor: Tensor, mode: int) -> Tensor:
    """Give the Gram matrix of the unfolding along ``mode``."""
    unfolded = tensor.movedim(mode, 0).flatten(1)
    return unfolded @ unfolded.T


def whitened(dense: Tensor, metric: Metric) -> Tensor:
    """Give the weight (T, S, K) whose own error is that of the output, nearly.

    The metric's nearest Kronecker product is what is taken in; exact for a channel-level one.
    """
    (outer, _), (inner, _) = metric.roots()
    return torch.einsum("tsk,sr,kl->trl", dense, outer, inner)


def leading(symmetric: Tensor, count: int) -> Tensor:
    """Give the eigenvectors of the ``count`` largest eigenvalues, largest first, as columns."""
    return torch.linalg.eigh(symmetric).eigenvectors.flip(1)[:, :count].contiguous()
