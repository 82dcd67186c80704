"""How large the non-zero levels are: the number of bits first, then the bits."""

from __future__ import annotations

import numpy as np

from lissom.packed.bits import Bits, Flags, raw
from lissom.packed.counters import Contexts
from lissom.packed.fixed_point import Integers

ENERGY_CLASSES = 5
_MODELLED = 3  # leading bits after the first one that are worth a probability of their own


class Magnitudes:
    """Codes |level| >= 1 where it is known that the level is not zero.

    Args:
        largest: Bits of the largest magnitude, less one: 0 if all of them are 1.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._sizes = Contexts(largest, ENERGY_CLASSES)
        self._leading = Contexts(_MODELLED, (largest + 1) << _MODELLED)

    def code(self, bits: Bits, energies: Integers, known: Integers | None) -> Integers:
        """Code one magnitude per entry of ``energies``.

        Args:
            bits: Where they go to or come from.
            energies: Class of what surrounds the level, in [0, ENERGY_CLASSES).
            known: The magnitudes when writing; None when reading.
        """
        if not self._largest:
            return np.ones(len(energies), np.int64)
        sizes = self._code_sizes(bits, energies, known)
        found = np.ones(len(energies), np.int64)
        for depth in range(self._largest):
            longer = np.flatnonzero(sizes > depth)
            if not len(longer):
                break
            bit = _bit(known, longer, sizes[longer] - 1 - depth)
            if depth < _MODELLED:
                contexts = (sizes[longer] << _MODELLED) + found[longer]
                digit = self._leading.code(bits, depth, contexts, bit)
            else:
                digit = raw(bits, len(longer), bit)
            found[longer] = 2 * found[longer] + digit
        return found

    def _code_sizes(self, bits: Bits, energies: Integers, known: Integers | None) -> Integers:
        """Code floor(log2 |level|), one step up at a time."""
        sizes = np.zeros(len(energies), np.int64)
        left = np.arange(len(energies))
        for size in range(self._largest):
            if not len(left):
                break
            larger = None if known is None else known[left] >> (size + 1) > 0
            left = left[self._sizes.code(bits, size, energies[left], larger)]
            sizes[left] += 1
        return sizes


def _bit(known: Integers | None, which: Integers, place: Integers) -> Flags | None:
    return None if known is None else (known[which] >> place & 1).astype(np.bool_)
