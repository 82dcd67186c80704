"""How one layer is decomposed: what a search chooses, before there are any factors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LowRank:
    """How one layer is decomposed.

    Attributes:
        family: Name in ``lissom.lowrank.families``.
        ranks: In the order of the decision's fields: (rank_in, rank_out) for Tucker-2.
    """

    family: str
    ranks: tuple[int, ...]
