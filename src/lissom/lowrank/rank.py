"""How one rank is chosen: relative to the full one, or by the energy that it holds."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lissom.plan.alignment import step_for
from lissom.plan.cost import Cost

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


def price(cost: Cost, unit: Unit) -> int:
    """Give a cost in one unit."""
    return cost.macs if unit == "macs" else cost.params


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction}, expected more than 0 and at most 1")
