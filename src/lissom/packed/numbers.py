"""Small vectors of floats that are whole numbers in disguise: few digits, or a common grid.

All vectors of a chunk share one stream of bits and what it learned: how far a number lies from the
mean of its vector, relative to how far those before it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lissom.packed.fixed_point import Integers, lg_of
from lissom.packed.single_bits import Chances, SingleBits, SingleReader, SingleWriter
from lissom.packed.varint import DamagedBytes

MOST = 1 << 14  # numbers in a stream, bit by bit; longer vectors are coded as levels
_GRID, _DIGITS = 0, 1
_MANTISSA = 23  # of float32
_WIDEST = 31  # bits of a difference
_FARTHEST = 255  # place of a grid
_HALF = 1 << 15
_NEAR, _FAR = -8, 7
_PRIOR = 2  # numbers that the spread of the vector before counts for


@dataclass(frozen=True, slots=True)
class Numbers:
    """A vector as whole numbers.

    Attributes:
        kind: 0: multiples of 2^place. 1: positive floats, the first bits of float32 down to
            ``place`` bits of the mantissa, which are in the order of the values.
        place: See ``kind``.
        values: The numbers.
    """

    kind: int
    place: int
    values: tuple[int, ...]


def as_numbers(values: Tensor) -> Numbers | None:
    """Give the shorter of the forms that say a vector to the bit; None if there is none.

    Args:
        values: One axis, float32.
    """
    found = whole_numbers(values)
    return None if found is None else Numbers(*found[:2], tuple(found[2].tolist()))


def whole_numbers(values: Tensor) -> tuple[int, int, Integers] | None:
    """Give the same as kind, place and an array."""
    found = [form for form in (_on_grid(values), _in_digits(values)) if form is not None]
    return min(found, key=_about_bits, default=None)


def from_numbers(numbers: Numbers) -> Tensor:
    """Undo ``as_numbers``.

    Raises:
        DamagedBytes: The numbers are not those of floats.
    """
    return floats(numbers.kind, numbers.place, np.array(numbers.values, np.int64))


def floats(kind: int, place: int, values: Integers) -> Tensor:
    """Undo ``whole_numbers``.

    Raises:
        DamagedBytes: The numbers are not those of floats.
    """
    _check_place(kind, place)
    if (np.abs(values) >> _WIDEST).any():
        raise DamagedBytes(f"values: expected numbers of at most {_WIDEST} bits")
    if kind == _GRID:
        return torch.from_numpy(np.ldexp(values.astype(np.float64), place)).float()
    patterns = values << (_MANTISSA - place)
    if ((patterns < 0) | (patterns >= 1 << _WIDEST)).any():
        raise DamagedBytes("values: expected positive floats")
    return torch.from_numpy(patterns.astype(np.int32)).view(torch.float32)


def write_numbers(vectors: Sequence[Numbers]) -> bytes:
    """Give the bits of some vectors."""
    writer, model = SingleWriter(), _Model()
    for vector in vectors:
        model.code(writer, len(vector.values), vector)
    return writer.content()


def read_numbers(content: bytes, counts: Sequence[int]) -> list[Numbers]:
    """Undo ``write_numbers``.

    Args:
        content: The bits.
        counts: Numbers of each vector.

    Raises:
        DamagedBytes: The bits can't have been written for these counts.
    """
    if sum(counts) > MOST:
        raise DamagedBytes(f"values: expected at most {MOST:,} numbers, got {sum(counts):,}")
    reader, model = SingleReader(content), _Model()
    return [model.code(reader, count, None) for count in counts]


@dataclass(slots=True)
class _Kind:
    """What the vectors of a kind have in common; centre and spread in units of 2^-23."""

    place: int = 0
    centre: int = 0
    spread: int = 0


class _Model:
    def __init__(self) -> None:
        self._chances = Chances()
        self._kinds = (_Kind(), _Kind())
        self._last = 0

    def code(self, bits: SingleBits, count: int, known: Numbers | None) -> Numbers:
        """Code a vector of ``count`` numbers."""
        given = known or Numbers(0, 0, (0,) * count)
        kind = self._chances.code(bits, "kind", self._last, given.kind)
        state, self._last = self._kinds[kind], kind
        state.place += self._difference(bits, "place", 0, given.place - state.place)
        _check_place(kind, state.place)
        shift = _MANTISSA - state.place if kind == _DIGITS else 0
        total, off = state.centre >> shift, _PRIOR * (state.spread >> shift)
        values: list[int] = []
        for number, value in enumerate(given.values):
            centre, spread = total // (number + 1), off // (number + _PRIOR)
            step = self._difference(bits, "size", spread, value - centre)
            values.append(_check_width(centre + step))
            total += centre + step
            off += 16 * abs(step)
        if values:
            state.spread = off // (count + _PRIOR) << shift
        if values and kind == _DIGITS:
            state.centre = total // (count + 1) << shift
        return Numbers(kind, state.place, tuple(values))

    def _difference(self, bits: SingleBits, what: str, off: int, known: int) -> int:
        """Code a whole number of which about ``off`` / 16 is the magnitude."""
        expected = (lg_of(off + 1) - 1024) // 128
        size, target = 0, abs(known).bit_length()
        while size < _WIDEST:
            context = min(max(2 * size - expected, _NEAR), _FAR)
            if not self._chances.code(bits, what, context, int(target > size)):
                break
            size += 1
        if not size:
            return 0
        value = 1
        for place in range(size - 2, -1, -1):
            digit = abs(known) >> place & 1
            if value == 1:
                context = min(max(2 * size - expected, _NEAR), _FAR)
                value = 2 + self._chances.code(bits, what + "'s half", context, digit)
            else:
                value = 2 * value + bits.bit(_HALF, digit)
        return value if bits.bit(_HALF, int(known > 0)) else -value


def _check_place(kind: int, place: int) -> None:
    least, most = (0, _MANTISSA) if kind == _DIGITS else (-_FARTHEST, _FARTHEST)
    if not least <= place <= most:
        raise DamagedBytes(f"values: expected a place from {least} to {most}, got {place}")


def _check_width(number: int) -> int:
    if abs(number) >> _WIDEST:
        raise DamagedBytes(f"values: expected a number of at most {_WIDEST} bits, got {number}")
    return number


def _on_grid(values: Tensor) -> tuple[int, int, Integers] | None:
    exact = values.double().numpy()
    if not np.isfinite(exact).all() or (np.signbit(exact) & (exact == 0)).any():
        return None
    digits, places = np.frexp(exact)
    whole = np.ldexp(digits, _MANTISSA + 1).astype(np.int64)
    ends = places - _MANTISSA - 1 + np.log2(np.maximum(whole & -whole, 1)).astype(np.int64)
    place = int(ends[whole != 0].min(initial=1 << 10))
    if place == 1 << 10:
        place = 0
    numbers = np.ldexp(exact, -place)
    if (np.abs(numbers) >= 1 << (_WIDEST - 2)).any():
        return None
    return _GRID, place, numbers.astype(np.int64)


def _in_digits(values: Tensor) -> tuple[int, int, Integers] | None:
    patterns = values.contiguous().view(torch.int32).numpy().astype(np.int64)
    if (patterns <= 0).any() or not torch.isfinite(values).all():
        return None
    low = int(np.bitwise_or.reduce(patterns, initial=0)) & ((1 << _MANTISSA) - 1)
    place = _MANTISSA - ((low & -low).bit_length() - 1) if low else 0
    return _DIGITS, place, patterns >> (_MANTISSA - place)


def _about_bits(form: tuple[int, int, Integers]) -> int:
    kind, _, values = form
    if not len(values):
        return 0
    sizes = np.frexp(np.abs(values - middle(values)).astype(np.float64))[1]  # bit lengths
    # Digits keep company with other digits: a grid must save a bit per number.
    return int(sizes.sum()) + len(values) * (kind == _GRID)


def middle(values: Integers) -> int:
    """Give the median, the upper one of two."""
    return int(np.partition(values, len(values) // 2)[len(values) // 2])
