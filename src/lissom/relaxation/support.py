"""Which columns and channels stay under a budget: one threshold over all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lissom.plan.alignment import aligned_counts
from lissom.plan.cost import Cost
from lissom.search.price import Configuration

COLUMNS, ROWS = "columns", "rows"
Key = tuple[str, str]  # ("columns", layer) or ("rows", group)
Price = Callable[["Support"], Cost]

Slow = Callable[[Configuration], Mapping[Key, int]]
"""Names what takes longer than without it: pairs of factors that are slower than one layer would
be, groups whose layers are faster with all channels. Gives the most columns or channels that would
do, less than there are now; 0 where there is no such number. All of them will do, too."""


def nothing_slow(now: Configuration) -> Mapping[Key, int]:  # noqa: ARG001  (a Slow)
    """Find nothing slow: time does not matter."""
    return {}


@dataclass(frozen=True, slots=True)
class Support:
    """What is left of every block and channel group.

    Attributes:
        columns: Per layer a mask over the columns of A, (r,), on the CPU.
        rows: Per channel group a mask over its channels, on the CPU.
    """

    columns: Mapping[str, Tensor] = field(default_factory=dict)
    rows: Mapping[str, Tensor] = field(default_factory=dict)


def exact_support(
    scores: Mapping[Key, Tensor],
    admissible: Mapping[Key, Sequence[int]],
    price: Price,
    limits: Mapping[str, int],
) -> Support:
    """Give the support that keeps the best scores within all limits.

    One threshold for all groups is found by bisection; how many of a layer's columns or a group's
    channels lie above it is rounded up to the next admissible number. Then the best of the rest
    come back, one step of one layer at a time, as long as the limits hold.

    Args:
        scores: Energy per cost; 0 is dead and stays dead where the rounding does not ask for it.
        admissible: Numbers that may be kept, ascending, at least one each.
        price: What the network would cost.
        limits: ``macs``, ``params``: absolute.

    Returns:
        The support with the least threshold; if not even the smallest one meets the limits, the
        smallest.
    """
    order = {key: torch.sort(values, descending=True).indices for key, values in scores.items()}
    levels = torch.unique(torch.cat([*scores.values()]))  # ascending

    def at(level: float) -> dict[Key, int]:
        return {
            key: _up(int((values > level).sum()), admissible[key]) for key, values in scores.items()
        }

    def met(counts: Mapping[Key, int]) -> bool:
        return within(price(_support(counts, order)), limits)

    everything = {
        key: _up(int((values > 0).sum()), admissible[key]) for key, values in scores.items()
    }
    if met(everything):
        return _support(everything, order)
    low, high = 0, len(levels) - 1  # levels[high] keeps the least
    while low < high:
        middle = (low + high) // 2
        if met(at(float(levels[middle]))):
            high = middle
        else:
            low = middle + 1
    counts = at(float(levels[low]))
    return _support(_filled(counts, everything, scores, admissible, order, met), order)


def admissible_counts(count: int, round_to: int | str, most: int | None = None) -> list[int]:
    """List how many of a layer's columns or a group's channels may stay, ascending.

    Args:
        count: All of them, which is always admissible.
        round_to: Alignment.
        most: Fewer than all are at most so many; None: any number.
    """
    aligned = aligned_counts(count, round_to)
    return [number for number in aligned if most is None or number <= most or number == count]


def within(cost: Cost, limits: Mapping[str, int]) -> bool:
    """Say whether a cost meets every limit."""
    return all(getattr(cost, unit) <= limit for unit, limit in limits.items())


def _filled(
    counts: dict[Key, int],
    everything: Mapping[Key, int],
    scores: Mapping[Key, Tensor],
    admissible: Mapping[Key, Sequence[int]],
    order: Mapping[Key, Tensor],
    met: Callable[[Mapping[Key, int]], bool],
) -> dict[Key, int]:
    """Use up what the threshold has left of the budget."""
    counts = dict(counts)
    waiting = {key for key in counts if counts[key] < everything[key]}
    while waiting:
        best = max(waiting, key=lambda key: float(scores[key][order[key][counts[key]]]))
        more = next((n for n in admissible[best] if n > counts[best]), everything[best])
        trial = {**counts, best: more}
        if met(trial):
            counts = trial
        if counts[best] != more or more >= everything[best]:
            waiting.discard(best)
    return counts


def _up(count: int, admissible: Sequence[int]) -> int:
    return next((n for n in admissible if n >= count), admissible[-1])


def _support(counts: Mapping[Key, int], order: Mapping[Key, Tensor]) -> Support:
    masks = {}
    for key, count in counts.items():
        masks[key] = torch.zeros(len(order[key]), dtype=torch.bool)
        masks[key][order[key][:count]] = True
    return as_support(masks)


def as_support(masks: Mapping[Key, Tensor]) -> Support:
    """Sort masks by what they are over."""
    columns = {name: mask for (kind, name), mask in masks.items() if kind == COLUMNS}
    return Support(columns, {name: mask for (kind, name), mask in masks.items() if kind == ROWS})
