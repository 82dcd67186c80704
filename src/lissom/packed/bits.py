"""Where modelled bits go to and come from: a range coder, or a meter that only adds up prices.

The range coder is constriction's, with 32-bit words, 64-bit state and 24-bit probabilities.
"""

from __future__ import annotations

from typing import Any, Protocol

import constriction
import numpy as np
from numpy.typing import NDArray

from lissom.packed.fixed_point import ONE, Integers, lg

Flags = NDArray[np.bool_]

_FAMILY: Any = constriction.stream.model.Bernoulli(perfect=False)
_PRICES = np.zeros(ONE + 1, np.int64)
_PRICES[1:] = 16 * 256 - lg(np.arange(1, ONE + 1))
_EVEN = np.array([ONE // 2])


class DamagedStream(ValueError):  # noqa: N818  (a state of the data, caught inside this room)
    """The bits can't have been written under this model."""


class Bits(Protocol):
    """Takes bits that are known, or gives bits that are not."""

    def code(self, table: Integers, places: Integers, known: Flags | None) -> Flags:
        """Code one bit per entry of ``places``.

        Args:
            table: Probabilities, in 1/65536, that a bit is 1; in [1, 65535].
            places: Where in the table each bit has its own.
            known: The bits when writing; None when reading.

        Returns:
            The bits.
        """


class Writer:
    """Writes bits with a range coder."""

    def __init__(self) -> None:
        self._encoder: Any = constriction.stream.queue.RangeEncoder()

    def code(self, table: Integers, places: Integers, known: Flags | None) -> Flags:
        """Write ``known``."""
        if known is None:
            raise ValueError("a writer needs the bits")
        if len(known):
            self._encoder.encode(known.astype(np.int32), _FAMILY, (table / ONE)[places])
        return known

    def content(self) -> bytes:
        """Give the bytes so far: big-endian words without the zeros at the end."""
        words = self._encoder.get_compressed()
        return bytes(words.astype(">u4").tobytes()).rstrip(b"\0")


class Reader:
    """Reads bits that ``Writer`` wrote."""

    def __init__(self, content: bytes) -> None:
        padded = content + bytes(-len(content) % 4)
        words = np.frombuffer(padded, ">u4").astype(np.uint32)
        self._decoder: Any = constriction.stream.queue.RangeDecoder(words)

    def code(self, table: Integers, places: Integers, known: Flags | None) -> Flags:
        """Read as many bits as ``places`` has entries.

        Raises:
            DamagedStream: No bit fits.
        """
        if known is not None:
            raise ValueError("a reader finds the bits itself")
        if not len(places):
            return np.zeros(0, np.bool_)
        try:
            decoded = self._decoder.decode(_FAMILY, (table / ONE)[places])
        except AssertionError as error:  # constriction's answer to impossible data
            raise DamagedStream(str(error)) from None
        return np.asarray(decoded).astype(np.bool_)


class Meter:
    """Adds up what ``known`` would cost.

    Attributes:
        price: So far, in 1/256 bit.
    """

    def __init__(self) -> None:
        self.price = 0

    def code(self, table: Integers, places: Integers, known: Flags | None) -> Flags:
        """Add the price of ``known``."""
        if known is None:
            raise ValueError("a meter needs the bits")
        seen = np.bincount(places, minlength=len(table))
        ones = np.bincount(places[known], minlength=len(table))
        self.price += int(ones @ _PRICES[table] + (seen - ones) @ _PRICES[ONE - table])
        return known


def raw(bits: Bits, count: int, known: Flags | None) -> Flags:
    """Code ``count`` bits that are as often 1 as 0."""
    return bits.code(_EVEN, np.zeros(count, np.int64), known)
