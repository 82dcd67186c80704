"""Factor weights: Tucker-2 and SVD, of the least error in the weight or in the layer's output.

Pure mathematics: tensors in, tensors out. Everything is computed in double precision on the CPU and
is deterministic for a given number of threads. With a covariance C = E[x x^T] of the layer's inputs
the error that is minimised is E||(W - W^) x||^2 = tr((W - W^) C (W - W^)^T), C damped as in
``lissom.lowrank.metric``; without one it is ||W - W^||^2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lissom.lowrank.metric import Metric, metric_for

_SWEEPS = 20
_SETTLED = 1e-9  # relative gain of a sweep below which the alternation has converged
# On ResNet-20 these lower the output error by 8 %; ten times as many give 9 %.
_ROUNDS, _STEPS = 3, 5
_SOLVED = 1e-16  # share of the energy below which a least-squares problem counts as solved


def tucker2(
    weight: Tensor, rank_out: int, rank_in: int, *, covariance: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Factor a convolution kernel along its two channel modes: W ~ last x core x first.

    The input factor starts from HOSVD and alternating least squares (HOOI) under the nearest
    Kronecker product to C; given it, output factor and core solve the reduced-rank regression on C
    itself in closed form. For a patch-level C both alternate with least squares for the input
    factor on C itself; no step raises the error. Full ranks give the weight back. ``last`` has
    orthonormal columns and ``first`` orthonormal rows.

    Args:
        weight: Kernel of shape ``(T, S, kH, kW)``.
        rank_out: Rank of the output mode, 1 to T.
        rank_in: Rank of the input mode, 1 to S.
        covariance: ``(S kH kW, S kH kW)`` in ``F.unfold`` order, or ``(S, S)``; None for the
            weight's own error.

    Returns:
        ``last (T, rank_out)``, ``core (rank_out, rank_in, kH, kW)``, ``first (rank_in, S)``, of the
        type and on the device of ``weight``.

    Raises:
        ValueError: A shape or rank does not fit, or a value is not finite.

    Source:
        Kim et al., ICLR 2016, arXiv:1511.06530, Sec. 3; De Lathauwer et al., SIAM J. Matrix Anal.
        Appl. 21, 2000 (HOOI); Izenman, J. Multivariate Anal. 5, 1975 (reduced-rank regression).
    """
    if weight.ndim != 4:
        raise ValueError(f"tucker2 needs a kernel (T, S, kH, kW), got {tuple(weight.shape)}")
    _check_rank("rank_out", rank_out, weight.shape[0])
    _check_rank("rank_in", rank_in, weight.shape[1])
    dense = _double(weight).flatten(2)  # (T, S, K)
    metric = metric_for(dense, covariance)
    inputs = _input_directions(dense, rank_out, rank_in, metric)  # (S, rank_in)
    if covariance is not None and metric.is_patch_level and rank_in < weight.shape[1]:
        for _ in range(_ROUNDS):
            outputs, core = _reduced_rank_regression(dense, inputs, rank_out, metric)
            target = torch.einsum("tsk,ta->ask", dense, outputs)
            inputs = torch.linalg.qr(_fit_inputs(inputs, core, target, metric)).Q
    outputs, core = _reduced_rank_regression(dense, inputs, rank_out, metric)
    shaped = core.reshape(rank_out, rank_in, *weight.shape[2:])
    return _like(weight, outputs), _like(weight, shaped), _like(weight, inputs.T)


def channel_svd(
    weight: Tensor, rank: int, *, covariance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Factor a kernel, or a matrix, along its output mode: W ~ last x first. Optimal.

    Args:
        weight: ``(T, S, kH, kW)``, or ``(T, S)``.
        rank: 1 to min(T, S kH kW).
        covariance: As for ``tucker2``.

    Returns:
        ``last (T, rank)`` with orthonormal columns and ``first (rank, S, kH, kW)`` or ``(rank,
        S)``.

    Raises:
        ValueError: A shape or rank does not fit, or a value is not finite.

    Source:
        Zhang et al., TPAMI 2016, arXiv:1505.06798, Sec. 3.1.
    """
    if weight.ndim not in (2, 4):
        raise ValueError(f"channel_svd needs (T, S) or (T, S, kH, kW), got {tuple(weight.shape)}")
    matrix = _double(weight).flatten(1)  # (T, S K)
    _check_rank("rank", rank, min(matrix.shape))
    dense = matrix.reshape(weight.shape[0], weight.shape[1], -1)
    metric = metric_for(dense, covariance)
    rows = metric.rows(dense)
    energy = torch.einsum("tjn,nm,ujm->tu", rows, metric.matrix, rows)
    last = _leading(energy, rank)
    return _like(weight, last), _like(weight, (last.T @ matrix).reshape(rank, *weight.shape[1:]))


def linear_svd(
    weight: Tensor, rank: int, *, covariance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Factor the weight (T, S) of a linear layer; ``channel_svd`` without a kernel.

    Args:
        weight: ``(T, S)``.
        rank: 1 to min(T, S).
        covariance: ``(S, S)``, or None.

    Returns:
        ``last (T, rank)`` and ``first (rank, S)``.

    Raises:
        ValueError: A shape or rank does not fit, or a value is not finite.
    """
    if weight.ndim != 2:
        raise ValueError(f"linear_svd needs a matrix (T, S), got {tuple(weight.shape)}")
    return channel_svd(weight, rank, covariance=covariance)


def compose_tucker2(last: Tensor, core: Tensor, first: Tensor) -> Tensor:
    """Give the dense kernel (T, S, kH, kW) that Tucker-2 factors stand for."""
    return torch.einsum("ta,abhw,bs->tshw", last, core, first)


def compose_svd(last: Tensor, first: Tensor) -> Tensor:
    """Give the dense weight (T, S, ...) that SVD factors stand for."""
    return torch.tensordot(last, first, dims=1)


def _input_directions(dense: Tensor, rank_out: int, rank_in: int, metric: Metric) -> Tensor:
    """Alternate between both modes of the whitened weight; give orthonormal (S, rank_in)."""
    outer, inner = metric.separated()
    root, inverse_root = _square_roots(outer)
    inner_root, _ = _square_roots(inner)
    white = torch.einsum("tsk,sr,kl->trl", dense, root, inner_root)
    outputs = _leading(_gram(white, 0), rank_out)
    inputs, captured = outputs, 0.0
    for _ in range(_SWEEPS):
        seen = torch.einsum("tsk,ta->ask", white, outputs)
        inputs = _leading(_gram(seen, 1), rank_in)
        kept = torch.einsum("tsk,sb->tbk", white, inputs)
        gram = _gram(kept, 0)
        outputs = _leading(gram, rank_out)
        energy = float(torch.einsum("ta,tu,ua->", outputs, gram, outputs))
        if energy - captured <= _SETTLED * energy:
            break
        captured = energy
    return torch.linalg.qr(inverse_root @ inputs).Q


def _reduced_rank_regression(
    dense: Tensor, inputs: Tensor, rank_out: int, metric: Metric
) -> tuple[Tensor, Tensor]:
    """Give the best output factor (T, rank_out) and core (rank_out, rank_in, K) for given inputs.

    With z = P^T x: M = W C P (P^T C P)^-1 regresses the output on z, and the leading directions of
    M (P^T C P) M^T are the best outputs of a lower rank.
    """
    basis = metric.basis(inputs)  # (N, n)
    cross = metric.matrix @ basis
    factor = torch.linalg.cholesky(basis.T @ cross)
    target = (metric.rows(dense) @ cross).flatten(0, 1)  # (T J, n)
    white = torch.linalg.solve_triangular(factor, target.T, upper=False).T
    seen = white.reshape(dense.shape[0], -1)
    outputs = _leading(seen @ seen.T, rank_out)
    solved = torch.linalg.solve_triangular(factor.T, white.T, upper=True).T
    shaped = solved.reshape(dense.shape[0], -1, basis.shape[1])  # (T, J, n)
    core = torch.einsum("ta,tjn->ajn", outputs, shaped)
    return outputs, metric.unrows(core)


def _fit_inputs(inputs: Tensor, core: Tensor, target: Tensor, metric: Metric) -> Tensor:
    """Improve V (S, rank_in) in min E||(target - core x V^T) x||^2 for fixed core and target.

    Conjugate gradients from the given V, so the error never rises; preconditioned by the solution
    under the nearest Kronecker product to C.
    """
    outer, inner = metric.separated()
    left = torch.linalg.inv(outer)
    right = torch.linalg.pinv(torch.einsum("abk,kl,acl->bc", core, inner, core), hermitian=True)

    def gradient(rows: Tensor) -> Tensor:
        seen = (rows.flatten(1) @ metric.matrix).reshape(rows.shape)
        return torch.einsum("ask,abk->sb", seen, core)

    residual = gradient(target - torch.einsum("abk,sb->ask", core, inputs))
    direction = step = left @ residual @ right
    slope = float((residual * step).sum())
    solved = _SOLVED * float((target.flatten(1) @ metric.matrix * target.flatten(1)).sum())
    for _ in range(_STEPS):
        if slope <= solved:
            break
        curved = gradient(torch.einsum("abk,sb->ask", core, direction))
        length = slope / float((direction * curved).sum())
        inputs = inputs + length * direction
        residual = residual - length * curved
        step = left @ residual @ right
        previous, slope = slope, float((residual * step).sum())
        direction = step + (slope / previous) * direction
    return inputs


def _gram(tensor: Tensor, mode: int) -> Tensor:
    unfolded = tensor.movedim(mode, 0).flatten(1)
    return unfolded @ unfolded.T


def _leading(symmetric: Tensor, count: int) -> Tensor:
    """Give the eigenvectors of the ``count`` largest eigenvalues, largest first, as columns."""
    return torch.linalg.eigh(symmetric).eigenvectors.flip(1)[:, :count].contiguous()


def _square_roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Give the square root of a positive definite matrix and its inverse."""
    values, vectors = torch.linalg.eigh(matrix)
    roots = values.clamp_min(values[-1] * 1e-12).sqrt()
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T


def _double(weight: Tensor) -> Tensor:
    values = weight.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(values).all()):
        raise ValueError("the weight holds values that are not finite; load sound weights")
    return values


def _like(weight: Tensor, values: Tensor) -> Tensor:
    return values.to(weight.device, weight.dtype).contiguous()


def _check_rank(name: str, rank: int, highest: int) -> None:
    if not 1 <= rank <= highest:
        raise ValueError(f"{name}={rank}, expected 1 to {highest}")
