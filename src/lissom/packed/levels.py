"""The levels of one tensor as bytes and back: the best of several models, and what it must say."""

from __future__ import annotations

import dataclasses

import numpy as np

from lissom.packed.bits import Bits, Meter
from lissom.packed.context import LevelArray, Side, code_levels
from lissom.packed.fixed_point import lg_of
from lissom.packed.order import Grid

# In quarters; a file holds the place in these tuples.
STRENGTHS = {"signs": (4, 0, 2, 6), "channels": (4, 2, 3, 5), "kernel": (4, 2, 3, 5)}
_SAMPLE = 1 << 18  # levels that decide on the strengths
_WORTH_CHOOSING = 32  # non-zeros


def planes(levels: LevelArray) -> LevelArray:
    """Lay a tensor out as (positions, rows, columns)."""
    grid = Grid.of(levels.shape)
    flat = levels.reshape(grid.rows, grid.columns, grid.positions)
    return np.ascontiguousarray(flat.transpose(2, 0, 1))


def from_planes(values: LevelArray, shape: tuple[int, ...]) -> LevelArray:
    """Undo ``planes``."""
    return np.ascontiguousarray(values.transpose(1, 2, 0)).reshape(shape)


def choose_side(levels: LevelArray) -> tuple[Side, int]:
    """Find the side information under which a tensor becomes smallest.

    Args:
        levels: At least one level; the first rows of large tensors decide.

    Returns:
        The side information, and about how many bits the tensor takes with it.
    """
    sizes = np.abs(levels.astype(np.int64))
    non_zeros = int(np.count_nonzero(sizes))
    logit = lg_of(2 * non_zeros + 1) - lg_of(2 * (sizes.size - non_zeros) + 1)
    side = Side(
        density=min(max((logit + 16 >> 5) + 128, 0), 255),
        largest=max(int(sizes.max(initial=1)), 1).bit_length() - 1,
    )
    sample = _sample(levels)
    best = price(sample, side)
    for name, strengths in STRENGTHS.items() if non_zeros >= _WORTH_CHOOSING else ():
        for strength in strengths[1:]:
            other = dataclasses.replace(side, **{name: strength})
            cost = price(sample, other)
            if cost < best:
                best, side = cost, other
    return side, best * levels.size // (256 * sample.size)


def price(levels: LevelArray, side: Side) -> int:
    """Give what a tensor costs, in 1/256 bit, without the side information."""
    meter = Meter()
    code_levels(meter, Grid.of(levels.shape), side, planes(levels))
    return meter.price


def write_levels(bits: Bits, levels: LevelArray, side: Side) -> None:
    """Write a tensor."""
    code_levels(bits, Grid.of(levels.shape), side, planes(levels))


def read_levels(bits: Bits, shape: tuple[int, ...], side: Side) -> LevelArray:
    """Read a tensor of a known shape.

    Raises:
        DamagedStream: The bits were not written with this side information.
    """
    return from_planes(code_levels(bits, Grid.of(shape), side, None), shape)


def _sample(levels: LevelArray) -> LevelArray:
    """Give the first rows, about as many levels as it takes to choose."""
    if levels.size <= _SAMPLE:
        return levels
    return levels[: max(1, levels.shape[0] * _SAMPLE // levels.size)]
