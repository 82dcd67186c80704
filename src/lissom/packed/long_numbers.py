"""Long vectors of whole numbers in disguise: their distances from the median, as levels.

Of many numbers the model of levels learns all that there is to learn, and it takes arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lissom.packed.context import LevelArray
from lissom.packed.level_chunk import level_chunk, read_level_chunk
from lissom.packed.numbers import floats, middle, whole_numbers
from lissom.packed.varint import Cursor, DamagedBytes, unzigzag, varint, zigzag

_KINDS = 2
_ROW = 64  # numbers, so that blocks are small enough to learn from the first ones


def write_long(vectors: Sequence[Tensor]) -> bytes | None:
    """Give the bytes of some vectors; None where one is no whole numbers.

    Args:
        vectors: One axis each, float32.
    """
    head, steps = b"", []
    for vector in vectors:
        found = whole_numbers(vector)
        if found is None:
            return None
        kind, place, values = found
        centre = middle(values) if len(values) else 0
        if len(values) and int(np.abs(values - centre).max()) >> 31:
            return None
        head += bytes([kind]) + varint(zigzag(place)) + varint(zigzag(centre))
        steps.append(_rows((values - centre).astype(np.int32)))
    return head + level_chunk(steps)


def read_long(content: bytes, counts: Sequence[int]) -> list[Tensor]:
    """Undo ``write_long``.

    Args:
        content: What it gave.
        counts: Numbers of each vector.

    Raises:
        ValueError: The bytes can't have been written for these counts.
    """
    cursor = Cursor(content, "values")
    heads = []
    for _ in counts:
        kind = cursor.byte()
        if kind >= _KINDS:
            raise DamagedBytes(f"values: expected a kind of 0 or 1, got {kind}")
        heads.append((kind, unzigzag(cursor.varint()), unzigzag(cursor.varint())))
    steps = read_level_chunk(cursor.rest(), [(-(-count // _ROW), _ROW) for count in counts])
    return [
        floats(kind, place, levels.ravel()[:count].astype(np.int64) + centre)
        for (kind, place, centre), levels, count in zip(heads, steps, counts, strict=True)
    ]


def _rows(steps: LevelArray) -> LevelArray:
    """Fill the last row up with zeros."""
    return np.pad(steps, (0, -len(steps) % _ROW)).reshape(-1, _ROW)
