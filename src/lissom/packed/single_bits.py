"""The range coder of ``lissom.packed.bits``, one bit at a time, each under what came before it."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from lissom.packed.bits import Writer
from lissom.packed.fixed_point import LOWEST, ONE

_STATE = (1 << 64) - 1
_WORD = 32
_SCALE = 24


class SingleBits(Protocol):
    """Takes a bit that is known, or gives one that is not."""

    def bit(self, one: int, known: int) -> int:
        """Code a bit.

        Args:
            one: Probability, in 1/65536, that it is 1; in [1, 65535].
            known: The bit when writing; anything when reading.

        Returns:
            The bit.
        """


class SingleWriter:
    """Writes bits."""

    def __init__(self) -> None:
        self._ones: list[int] = []
        self._bits: list[int] = []

    def bit(self, one: int, known: int) -> int:
        """Write ``known``."""
        self._ones.append(one)
        self._bits.append(known)
        return known

    def content(self) -> bytes:
        """Give the bytes so far."""
        writer = Writer()
        bits = np.array(self._bits, np.bool_)
        writer.code(np.array(self._ones, np.int64), np.arange(len(bits)), bits)
        return writer.content()


class SingleReader:
    """Reads bits; whatever ``content`` is, there is always a next one.

    Args:
        content: What ``SingleWriter`` gave.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0
        self._low, self._range = 0, _STATE
        self._point = self._word() << _WORD | self._word()

    def bit(self, one: int, known: int = 0) -> int:
        """Read a bit that is 1 with a probability of ``one`` / 65536."""
        del known
        zero = (((1 << _SCALE) - 2) * (ONE - one) >> 16) + 1
        part = self._range >> _SCALE
        bit = int((self._point - self._low & _STATE) >= part * zero)
        self._low += part * zero * bit
        self._range = part * ((1 << _SCALE) - zero if bit else zero)
        if self._range < 1 << _WORD:
            self._low <<= _WORD
            self._range <<= _WORD
            self._point = (self._point << _WORD | self._word()) & _STATE
        self._low &= _STATE
        return bit

    def _word(self) -> int:
        word = self._content[self._at : self._at + 4]
        self._at += 4
        return int.from_bytes(word + bytes(4 - len(word)), "big")


class Chances:
    """Probabilities of bits by context, from how often each was 1."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], list[int]] = {}

    def code(self, bits: SingleBits, what: str, context: int, known: int) -> int:
        """Code a bit and learn from it."""
        counts = self._counts.setdefault((what, context), [0, 0])
        one = ONE * (2 * counts[1] + 1) // (2 * (counts[0] + counts[1] + 1))
        bit = bits.bit(min(max(one, LOWEST), ONE - LOWEST), known)
        counts[bit] += 1
        return bit
