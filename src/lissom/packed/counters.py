"""Probabilities that learn from what was coded, as integer counts."""

from __future__ import annotations

import numpy as np

from lissom.packed.bits import Bits, Flags
from lissom.packed.fixed_point import HALF_LOGITS, LOWEST, ONE, PROBABILITIES, Integers

_CLASS = 32  # logits, in 1/64, that share a count
_CLASSES = 2 * HALF_LOGITS // _CLASS
_CENTRES = PROBABILITIES[_CLASS // 2 :: _CLASS]
_TRUST = 32  # bits after which a count weighs as much as the centre of its class
_PARENT = 8  # the same for a context and the mean of its contexts


class Corrected:
    """Two models, mixed: what a logit says, and how often its neighbours came true so far."""

    def __init__(self) -> None:
        self._ones = np.zeros(_CLASSES, np.int64)
        self._seen = np.zeros(_CLASSES, np.int64)

    def code(self, bits: Bits, places: Integers, known: Flags | None) -> Flags:
        """Code a bit per place, then learn from all of them.

        Args:
            bits: Where they go to or come from.
            places: Of the logits, from ``logit_index``.
            known: The bits when writing; None when reading.
        """
        learned = (ONE * self._ones + _TRUST * _CENTRES) // (self._seen + _TRUST)
        table = np.clip((PROBABILITIES + np.repeat(learned, _CLASS)) >> 1, LOWEST, ONE - LOWEST)
        found = bits.code(table, places, known)
        self._seen += _by_class(places)
        self._ones += _by_class(places[found])
        return found


def _by_class(places: Integers) -> Integers:
    counts = np.bincount(places, minlength=len(PROBABILITIES))
    return counts.reshape(_CLASSES, _CLASS).sum(axis=1)


class Contexts:
    """A probability per step and context; a context leans on its step as long as it knows little.

    Args:
        steps: How many steps there are.
        contexts: How many contexts each of them has.
    """

    def __init__(self, steps: int, contexts: int) -> None:
        self._ones = np.zeros((steps, contexts), np.int64)
        self._seen = np.zeros((steps, contexts), np.int64)

    def code(self, bits: Bits, step: int, contexts: Integers, known: Flags | None) -> Flags:
        """Code a bit per entry of ``contexts``, then learn from all of them."""
        ones, seen = self._ones[step], self._seen[step]
        parent = ONE * (2 * int(ones.sum()) + 1) // (2 * int(seen.sum()) + 2)
        table = np.clip((ONE * ones + _PARENT * parent) // (seen + _PARENT), LOWEST, ONE - LOWEST)
        found = bits.code(table, contexts, known)
        seen += np.bincount(contexts, minlength=len(seen))
        ones += np.bincount(contexts[found], minlength=len(ones))
        return found
