"""A chunk of tensors that are kept as they are: byte planes, or whole numbers in disguise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lissom.packed.level_chunk import level_chunk, read_level_chunk
from lissom.packed.long_numbers import read_long, write_long
from lissom.packed.numbers import MOST, as_numbers, from_numbers, read_numbers, write_numbers
from lissom.packed.tensors import FLOATS
from lissom.packed.varint import Cursor, DamagedBytes, varint

Bytes = NDArray[np.uint8]

_PLAIN, _CONSTANT, _MODELLED = 0, 1, 2
_NUMBERS, _LONG = 3, 4  # in the place of the first plane's form
TOGETHER = 65536  # values; larger tensors have a chunk of their own
_WORTH_MODELLING = 16  # bytes
_SHORT = (torch.float32, torch.float16, torch.bfloat16)


def narrowest(values: Tensor) -> torch.dtype:
    """Give the smallest type that holds every value of a float32 tensor exactly, to the bit."""
    if values.dtype == torch.float32:
        for dtype in (torch.float16, torch.bfloat16):
            back = values.to(dtype).to(torch.float32)
            if torch.equal(back.view(torch.int32), values.contiguous().view(torch.int32)):
                return dtype
    return values.dtype


def most_together(dtype: torch.dtype) -> int:
    """Give how many values of a type a chunk of several tensors should hold at most."""
    return MOST if dtype in _SHORT else TOGETHER


def stored_chunk(vectors: Sequence[Tensor]) -> bytes:
    """Give the chunk of some vectors.

    Args:
        vectors: At least one; one axis each, all of one type that a packed file holds.
    """
    values = torch.cat(list(vectors))
    planes = b"".join(map(_plane, _turn(_as_bytes(values), values.dtype)))
    if values.dtype not in _SHORT:
        return planes
    singles = [vector.float() for vector in vectors]
    if len(values) > MOST:
        form, told = _LONG, write_long(singles)
    else:
        form, told = _NUMBERS, _numbers(singles)
    return planes if told is None else min(planes, bytes([form]) + told, key=len)


def read_stored_chunk(content: bytes, counts: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Undo ``stored_chunk``.

    Args:
        content: The chunk.
        counts: Values of each vector in it.
        dtype: Their type.

    Returns:
        All values, one after another.

    Raises:
        ValueError: The chunk can't have been written for these counts and this type.
    """
    form = content[0] if content and dtype in _SHORT else _PLAIN
    if form == _NUMBERS:
        parts = [from_numbers(one) for one in read_numbers(content[1:], counts)]
        return torch.cat(parts).to(dtype)
    if form == _LONG:
        return torch.cat(read_long(content[1:], counts)).to(dtype)
    cursor, count = Cursor(content, "values"), sum(counts)
    planes = [_read_plane(cursor, count) for _ in range(dtype.itemsize)]
    values = _turn_back(np.stack(planes), dtype)
    if dtype == torch.bool and values.max(initial=0) > 1:
        raise DamagedBytes("values: expected 0 or 1 for a boolean")
    return torch.from_numpy(values.reshape(-1)).view(dtype)


def _numbers(vectors: Sequence[Tensor]) -> bytes | None:
    found = [as_numbers(vector) for vector in vectors]
    told = [one for one in found if one is not None]
    return write_numbers(told) if len(told) == len(found) else None


def _as_bytes(values: Tensor) -> Bytes:
    """Give (count, itemsize) bytes, lowest first."""
    flat = values.detach().cpu().contiguous().view(torch.uint8).numpy()
    return flat.reshape(len(values), values.dtype.itemsize)


def _turn(content: Bytes, dtype: torch.dtype) -> Bytes:
    """Give the planes, highest byte first; in floats the sign goes behind the exponent."""
    planes = np.ascontiguousarray(content[:, ::-1].T)
    return _rotate(planes, 1) if dtype in FLOATS else planes


def _turn_back(planes: Bytes, dtype: torch.dtype) -> Bytes:
    if dtype in FLOATS:
        planes = _rotate(planes, -1)
    return np.ascontiguousarray(planes.T[:, ::-1])


def _rotate(planes: Bytes, places: int) -> Bytes:
    """Rotate numbers, given as byte planes, by one bit: to the left for 1, to the right for -1."""
    other = np.roll(planes, -places, axis=0)
    if places == 1:
        return (planes << 1 | other >> 7).astype(np.uint8)
    return (planes >> 1 | other << 7).astype(np.uint8)


def _plane(plane: Bytes) -> bytes:
    """Give the shortest form of a plane."""
    if not len(plane) or (plane == plane[0]).all():
        return bytes([_CONSTANT, plane[0] if len(plane) else 0])
    if len(plane) >= _WORTH_MODELLING:
        centre = int(np.bincount(plane).argmax())
        steps = (plane - np.uint8(centre)).view(np.int8).astype(np.int32)
        coded = level_chunk([steps])
        form = bytes([_MODELLED, centre]) + varint(len(coded)) + coded
        if len(form) <= len(plane):
            return form
    return bytes([_PLAIN]) + plane.tobytes()


def _read_plane(cursor: Cursor, count: int) -> Bytes:
    form = cursor.byte()
    if form == _PLAIN:
        return np.frombuffer(cursor.take(count), np.uint8)
    if form == _CONSTANT:
        return np.full(count, cursor.byte(), np.uint8)
    if form != _MODELLED:
        raise DamagedBytes(f"values: expected a form of 0, 1 or 2, got {form}")
    centre = cursor.byte()
    (steps,) = read_level_chunk(cursor.take(cursor.varint()), [(count,)])
    return (steps + centre & 255).astype(np.uint8)
