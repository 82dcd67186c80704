"""How ranks are chosen: relative, by energy, by a target cost, never above break-even."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lissom.lowrank.metric import metric_for
from lissom.plan.alignment import aligned_counts, step_for
from lissom.plan.cost import Cost
from lissom.plan.predict import LayerShape, channel_svd_cost, dense_cost, tucker2_cost

Unit = Literal["macs", "params"]


def align(count: int, full: int, round_to: int | str) -> int:
    """Give the admissible count nearest to ``count`` (the larger of two that are equally near).

    Args:
        count: Channels or rank wanted.
        full: How many there are; always admissible itself.
        round_to: ``auto``, or a step; 1 leaves counts free.

    Raises:
        ValueError: ``round_to`` means nothing.
    """
    step = step_for(full, round_to)
    nearest = step * max(1, (2 * count + step) // (2 * step))
    return min(nearest, full)


def relative_rank(fraction: float, full: int, round_to: int | str = 1) -> int:
    """Give the aligned rank that is ``fraction`` of the full one.

    Args:
        fraction: In (0, 1].
        full: Full rank.
        round_to: As for ``align``.

    Raises:
        ValueError: An argument is out of range.
    """
    _check_fraction(fraction)
    return align(max(1, round(fraction * full)), full, round_to)


def energy_rank(energies: Tensor, fraction: float) -> int:
    """Give the smallest rank whose directions hold a fraction of the energy.

    Args:
        energies: Squared singular values, in any order.
        fraction: In (0, 1].

    Raises:
        ValueError: ``fraction`` is out of range.
    """
    _check_fraction(fraction)
    held = energies.double().clamp_min(0).sort(descending=True).values.cumsum(0)
    # Rounding of the sum must not ask for one direction more.
    wanted = fraction * float(held[-1]) * (1 - 1e-12)
    return min(int(torch.searchsorted(held, wanted)) + 1, len(energies))


def mode_energies(weight: Tensor, mode: int, *, covariance: Tensor | None = None) -> Tensor:
    """Give the squared singular values of a kernel unfolded along its output or input channels.

    Args:
        weight: ``(T, S, kH, kW)`` or ``(T, S)``.
        mode: 0 for outputs, 1 for inputs.
        covariance: As in ``lissom.lowrank.factorize``; the energies are then those of the output
            (mode 1 under the nearest Kronecker product).

    Returns:
        T or S values, largest first.

    Raises:
        ValueError: ``mode`` is neither 0 nor 1, or the covariance does not fit.
    """
    if mode not in (0, 1):
        raise ValueError(f"mode={mode}, expected 0 (outputs) or 1 (inputs)")
    dense = weight.detach().to("cpu", torch.float64).reshape(*weight.shape[:2], -1)  # (T, S, K)
    metric = metric_for(dense, covariance)
    if mode == 0:
        rows = metric.rows(dense)
        gram = torch.einsum("tjn,nm,ujm->tu", rows, metric.matrix, rows)
        return torch.linalg.eigvalsh(gram).flip(0).clamp_min(0)
    outer, inner = metric.separated()
    # The eigenvalues of A^1/2 G A^1/2 are those of L^T G L for A = L L^T.
    gram = torch.einsum("tsk,kl,trl->sr", dense, inner, dense)
    lower = torch.linalg.cholesky(outer)
    return torch.linalg.eigvalsh(lower.T @ gram @ lower).flip(0).clamp_min(0)


def tucker2_ranks_for(
    shape: LayerShape, limit: int, unit: Unit, round_to: int | str = 1
) -> tuple[int, int] | None:
    """Give the largest Tucker-2 ranks that cost at most ``limit``, in about equal proportion.

    Args:
        shape: The layer.
        limit: The most that the factors may cost together.
        unit: ``macs`` or ``params``.
        round_to: Alignment of both ranks.

    Returns:
        (rank_in, rank_out), or None if even the smallest cost more.
    """
    inputs = aligned_counts(shape.in_channels, round_to)
    outputs = aligned_counts(shape.out_channels, round_to)
    fractions = sorted(
        {rank / inputs[-1] for rank in inputs} | {rank / outputs[-1] for rank in outputs}
    )

    def pair(fraction: float) -> tuple[int, int]:
        return _at_most(inputs, fraction), _at_most(outputs, fraction)

    def price(fraction: float) -> int:
        return _price(tucker2_cost(shape, *pair(fraction)), unit)

    fits = bisect_right(fractions, limit, key=price)
    return pair(fractions[fits - 1]) if fits else None


def channel_svd_rank_for(
    shape: LayerShape, limit: int, unit: Unit, round_to: int | str = 1
) -> int | None:
    """Give the largest rank of a channel SVD that costs at most ``limit``; None if none does.

    Args:
        shape: The layer.
        limit: The most that both factors may cost together.
        unit: ``macs`` or ``params``.
        round_to: Alignment of the rank.
    """
    ranks = aligned_counts(full_svd_rank(shape), round_to)

    def price(rank: int) -> int:
        return _price(channel_svd_cost(shape, rank), unit)

    fits = bisect_right(ranks, limit, key=price)
    return ranks[fits - 1] if fits else None


def tucker2_break_even(
    shape: LayerShape, unit: Unit, round_to: int | str = 1
) -> tuple[int, int] | None:
    """Give the largest ranks that are cheaper than the whole layer; None if none are."""
    return tucker2_ranks_for(shape, _price(dense_cost(shape), unit) - 1, unit, round_to)


def channel_svd_break_even(shape: LayerShape, unit: Unit, round_to: int | str = 1) -> int | None:
    """Give the largest rank that is cheaper than the whole layer; None if none is."""
    return channel_svd_rank_for(shape, _price(dense_cost(shape), unit) - 1, unit, round_to)


def full_svd_rank(shape: LayerShape) -> int:
    """Give the rank of the weight as a matrix (T, S K), the most a channel SVD can have."""
    return min(shape.out_channels, shape.in_channels * shape.kernel)


def _at_most(ranks: Sequence[int], fraction: float) -> int:
    """Give the largest admissible rank within ``fraction`` of the full one, else the smallest."""
    return ranks[max(0, bisect_right(ranks, fraction * ranks[-1] + 1e-9) - 1)]


def _price(cost: Cost, unit: Unit) -> int:
    return cost.macs if unit == "macs" else cost.params


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction}, expected more than 0 and at most 1")
