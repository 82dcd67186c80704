"""A chunk of level tensors: what is told of each, then one stream of bits for all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lissom.packed.bits import Reader, Writer
from lissom.packed.context import LevelArray, Side
from lissom.packed.levels import STRENGTHS, choose_side, read_levels, write_levels
from lissom.packed.varint import Cursor, DamagedBytes, unzigzag, varint, zigzag

_MODELLED, _CONSTANT, _PLAIN = 0, 1, 2
_MOST_BITS = 31


def level_chunk(tensors: Sequence[LevelArray]) -> bytes:
    """Give the chunk of some tensors.

    Args:
        tensors: Levels, int32, each with at least one axis.
    """
    head, writer = bytearray(), Writer()
    for levels in tensors:
        head += _head_of(levels, writer)
    return bytes(head) + writer.content()


def read_level_chunk(content: bytes, shapes: Sequence[tuple[int, ...]]) -> list[LevelArray]:
    """Undo ``level_chunk``.

    Args:
        content: The chunk.
        shapes: Of its tensors, in order.

    Raises:
        ValueError: The chunk can't have been written for these shapes.
    """
    cursor = Cursor(content, "levels")
    heads = [_read_head(cursor, shape) for shape in shapes]
    reader = Reader(cursor.rest())
    return [
        read_levels(reader, shape, head) if isinstance(head, Side) else head
        for head, shape in zip(heads, shapes, strict=True)
    ]


def _head_of(levels: LevelArray, writer: Writer) -> bytes:
    """Give what is told of a tensor beforehand; its bits go to ``writer`` if it takes the model."""
    if not levels.size:
        return bytes([_CONSTANT]) + varint(0)
    least, most = int(levels.min()), int(levels.max())
    if least == most:
        return bytes([_CONSTANT]) + varint(zigzag(least))
    side, size = choose_side(levels)
    width = (most - least).bit_length()
    if levels.size * width <= size and width <= _MOST_BITS:
        return bytes([_PLAIN, width]) + varint(zigzag(least)) + _fixed(levels, least, width)
    write_levels(writer, levels, side)
    places = [strengths.index(getattr(side, name)) for name, strengths in STRENGTHS.items()]
    first = places[0] << 6 | places[1] << 4 | places[2] << 2 | _MODELLED
    return bytes([first, side.density, side.largest])


def _read_head(cursor: Cursor, shape: tuple[int, ...]) -> Side | LevelArray:
    first = cursor.byte()
    kind = first & 3
    if kind == _CONSTANT:
        return np.full(shape, _small(unzigzag(cursor.varint())), np.int32)
    if kind == _PLAIN:
        return _read_fixed(cursor, shape)
    if kind != _MODELLED:
        raise DamagedBytes(f"levels: expected a coding of 0, 1 or 2, got {kind}")
    density, largest = cursor.byte(), cursor.byte()
    if largest >= _MOST_BITS:
        raise DamagedBytes(f"levels: expected magnitudes below 2^31, got {largest + 1} bits")
    signs, channels, kernel = STRENGTHS.values()
    return Side(
        density, largest, channels[first >> 4 & 3], kernel[first >> 2 & 3], signs[first >> 6]
    )


def _fixed(levels: LevelArray, least: int, width: int) -> bytes:
    above = levels.ravel().astype(np.int64) - least
    bits = above[:, None] >> np.arange(width - 1, -1, -1) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def _read_fixed(cursor: Cursor, shape: tuple[int, ...]) -> LevelArray:
    width, least = cursor.byte(), unzigzag(cursor.varint())
    if not 1 <= width <= _MOST_BITS:
        raise DamagedBytes(f"levels: expected a width of 1 to {_MOST_BITS} bits, got {width}")
    _small(least)
    size = int(np.prod(shape, dtype=np.int64))
    packed = np.frombuffer(cursor.take(-(-size * width // 8)), np.uint8)
    bits = np.unpackbits(packed, count=size * width).reshape(size, width).astype(np.int64)
    values = bits @ (1 << np.arange(width - 1, -1, -1, dtype=np.int64)) + least
    _small(int(values.max(initial=least)))
    return values.astype(np.int32).reshape(shape)


def _small(value: int) -> int:
    if not -(1 << 31) < value < 1 << 31:
        raise DamagedBytes(f"levels: expected a level of at most 31 bits, got {value}")
    return value
