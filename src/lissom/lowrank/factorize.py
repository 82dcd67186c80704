"""Factor weights along whole modes, with the least error in the weight or in the layer's output.

Pure mathematics: tensors in, tensors out. Everything is computed in double precision on the CPU and
is deterministic for a given number of threads. With a covariance C = E[x x^T] of the layer's inputs
the error that is minimised is E||(W - W^) x||^2 = tr((W - W^) C (W - W^)^T), C damped as in
``lissom.lowrank.metric``; without one it is ||W - W^||^2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lissom.lowrank.alternating import (
    fit_inputs,
    input_directions,
    leading,
    reduced_rank_regression,
)
from lissom.lowrank.metric import Metric, metric_for

# On ResNet-20 these lower Tucker-2's output error by 8 %; ten times as many give 9 %.
_ROUNDS = 3


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
    check_rank("rank_out", rank_out, weight.shape[0])
    check_rank("rank_in", rank_in, weight.shape[1])
    dense = double(weight).flatten(2)  # (T, S, K)
    outputs, core, inputs = _two_modes(dense, rank_out, rank_in, metric_for(dense, covariance))
    shaped = core.reshape(rank_out, rank_in, *weight.shape[2:])
    return like(weight, outputs), like(weight, shaped), like(weight, inputs.T)


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
    matrix = double(weight).flatten(1)  # (T, S K)
    check_rank("rank", rank, min(matrix.shape))
    dense = matrix.reshape(weight.shape[0], weight.shape[1], -1)
    metric = metric_for(dense, covariance)
    rows = metric.rows(dense)
    energy = torch.einsum("tjn,nm,ujm->tu", rows, metric.matrix, rows)
    last = leading(energy, rank)
    return like(weight, last), like(weight, (last.T @ matrix).reshape(rank, *weight.shape[1:]))


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


def spatial_svd(
    weight: Tensor, rank: int, *, covariance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Factor a kernel into a vertical and a horizontal one: W[t,s,i,j] ~ sum_r last first.

    The SVD of the matrix (S kH, T kW), under the nearest Kronecker product to C; ``last`` is then
    the regression on C itself. For a patch-level C both alternate as in ``tucker2``, whose input
    mode the pairs (s, i) take.

    Args:
        weight: ``(T, S, kH, kW)``.
        rank: 1 to min(S kH, T kW).
        covariance: As for ``tucker2``.

    Returns:
        ``last (T, rank, kW)`` and ``first (rank, S, kH)`` with orthonormal rows.

    Raises:
        ValueError: A shape or rank does not fit, or a value is not finite.

    Source:
        Tai et al., ICLR 2016, arXiv:1511.06067, Sec. 3 (without a covariance).
    """
    if weight.ndim != 4:
        raise ValueError(f"spatial_svd needs a kernel (T, S, kH, kW), got {tuple(weight.shape)}")
    outputs, channels, height, width = weight.shape
    check_rank("rank", rank, min(channels * height, outputs * width))
    dense = double(weight)
    metric = metric_for(dense.flatten(2), covariance).over_columns(height)
    last, core, inputs = _two_modes(
        dense.reshape(outputs, channels * height, width), outputs, rank, metric
    )
    first = inputs.T.reshape(rank, channels, height)
    return like(weight, torch.einsum("ta,arj->trj", last, core)), like(weight, first)


def tensor_train(
    weight: Tensor, ranks: tuple[int, int, int], *, covariance: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Factor a kernel into 1x1, kH x 1, 1 x kW and 1x1.

    Tucker-2, then the spatial SVD of its core under the covariance of what the core reads; last,
    ``horizontal`` and ``last`` solve the reduced-rank regression for the first two.

    Args:
        weight: ``(T, S, kH, kW)``.
        ranks: rank_in (1 to S), rank_middle (1 to the smaller of rank_in kH and rank_out kW),
            rank_out (1 to T).
        covariance: As for ``tucker2``.

    Returns:
        ``last (T, rank_out)``, ``horizontal (rank_out, rank_middle, kW)``, ``vertical (rank_middle,
        rank_in, kH)``, ``first (rank_in, S)``.

    Raises:
        ValueError: A shape or rank does not fit, or a value is not finite.

    Source:
        Oseledets, SIAM J. Sci. Comput. 33, 2011, for the format.
    """
    rank_in, rank_middle, rank_out = ranks
    _, core, first = tucker2(double(weight), rank_out, rank_in, covariance=covariance)
    height = weight.shape[2]
    check_rank("rank_middle", rank_middle, min(rank_in * height, rank_out * weight.shape[3]))
    dense = double(weight).flatten(2)
    metric = metric_for(dense, covariance)
    basis = metric.basis(first.T)
    _, vertical = spatial_svd(core, rank_middle, covariance=basis.T @ metric.matrix @ basis)
    # Orthonormal columns: both factors' rows are.
    seen = torch.einsum("bs,mbi->sim", first, vertical).flatten(0, 1)  # (S kH, rank_middle)
    columns = dense.reshape(weight.shape[0], seen.shape[0], -1)
    last, horizontal = reduced_rank_regression(columns, seen, rank_out, metric.over_columns(height))
    return (
        like(weight, last),
        like(weight, horizontal),
        like(weight, vertical),
        like(weight, first),
    )


def compose_tucker2(last: Tensor, core: Tensor, first: Tensor) -> Tensor:
    """Give the dense kernel (T, S, kH, kW) that Tucker-2 factors stand for."""
    return torch.einsum("ta,abhw,bs->tshw", last, core, first)


def compose_svd(last: Tensor, first: Tensor) -> Tensor:
    """Give the dense weight (T, S, ...) that SVD factors stand for."""
    return torch.tensordot(last, first, dims=1)


def _two_modes(
    dense: Tensor, rank_out: int, rank_in: int, metric: Metric
) -> tuple[Tensor, Tensor, Tensor]:
    """Give outputs (T, rank_out), core (rank_out, rank_in, K) and inputs (S, rank_in)."""
    inputs = input_directions(dense, rank_out, rank_in, metric)
    if metric.is_patch_level and rank_in < dense.shape[1]:
        pulled = metric.pulled(dense)
        for _ in range(_ROUNDS):
            outputs, core = reduced_rank_regression(dense, inputs, rank_out, metric)
            target = torch.einsum("tsk,ta->ask", pulled, outputs)
            inputs = torch.linalg.qr(fit_inputs(inputs, core, target, metric)).Q
    outputs, core = reduced_rank_regression(dense, inputs, rank_out, metric)
    return outputs, core, inputs


def double(weight: Tensor) -> Tensor:
    """Give a weight in double precision on the CPU.

    Raises:
        ValueError: A value is not finite.
    """
    values = weight.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(values).all()):
        raise ValueError("the weight holds values that are not finite; load sound weights")
    return values


def like(weight: Tensor, values: Tensor) -> Tensor:
    """Give values in the type and on the device of ``weight``."""
    return values.to(weight.device, weight.dtype).contiguous()


def check_rank(name: str, rank: int, highest: int) -> None:
    """Refuse a rank out of range.

    Raises:
        ValueError: It is not 1 to ``highest``.
    """
    if not 1 <= rank <= highest:
        raise ValueError(f"{name}={rank}, expected 1 to {highest}")
