"""The model of a tensor's levels: which are zero, which sign, which magnitude.

Every block of levels is coded in three sweeps, each one array. The same walk writes, reads and
estimates; only where the bits go to differs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lissom.packed.bits import Bits
from lissom.packed.counters import Corrected
from lissom.packed.fixed_point import Integers, lg_of, logit_index
from lissom.packed.magnitudes import ENERGY_CLASSES, Magnitudes
from lissom.packed.order import Grid
from lissom.packed.surroundings import Block, Surroundings

LevelArray = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of a zero flag's logit, in 1/64; ``lean`` itself is in 1/256.

    Attributes:
        lean: Added to every logit.
        density: Of the logit of the density so far.
        row: Of the row's energy.
        column: Of the column's energy.
        position: Of the position's energy.
        kernel: Of the kernel's energy.
        neighbours: Of the energy of the positions that touch this one.
        tilt: Of how clearly the kernel's signs speak.
        slight_tilt: Of the same up to ``_SLIGHT``.
    """

    lean: int
    density: int
    row: int
    column: int
    position: int
    kernel: int
    neighbours: int
    tilt: int
    slight_tilt: int


# By the number of coded neighbours; fitted on trained networks at densities .1 to .3.
WEIGHTS = (
    Weights(0, 58, 37, 38, 47, 13, 0, 0, 0),
    Weights(0, 56, 34, 40, 45, 20, 13, 67, -51),
    Weights(-74, 58, 40, 35, 42, 6, 26, 100, -74),
)
_SLIGHT = 186


@dataclass(frozen=True, slots=True)
class Side:
    """What the writer tells beforehand, in four bytes.

    Attributes:
        density: Logit of the share of non-zeros, in 1/8 of a bit, plus 128.
        largest: Bits of the largest magnitude, less one.
        channels: Strength of rows and columns in quarters.
        kernel: Strength of the kernel in quarters.
        signs: Strength of the signs' model in quarters; 0 where signs are like coin flips.
    """

    density: int
    largest: int
    channels: int = 4
    kernel: int = 4
    signs: int = 4


def code_levels(bits: Bits, grid: Grid, side: Side, known: LevelArray | None) -> LevelArray:
    """Code all levels of a tensor.

    Args:
        bits: Where they go to or come from.
        grid: How the tensor is laid out.
        side: What reader and writer agreed on.
        known: The levels, (positions, rows, columns), when writing; None when reading.

    Returns:
        The levels, (positions, rows, columns).
    """
    walk = _Walk(bits, grid, side)
    levels = np.zeros((grid.positions, grid.rows, grid.columns), np.int32)
    if not levels.size:
        return levels
    for number, position in enumerate(grid.position_order()):
        walk.around.enter(position)
        for block in grid.blocks(first=number == 0):
            given = None if known is None else known[position][block]
            found = walk.block(block, given)
            levels[position][block] = found
            walk.around.learn(position, block, found)
        walk.around.leave(position)
    return levels


class _Walk:
    def __init__(self, bits: Bits, grid: Grid, side: Side) -> None:
        self._bits = bits
        self._side = side
        self.around = Surroundings(grid)
        self._zeros, self._signs = Corrected(), Corrected()
        self._magnitudes = Magnitudes(side.largest)

    def block(self, block: Block, known: LevelArray | None) -> LevelArray:
        """Code one block."""
        shape = self.around.tilt[block].shape
        flat = None if known is None else known.ravel()
        logits, energies = self._zero_logits(block)
        places = logit_index(logits.ravel() >> 2)
        non_zero = self._zeros.code(self._bits, places, None if flat is None else flat != 0)
        which = np.flatnonzero(non_zero)
        given = None if flat is None else flat[which].astype(np.int64)
        values = self._magnitudes.code(
            self._bits,
            np.clip((energies.ravel()[which] + 320) >> 7, 0, ENERGY_CLASSES - 1),
            None if given is None else np.abs(given),
        )
        tilt = self.around.tilt[block].ravel()[which]
        places = logit_index(tilt * self._side.signs >> 2)
        positive = self._signs.code(self._bits, places, None if given is None else given > 0)
        levels = np.zeros(len(non_zero), np.int32)
        levels[which] = np.where(positive, values, -values)
        return levels.reshape(shape)

    def _zero_logits(self, block: Block) -> tuple[Integers, Integers]:
        """Give the logit of being no zero, and an energy for the magnitudes, both in 1/256."""
        around, side = self.around, self._side
        weights = WEIGHTS[around.kind]
        rows, columns = around.row_energies(block), around.column_energies(block)
        level = weights.lean + (weights.density * self._density() >> 6)
        level += weights.position * around.position_energy() >> 6
        by_row = level + (weights.row * side.channels * rows >> 8)
        by_column = weights.column * side.channels * columns >> 8
        logits = (by_row[:, None] + by_column).astype(np.int32)
        energies = (2 * rows[:, None] + 3 * columns).astype(np.int32)
        for share, loud, (table, places) in (
            (weights.kernel, 2, around.kernel_energies(block)),
            (weights.neighbours, 2, around.neighbour_energies(block)),
        ):
            logits += (share * side.kernel * table >> 8).astype(np.int32)[places]
            energies += (loud * table).astype(np.int32)[places]
        if weights.tilt:
            tilts = np.abs(around.tilt[block])
            clear = np.arange(int(tilts.max(initial=0)) + 1)
            table = weights.tilt * clear + weights.slight_tilt * np.minimum(clear, _SLIGHT)
            logits += (table * side.kernel >> 8).astype(np.int32)[tilts]
        return logits, energies >> 3

    def _density(self) -> int:
        around = self.around
        if not around.seen:
            return 32 * (self._side.density - 128)
        zeros = around.seen - around.non_zeros
        return lg_of(2 * around.non_zeros + 1) - lg_of(2 * zeros + 1)
