"""Plans and names as bytes: a small adaptive model of text, bit by bit, in integers.

The model has read a text that looks like a header before it begins. The probability of a bit
starts at 1/2 and is drawn, context by context from short to long, towards what the context has
seen.
"""

from __future__ import annotations

from functools import cache

from lissom.packed.fixed_point import ONE
from lissom.packed.known_text import KNOWN
from lissom.packed.single_bits import SingleBits, SingleReader, SingleWriter

LONGEST = 1 << 18  # bytes; more are kept as they are, so that reading takes seconds at most
_ORDERS = (0, 1, 2, 3, 4, 6)
_TRUST = 3
_LOWEST = 64

_Counts = dict[tuple[int, bytes, int], list[int]]


class _Model:
    def __init__(self, known: _Counts) -> None:
        self.counts = {context: list(pair) for context, pair in known.items()}
        self._history = b"\0" * max(_ORDERS)
        self._node = 1
        self._active: list[list[int]] = []

    def one(self) -> int:
        """Give the probability, in 1/65536, that the next bit is 1."""
        history, length = self._history, len(self._history)
        self._active = [
            self.counts.setdefault((order, history[length - order :], self._node), [0, 0])
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
    model, writer = _Model(_known()), SingleWriter()
    _feed(model, text, writer)
    return writer.content()


def read_text(content: bytes, length: int) -> bytes:
    """Undo ``code_text``; whatever ``content`` is, this gives ``length`` bytes."""
    decoder, model, text = SingleReader(content), _Model(_known()), bytearray()
    for _ in range(length):
        byte = 0
        for _ in range(8):
            bit = decoder.bit(model.one())
            model.learn(bit)
            byte = 2 * byte + bit
        text.append(byte)
    return bytes(text)


@cache
def _known() -> _Counts:
    """Give the counts of a model that has read the known text."""
    model = _Model({})
    _feed(model, KNOWN, SingleWriter())
    return model.counts


def _feed(model: _Model, text: bytes, bits: SingleBits) -> None:
    for byte in text:
        for place in range(7, -1, -1):
            model.learn(bits.bit(model.one(), byte >> place & 1))
