"""The order in which the levels of a tensor are coded: position by position, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

_MOST_POSITIONS = 64
_BLOCK = 65536


@dataclass(frozen=True, slots=True)
class Grid:
    """A tensor as rows, columns and positions in a kernel.

    Attributes:
        rows: Output channels.
        columns: Input channels, or all that is not the first axis.
        height: Of the kernel.
        width: Of the kernel.
    """

    rows: int
    columns: int
    height: int
    width: int

    @classmethod
    def of(cls, shape: Sequence[int]) -> Grid:
        """Read a shape: (rows, columns, ..., width); large kernels count as more columns."""
        rows, *rest = shape or (1,)
        if len(rest) < 2 or math.prod(rest[1:]) > _MOST_POSITIONS:
            return cls(rows, math.prod(rest), 1, 1)
        return cls(rows, rest[0], math.prod(rest[1:-1]), rest[-1])

    @property
    def positions(self) -> int:
        """How many places a kernel has."""
        return self.height * self.width

    def position_order(self) -> list[int]:
        """Give the positions from the middle of the kernel outwards."""
        return sorted(range(self.positions), key=lambda one: (self._from_centre(one), one))

    def squared_distance(self, one: int, other: int) -> int:
        """Give how far two positions of the kernel are from each other, squared."""
        down = one // self.width - other // self.width
        right = one % self.width - other % self.width
        return down * down + right * right

    def blocks(self, *, first: bool) -> Iterator[tuple[slice, slice]]:
        """Give the blocks of one position; each learns from those before it.

        Args:
            first: Whether it is the first position, when nothing is known of rows and columns.
        """
        alone = self.positions == 1
        down = max(4 if alone else 2, -(-self.rows * self.columns // _BLOCK))
        right = 4 if alone else 2 if first else 1
        for columns in _parts(self.columns, right):
            for rows in _parts(self.rows, down):
                yield rows, columns

    def _from_centre(self, position: int) -> int:
        down, right = divmod(position, self.width)
        return abs(2 * down - self.height + 1) + abs(2 * right - self.width + 1)


def _parts(length: int, count: int) -> list[slice]:
    bounds = [length * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(bounds) if a < b]
