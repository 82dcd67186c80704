"""Logarithms and probabilities in integers, so that every machine decodes the same bits.

``lg`` counts in 1/256 of a bit. Logits have base 2 and count in 1/64. Probabilities count in
1/65536 and never reach 0 or 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.signedinteger[Any]]

ONE = 65536
LOWEST = 16  # of a probability: what never happens still costs only 12 bits
HALF_LOGITS = 768  # logits go from -12 to 12
_MANTISSAS = 1024

# No entry lies so near to a tie that a library's rounding could decide it (tested).
_FRACTIONS = np.array(
    [round(256 * math.log2(1 + f / _MANTISSAS)) for f in range(_MANTISSAS)], np.int64
)
PROBABILITIES = np.clip(
    np.array([round(ONE / (1 + 2 ** (-i / 64))) for i in range(-HALF_LOGITS, HALF_LOGITS)]),
    LOWEST,
    ONE - LOWEST,
).astype(np.int64)


def lg(values: Integers) -> Integers:
    """Give logarithms to base 2 in 1/256, from the leading 11 bits of each value.

    Args:
        values: Integers in [1, 2^53).
    """
    mantissas, exponents = np.frexp(values.astype(np.float64))  # exact: no rounding below 2^53
    fractions = (mantissas * (2 * _MANTISSAS)).astype(np.int64) - _MANTISSAS
    return (exponents.astype(np.int64) - 1) * 256 + _FRACTIONS[fractions]


def lg_of(value: int) -> int:
    """Give ``lg`` of one integer."""
    size = value.bit_length() - 1
    fraction = (value * _MANTISSAS >> size) - _MANTISSAS
    return size * 256 + int(_FRACTIONS[fraction])


def logit_index(logits: Integers) -> Integers:
    """Give the place of each logit, in 1/64, in ``PROBABILITIES``."""
    return np.clip(logits, -HALF_LOGITS, HALF_LOGITS - 1) + HALF_LOGITS
