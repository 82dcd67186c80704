"""What can be done to a layer: ranks by fraction, so that they follow the channels that remain."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from lissom.lowrank.rank import (
    channel_svd_rank_for,
    full_svd_rank,
    relative_rank,
    tucker2_ranks_for,
)
from lissom.plan.cost import Cost
from lissom.plan.predict import LayerShape, channel_svd_cost, dense_cost, tucker2_cost
from lissom.search.price import LowRank

TUCKER2 = "tucker2"
CHANNEL_SVD = "channel_svd"
FAMILIES = (TUCKER2, CHANNEL_SVD)
_STEPS = 16


@dataclass(frozen=True, slots=True)
class RankOption:
    """A family and a relative rank.

    Attributes:
        family: ``tucker2`` or ``channel_svd``.
        fraction: Rank / full rank, in (0, 1); for Tucker-2 of both modes.
    """

    family: str
    fraction: float


def resolve(option: RankOption, shape: LayerShape, round_to: int | str) -> LowRank | None:
    """Give the aligned ranks for a layer of ``shape``, or None where they save nothing.

    Args:
        option: Family and relative rank.
        shape: The layer with the channels that it will have.
        round_to: Alignment of ranks.
    """
    if option.family == TUCKER2:
        rank_in = relative_rank(option.fraction, shape.in_channels, round_to)
        rank_out = relative_rank(option.fraction, shape.out_channels, round_to)
        low_rank = LowRank(TUCKER2, (rank_in, rank_out))
    else:
        rank = relative_rank(option.fraction, full_svd_rank(shape), round_to)
        low_rank = LowRank(CHANNEL_SVD, (rank,))
    cost, dense = low_rank_cost(shape, low_rank), dense_cost(shape)
    return low_rank if cost.macs < dense.macs and cost.params < dense.params else None


def low_rank_cost(shape: LayerShape, low_rank: LowRank) -> Cost:
    """Give the cost of a layer of ``shape`` with these ranks."""
    if low_rank.family == TUCKER2:
        return tucker2_cost(shape, *low_rank.ranks)
    return channel_svd_cost(shape, *low_rank.ranks)


def rank_options(
    shape: LayerShape, families: Iterable[str], round_to: int | str
) -> tuple[RankOption, ...]:
    """List the distinct options that make a layer cheaper, mild ones first.

    Tucker-2 is offered where there is a kernel to gain from: a 1x1 convolution or a linear layer
    has a cheaper equal in two factors.

    Args:
        shape: The layer as it stands.
        families: Families to offer.
        round_to: Alignment of ranks.
    """
    options: dict[LowRank, RankOption] = {}
    for family in families:
        if family == TUCKER2 and shape.kernel == 1:
            continue
        for step in range(_STEPS - 1, 0, -1):
            option = RankOption(family, step / _STEPS)
            low_rank = resolve(option, shape, round_to)
            if low_rank is not None:
                options.setdefault(low_rank, option)
    by_cost = sorted(options, key=lambda found: -low_rank_cost(shape, found).macs)
    return tuple(options[found] for found in by_cost)


def at_removed(shape: LayerShape, family: str, removed: float) -> tuple[LowRank, float] | None:
    """Give the largest free ranks that remove at least a fraction of a layer's MACs.

    Args:
        shape: The layer.
        family: ``tucker2`` or ``channel_svd``.
        removed: MACs to remove / MACs of the layer, in (0, 1).

    Returns:
        The ranks and the fraction that they really remove; None where even rank 1 removes less.
    """
    if family == TUCKER2 and shape.kernel == 1:
        return None
    dense = dense_cost(shape).macs
    limit = int((1 - removed) * dense)
    ranks: tuple[int, ...] | None
    if family == TUCKER2:
        ranks = tucker2_ranks_for(shape, limit, "macs")
    else:
        rank = channel_svd_rank_for(shape, limit, "macs")
        ranks = None if rank is None else (rank,)
    if ranks is None:
        return None
    low_rank = LowRank(family, ranks)
    return low_rank, 1 - low_rank_cost(shape, low_rank).macs / dense


def with_channels(shape: LayerShape, inputs: int, outputs: int) -> LayerShape:
    """Give the shape of the same layer with other channel counts."""
    return replace(shape, in_channels=inputs, out_channels=outputs)
