"""Choose both Tucker ranks together: the least output error that a cost allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lissom.lowrank.alternating import leading, mode_gram, whitened
from lissom.lowrank.factorize import compose_tucker2, double, tucker2
from lissom.lowrank.metric import Metric, metric_for

Fits = Callable[[int, int], bool]

_TRIED = 3  # pairs, best predicted ones first, whose true error decides


def best_tucker2_ranks(
    weight: Tensor, fits: Fits, *, covariance: Tensor | None = None
) -> tuple[int, int] | None:
    """Give the (rank_in, rank_out) that err least among those that fit.

    For each rank_in only the largest rank_out that fits is of interest. Their errors are predicted
    all at once from the energy of the HOSVD core, sum of G[:rank_out, :rank_in]^2 under the nearest
    Kronecker product to C; the best few are then factorized and measured under C itself.

    Args:
        weight: ``(T, S, kH, kW)``.
        fits: Says whether (rank_in, rank_out) is cheap enough; monotone.
        covariance: As in ``lissom.lowrank.factorize``.

    Returns:
        The ranks, or None if even (1, 1) does not fit.

    Raises:
        ValueError: The covariance does not belong to the weight, or a value is not finite.

    Source:
        De Lathauwer et al., SIAM J. Matrix Anal. Appl. 21, 2000, property 10 (the prediction).
    """
    dense = double(weight).flatten(2)
    frontier = _frontier(dense, fits)
    if not frontier:
        return None
    metric = metric_for(dense, covariance)
    held = _held_energy(dense, metric)
    frontier.sort(key=lambda ranks: -float(held[ranks[1] - 1, ranks[0] - 1]))

    def error(ranks: tuple[int, int]) -> float:
        last, core, first = tucker2(double(weight), ranks[1], ranks[0], covariance=covariance)
        change = metric.rows(dense - compose_tucker2(last, core, first).flatten(2))
        return float(torch.einsum("tjn,nm,tjm->", change, metric.matrix, change))

    return min(frontier[:_TRIED], key=error)


def predicted_tucker2_ranks(
    weight: Tensor, fits: Sequence[Fits], *, covariance: Tensor | None = None
) -> tuple[tuple[int, int] | None, ...]:
    """Give, for each of several bounds, the ranks that are predicted to err least.

    As ``best_tucker2_ranks``, but one decomposition serves all bounds, and nothing is factorized.

    Args:
        weight: ``(T, S, kH, kW)``.
        fits: Each says whether (rank_in, rank_out) is cheap enough; monotone.
        covariance: As in ``lissom.lowrank.factorize``.

    Raises:
        ValueError: The covariance does not belong to the weight, or a value is not finite.
    """
    dense = double(weight).flatten(2)
    held = _held_energy(dense, metric_for(dense, covariance)).tolist()
    return tuple(
        max(_frontier(dense, one), key=lambda r: held[r[1] - 1][r[0] - 1], default=None)
        for one in fits
    )


def _frontier(dense: Tensor, fits: Fits) -> list[tuple[int, int]]:
    """List for each rank_in the largest rank_out that fits; without those where none does."""
    outputs, inputs = dense.shape[:2]
    frontier = []
    rank_out = outputs
    for rank_in in range(1, inputs + 1):
        while rank_out and not fits(rank_in, rank_out):
            rank_out -= 1
        if rank_out == 0:
            break
        frontier.append((rank_in, rank_out))
    return frontier


def _held_energy(dense: Tensor, metric: Metric) -> Tensor:
    """Give the energy (T, S) of the HOSVD core up to each pair of ranks (rank_out, rank_in)."""
    white = whitened(dense, metric)
    left, right = (leading(mode_gram(white, mode), white.shape[mode]) for mode in (0, 1))
    core = torch.einsum("tsk,ta,sb->abk", white, left, right)
    return core.square().sum(2).cumsum(0).cumsum(1)
