"""What can be done to a layer: ranks by fraction, so that they follow the channels that remain."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from lissom.graph.branches import Branch
from lissom.lowrank.families import family_named
from lissom.lowrank.family import Family, Ranks
from lissom.lowrank.rank import relative_rank
from lissom.plan.cost import Cost
from lissom.plan.predict import LayerShape, dense_cost
from lissom.search.price import LowRank

FAMILIES = ("tucker2", "channel_svd", "spatial_svd", "filter_cp")
_STEPS = 16  # relative ranks on offer up to the full one, or up to half of it

Fractions = tuple[float, ...]
Grid = Callable[[Family, LayerShape], Iterable[Fractions]]
Within = Callable[[Family, LayerShape, int], Ranks | None]


@dataclass(frozen=True, slots=True)
class RankOption:
    """A family and relative ranks.

    Attributes:
        family: Name in ``lissom.lowrank.families``.
        fractions: For each rank of the family, rank / full rank, in (0, 1].
    """

    family: str
    fractions: Fractions


@dataclass(frozen=True, slots=True)
class DropOption:
    """A residual branch that goes as a whole.

    Attributes:
        branch: The branch.
    """

    branch: Branch


def equal_fractions(family: Family, shape: LayerShape) -> tuple[Fractions, ...]:
    """List relative ranks that are the same for all ranks of a family, mild ones first."""
    steps, ranks = _steps(family, shape), len(family.full_ranks(shape))
    return tuple((step / steps,) * ranks for step in range(steps - 1, 0, -1))


def within_equal(family: Family, shape: LayerShape, limit: int) -> Ranks | None:
    """Give the largest free ranks in about equal proportion that cost at most ``limit`` MACs."""
    return family.within(shape, limit, "macs")


@lru_cache(maxsize=1 << 16)  # the search asks again and again
def resolve(option: RankOption, shape: LayerShape, round_to: int | str) -> LowRank | None:
    """Give the aligned ranks for a layer of ``shape``, or None where they save nothing.

    Args:
        option: Family and relative ranks.
        shape: The layer with the channels that it will have.
        round_to: Alignment of ranks.
    """
    family = family_named(option.family)
    aligned = zip(option.fractions, family.admissible(shape, round_to), strict=True)
    # The smallest admissible rank is the step of all.
    ranks = (relative_rank(fraction, counts[-1], counts[0]) for fraction, counts in aligned)
    settled = family.settle(shape, tuple(ranks))
    return LowRank(option.family, settled) if family.saves(shape, settled) else None


def low_rank_cost(shape: LayerShape, low_rank: LowRank) -> Cost:
    """Give the cost of a layer of ``shape`` with these ranks."""
    return family_named(low_rank.family).cost(shape, low_rank.ranks)


def rank_options(
    shape: LayerShape,
    families: Iterable[str],
    round_to: int | str,
    grid: Grid = equal_fractions,
) -> tuple[RankOption, ...]:
    """List the distinct options that make a layer cheaper, mild ones first.

    A family is offered where there is something to gain from it: to a 1x1 convolution or a linear
    layer all but one are a detour.

    Args:
        shape: The layer as it stands.
        families: Families to offer.
        round_to: Alignment of ranks.
        grid: Gives the relative ranks that are on offer.
    """
    options: dict[LowRank, RankOption] = {}
    for family in families:
        if not family_named(family).gains(shape):
            continue
        for fractions in grid(family_named(family), shape):
            option = RankOption(family, fractions)
            low_rank = resolve(option, shape, round_to)
            if low_rank is not None:
                options.setdefault(low_rank, option)
    by_cost = sorted(options, key=lambda found: -low_rank_cost(shape, found).macs)
    return tuple(options[found] for found in by_cost)


def _steps(family: Family, shape: LayerShape) -> int:
    """Give a finer grid to a family that breaks even at half of its full rank or before."""
    even = family.break_even(shape, "macs")
    if even is None:
        return _STEPS
    full = family.full_ranks(shape)
    share = max(rank / most for rank, most in zip(even, full, strict=True))
    return _STEPS * max(1, int(1 / share))


def at_removed(
    shape: LayerShape, family: str, removed: float, within: Within = within_equal
) -> tuple[LowRank, float] | None:
    """Give free ranks that remove at least a fraction of a layer's MACs.

    Args:
        shape: The layer.
        family: Name in ``lissom.lowrank.families``.
        removed: MACs to remove / MACs of the layer, in (0, 1).
        within: Gives the best ranks that cost at most so many MACs.

    Returns:
        The ranks and the fraction that they really remove; None where the family has nothing to
        gain from the layer, or even rank 1 removes less.
    """
    kind = family_named(family)
    if not kind.gains(shape):
        return None
    dense = dense_cost(shape).macs
    ranks = within(kind, shape, int((1 - removed) * dense))
    if ranks is None:
        return None
    return LowRank(family, ranks), 1 - kind.cost(shape, ranks).macs / dense


def with_channels(shape: LayerShape, inputs: int, outputs: int) -> LayerShape:
    """Give the shape of the same layer with other channel counts."""
    return replace(shape, in_channels=inputs, out_channels=outputs)
