"""What a packed file's bytes are for, and the ratios that papers would print of it.

The four ratios share their numerator, the original's parameters as float32, and differ in what they
count. The first three count weights alone: levels as each says, other weights as they are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lissom.packed.recognise import packable
from lissom.packed.stored_chunk import narrowest
from lissom.packed.tensors import Levels, Stored
from lissom.packed.writer import PackedFile, pack
from lissom.plan.plan import Plan
from lissom.plan.quantize import Quantize

Integers = NDArray[np.signedinteger[Any]]

_FIELD_WIDTHS = range(1, 9)


@dataclass(frozen=True, slots=True)
class Storage:
    """What a network takes.

    Attributes:
        original_bytes: Parameters of the original as float32, 4 bytes each.
        bytes: What is counted, by name of the ratio: ``r1_no_index``, ``r2_relative_index``,
            ``r3_entropy_bound``, ``r4_file``.
        ratios: ``original_bytes`` over each of them; None over nothing.
        by_kind: Bytes of the file; they add up to it.
        estimates: Bytes that are no part of the file as such: ``mask``, the entropy of which
            levels are zero, is what the levels' bytes spend on that if coded layer by layer.
    """

    original_bytes: int
    bytes: Mapping[str, float]
    ratios: Mapping[str, float | None]
    by_kind: Mapping[str, int]
    estimates: Mapping[str, float]


def storage_of(
    state: Mapping[str, Tensor], plan: Plan, packed: PackedFile, parameters: int
) -> Storage:
    """Account for a packed file.

    Args:
        state: What the file was made of.
        plan: The same; its ``Quantize`` decisions say the bits of a level.
        packed: The file.
        parameters: Of the original network.
    """
    known = {f"{one.layer}.weight": one.bits for one in plan.decisions if isinstance(one, Quantize)}
    tensors = {name: packable(value) for name, value in sorted(state.items())}
    levels = {
        name: tensor.levels.reshape(-1).numpy()
        for name, tensor in tensors.items()
        if isinstance(tensor, Levels)
    }
    bits = {name: known.get(name, bits_of(values)) for name, values in levels.items()}
    plain = sum(
        8 * narrowest(tensor.values).itemsize * tensor.values.numel()
        for tensor in tensors.values()
        if isinstance(tensor, Stored) and tensor.values.ndim > 1
    )
    counted = {
        "r1_no_index": plain + sum(no_index_bits(levels[name], bits[name]) for name in levels),
        "r2_relative_index": plain
        + sum(relative_index_bits(levels[name], bits[name]) for name in levels),
        "r3_entropy_bound": plain + sum(map(entropy_bits, levels.values())),
        "r4_file": 8 * len(packed.content),
    }
    original = 4 * parameters
    return Storage(
        original,
        {name: value / 8 for name, value in counted.items()},
        {name: 8 * original / value if value else None for name, value in counted.items()},
        _by_kind(packed, [one for one in tensors.values() if isinstance(one, Stored)]),
        {"mask": sum(entropy_bits(values != 0) for values in levels.values()) / 8},
    )


def bits_of(levels: Integers) -> int:
    """Give the bits of a level that is not zero: 1 + log2 of the largest magnitude, rounded up."""
    largest = int(np.abs(levels).max(initial=0))
    return 1 + max(largest - 1, 0).bit_length()


def no_index_bits(levels: Integers, bits: int) -> int:
    """Give the bits of the levels that are not zero, as if their places were known."""
    return bits * int(np.count_nonzero(levels))


def relative_index_bits(levels: Integers, bits: int) -> int:
    """Give the bits of the levels with run lengths of zeros before each, in the cheapest field.

    A run that the field of w bits can't hold is cut by filler zeros: entries like any other, each
    of which covers 2^w places. Zeros at the end cost nothing.

    Args:
        levels: One axis, in the order of the file.
        bits: Of a level.

    Source:
        Han et al., ICLR 2016, arXiv:1510.00149, Sec. 2, figure 2.
    """
    places = np.flatnonzero(levels)
    runs = np.diff(places, prepend=-1) - 1
    return min(
        (len(places) + int((runs >> width).sum())) * (width + bits) for width in _FIELD_WIDTHS
    )


def entropy_bits(symbols: NDArray[Any]) -> float:
    """Give the zeroth-order entropy of all symbols together, without any table."""
    counts = np.unique(symbols, return_counts=True)[1]
    return math.fsum(-count * math.log2(count / symbols.size) for count in counts.tolist())


def _by_kind(packed: PackedFile, stored: Iterable[Stored]) -> dict[str, int]:
    """Divide the bytes; kinds that share chunks by what the file grows by because of them."""
    tensors = list(stored)
    vectors = _stored_bytes(one for one in tensors if one.values.ndim < 2)
    all_stored = _stored_bytes(tensors)
    return {
        "levels": packed.level_bytes,
        "scales": packed.stored_bytes - all_stored,
        "plain_weights": all_stored - vectors,
        "norms_and_biases": vectors,
        "header_and_plan": packed.header_bytes,
    }


def _stored_bytes(tensors: Iterable[Stored]) -> int:
    return pack({str(number): tensor for number, tensor in enumerate(tensors)}).stored_bytes
