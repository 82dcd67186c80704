"""How far two ways of telling harms agree on which is worse."""

from __future__ import annotations

import math
from collections.abc import Sequence


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Give Spearman's rank correlation, in [-1, 1]; ties share their mean rank.

    Args:
        one: Values.
        other: As many values, in the same order.

    Returns:
        None where one side does not vary, or there are fewer than two values.

    Raises:
        ValueError: The numbers of values differ.
    """
    if len(one) != len(other):
        raise ValueError(f"{len(one)} values can't be compared with {len(other)}")
    first, second = _centred_ranks(one), _centred_ranks(other)
    spread = math.sqrt(sum(a * a for a in first) * sum(b * b for b in second))
    if spread == 0:
        return None
    return sum(a * b for a, b in zip(first, second, strict=True)) / spread


def agreement(
    families: Sequence[str], one: Sequence[float], other: Sequence[float]
) -> dict[str, float | None]:
    """Give the rank correlation of two lists of harms, by family and over ``all``.

    Args:
        families: Of each candidate.
        one: Harm of each candidate.
        other: The same, told otherwise.
    """
    places = {family: [i for i, f in enumerate(families) if f == family] for family in families}
    places["all"] = list(range(len(families)))
    return {
        family: rank_correlation([one[i] for i in where], [other[i] for i in where])
        for family, where in sorted(places.items())
    }


def _centred_ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for place in order[start:end]:
            ranks[place] = (start + end - 1) / 2 - (len(values) - 1) / 2
        start = end
    return ranks
