"""Plans and names as bytes: a small adaptive model of text, bit by bit, in integers.

The probability of a bit starts at 1/2 and is drawn, context by context from short to long, towards
what the context has seen.
"""

from __future__ import annotations

import numpy as np

from lissom.packed.bits import Writer
from lissom.packed.fixed_point import ONE

LONGEST = 1 << 18  # bytes; more are kept as they are, so that reading takes seconds at most
_ORDERS = (0, 1, 2, 3, 4, 6)
_TRUST = 3
_LOWEST = 64
_STATE = (1 << 64) - 1
_WORD = 32
_SCALE = 24


class _Model:
    def __init__(self) -> None:
        self._counts: dict[tuple[int, bytes, int], list[int]] = {}
        self._history = b"\0" * max(_ORDERS)
        self._node = 1
        self._active: list[list[int]] = []

    def one(self) -> int:
        """Give the probability, in 1/65536, that the next bit is 1."""
        history, length = self._history, len(self._history)
        self._active = [
            self._counts.setdefault((order, history[length - order :], self._node), [0, 0])
            for order in _ORDERS
        ]
        chance = ONE // 2
        for zeros, ones in self._active:
            chance = (_TRUST * ONE * ones + chance) // (_TRUST * (zeros + ones) + 1)
        return min(max(chance, _LOWEST), ONE - _LOWEST)

    def learn(self, bit: int) -> None:
        """Count the bit; what was seen of the opposite counts for less from now on."""
        for counts in self._active:
            counts[bit] += 1
            if counts[1 - bit] > 2:
                counts[1 - bit] = counts[1 - bit] + 1 >> 1
        self._node = 2 * self._node + bit
        if self._node >= 256:
            self._history = self._history[1:] + bytes([self._node - 256])
            self._node = 1


def code_text(text: bytes) -> bytes:
    """Give ``text`` in fewer bytes.

    Args:
        text: At most ``LONGEST`` bytes.
    """
    bits = [byte >> place & 1 for byte in text for place in range(7, -1, -1)]
    model, chances = _Model(), []
    for bit in bits:
        chances.append(model.one())
        model.learn(bit)
    writer = Writer()
    writer.code(np.array(chances, np.int64), np.array(bits, np.bool_))
    return writer.content()


def read_text(content: bytes, length: int) -> bytes:
    """Undo ``code_text``; whatever ``content`` is, this gives ``length`` bytes."""
    decoder, model, text = _RangeDecoder(content), _Model(), bytearray()
    for _ in range(length):
        byte = 0
        for _ in range(8):
            bit = decoder.bit(model.one())
            model.learn(bit)
            byte = 2 * byte + bit
        text.append(byte)
    return bytes(text)


class _RangeDecoder:
    """The range decoder of ``lissom.packed.bits`` for one bit at a time."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0
        self._low, self._range = 0, _STATE
        self._point = self._word() << _WORD | self._word()

    def bit(self, one: int) -> int:
        """Read a bit that is 1 with a probability of ``one`` / 65536."""
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
