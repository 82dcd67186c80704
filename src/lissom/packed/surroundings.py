"""What is known around a level when it is coded: its row, its column, its kernel.

An energy is a mean magnitude relative to the tensor's, as a logarithm in 1/256; with nothing seen
it is 0. Two imagined levels of mean magnitude stand in each mean.
"""

from __future__ import annotations

import numpy as np

from lissom.packed.fixed_point import Integers, lg, lg_of
from lissom.packed.order import Grid

Block = tuple[slice, slice]

LOUDEST = 255
# Weight of a coded level's sign for the sign of another, in 1/64 of a bit, by squared distance in
# the kernel: for levels with one coded neighbour, and with more. Fitted on trained 3 x 3 kernels.
_PULLS: tuple[dict[int, int], ...] = (
    {},
    {1: 148, 2: 42, 4: -63},
    {1: 236, 2: -50, 4: -26, 5: -35, 8: 12},
)


class Surroundings:
    """Sums over what was coded so far, and the energies that follow from them.

    Attributes:
        seen: Levels coded so far.
        non_zeros: How many of them are not zero.
        kind: Of the current position: 0, 1 or 2 (or more) coded neighbours.
        tilt: (rows, columns); which sign the coded signs of the kernel speak for, in 1/64 of a bit.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        shape = (grid.rows, grid.columns)
        self.seen = self.non_zeros = 0
        self._total = 0
        self._row_sums, self._row_counts = _zeros(grid.rows), _zeros(grid.rows)
        self._column_sums, self._column_counts = _zeros(grid.columns), _zeros(grid.columns)
        self._kernel = np.zeros(shape, np.int32)
        self._beside = np.zeros(shape, np.int32)
        self._loudness = np.zeros((grid.positions, *shape), np.uint8)
        self._signs = np.zeros((grid.positions, *shape), np.int8)
        self._done: list[int] = []
        self._neighbours = 0
        self._here = self._here_count = 0
        self.kind = 0
        self.tilt = np.zeros(shape, np.int32)

    def enter(self, position: int) -> None:
        """Turn to the next position of the kernel."""
        grid, done = self._grid, self._done
        distances = {one: grid.squared_distance(position, one) for one in done}
        beside = [one for one in done if distances[one] == 1]
        self._neighbours = len(beside)
        self.kind = min(len(beside), 2)
        self._here = self._here_count = 0
        self.tilt.fill(0)
        self._beside.fill(0)
        for one in done:
            pull = _PULLS[self.kind].get(distances[one], 0)
            if pull:
                self.tilt += np.multiply(self._signs[one], pull, dtype=np.int32)
        for one in beside:
            self._beside += self._loudness[one]

    def leave(self, position: int) -> None:
        """Take the position into what is known of the kernels."""
        self._kernel += self._loudness[position]
        self._done.append(position)

    def learn(self, position: int, block: Block, levels: Integers) -> None:
        """Take a block of levels, (rows, columns), into the sums."""
        rows, columns = block
        loudness = np.minimum(np.abs(levels), LOUDEST)
        self._loudness[position, rows, columns] = loudness
        self._signs[position, rows, columns] = np.sign(levels)
        self._row_sums[rows] += loudness.sum(axis=1)
        self._row_counts[rows] += levels.shape[1]
        self._column_sums[columns] += loudness.sum(axis=0)
        self._column_counts[columns] += levels.shape[0]
        total = int(loudness.sum())
        self._total += total
        self._here += total
        self._here_count += levels.size
        self.seen += levels.size
        self.non_zeros += int(np.count_nonzero(levels))

    def row_energies(self, block: Block) -> Integers:
        """Give the energy of each row of a block."""
        return self._energies(self._row_sums[block[0]], self._row_counts[block[0]])

    def column_energies(self, block: Block) -> Integers:
        """Give the energy of each column of a block."""
        return self._energies(self._column_sums[block[1]], self._column_counts[block[1]])

    def position_energy(self) -> int:
        """Give the energy of the position, over all kernels."""
        counts = np.array([self._here_count])
        return int(self._energies(np.array([self._here]), counts)[0])

    def kernel_energies(self, block: Block) -> tuple[Integers, Integers]:
        """Give a table of energies, and for each level of a block its place there."""
        return self._table(self._kernel[block], len(self._done))

    def neighbour_energies(self, block: Block) -> tuple[Integers, Integers]:
        """Give the same for the coded positions that touch the current one."""
        return self._table(self._beside[block], self._neighbours)

    def _table(self, sums: Integers, count: int) -> tuple[Integers, Integers]:
        largest = int(sums.max(initial=0))
        return self._energies(np.arange(largest + 1), np.array([count])), sums

    def _energies(self, sums: Integers, counts: Integers) -> Integers:
        """Give log2 of ((sum + 2 mean) / (count + 2) / mean), with mean = total / seen."""
        twice_total, twice_seen = 2 * self._total + 1, 2 * self.seen + 4
        imagined = max(1, 512 * twice_total // twice_seen)
        mean = lg_of(twice_total) - lg_of(twice_seen)
        return lg(256 * sums.astype(np.int64) + imagined) - 2048 - lg(counts + 2) - mean


def _zeros(length: int) -> Integers:
    return np.zeros(length, np.int64)
