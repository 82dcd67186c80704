from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.packed.accounting import (
    bits_of,
    entropy_bits,
    no_index_bits,
    relative_index_bits,
    storage_of,
)
from lissom.packed.network import packed_network
from lissom.packed.tensors import Levels
from lissom.plan.plan import Plan
from lissom.plan.quantize import Quantize
from packed_samples import kernels


def array(*levels: int) -> np.ndarray:
    return np.array(levels, np.int32)


@pytest.mark.parametrize(
    ("largest", "bits"), [(0, 1), (1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (-8, 4), (9, 5)]
)
def test_bits_are_one_and_the_logarithm_of_the_largest_magnitude(largest: int, bits: int) -> None:
    assert bits_of(array(0, largest, 0)) == bits
    assert bits == 1 + (math.ceil(math.log2(abs(largest))) if largest else 0)


def test_without_an_index_only_levels_count() -> None:
    assert no_index_bits(array(0, 3, 0, 0, -1), 3) == 6


@pytest.mark.parametrize(
    ("levels", "bits", "expected"),
    [
        # Runs 0 and 1: two entries of one bit of run length and three of level.
        (array(1, 0, -1), 3, 2 * (1 + 3)),
        # Runs 0 and 2: w=1 needs a filler, 3 * 4; w=2 none, 2 * 5.
        (array(1, 0, 0, -1), 3, 10),
        # A run of 8: w=3 takes a filler for all of it, 2 * 6; w=4 takes none, 7.
        (array(*[0] * 8, 1), 3, 7),
        # One run of 300 before ternary levels: w=8 with a filler, 2 * 9; w=7 with two, 3 * 8.
        (array(*[0] * 300, 1), 1, 18),
        # Runs of 0 but for one: w=1 and a filler, 22 entries of 2 bits.
        (array(*[1] * 20, 0, 0, 1), 1, 44),
        (array(0, 0, 0), 4, 0),
    ],
)
def test_run_lengths_are_counted_by_hand(levels: np.ndarray, bits: int, expected: int) -> None:
    assert relative_index_bits(levels, bits) == expected


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 1), max_size=300), st.integers(1, 8))
def test_run_lengths_are_those_of_an_encoder_that_walks(levels: list[int], bits: int) -> None:
    def entries(width: int) -> int:
        count, run = 0, 0
        for level in levels:
            if level or run == 2**width - 1:  # a zero here is a filler
                count, run = count + 1, 0
            else:
                run += 1
        # Fillers after the last level are not written.
        tail = len(levels) - 1 - max((i for i, one in enumerate(levels) if one), default=-1)
        return count - tail // 2**width

    expected = min(entries(width) * (width + bits) for width in range(1, 9))
    assert relative_index_bits(array(*levels), bits) == expected


def test_entropy_of_a_quarter_and_a_half() -> None:
    assert entropy_bits(array(0, 0, 1, -1)) == 4 * 1.5
    assert entropy_bits(array(0, 0, 1, -1) != 0) == 4
    assert entropy_bits(array(7, 7)) == 0
    assert entropy_bits(array()) == 0


def network() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    levels = torch.from_numpy(kernels((8, 6, 3, 3), 0.3)).clamp(-4, 4)
    return {
        "a.weight": Levels(levels, torch.tensor(0.3)).tensor(),
        "a.bias": torch.randn(8, generator=draw),
        "b.weight": Levels(torch.eye(10, 12).int(), torch.rand(10, generator=draw)).tensor(),
        "head.weight": torch.randn(4, 10, generator=draw).half().float(),
        "norm.num_batches_tracked": torch.tensor(5),
    }


def test_the_ratios_and_kinds_of_a_whole_file() -> None:
    state = network()
    a = torch.round(state["a.weight"] / 0.3).int().reshape(-1).numpy()
    plan = Plan((Quantize("a", 4, 1, channel_scales=False),))
    packed = packed_network(state, plan)
    found = storage_of(state, plan, packed, 1_000)

    plain = 40 * 16  # as float16, which holds them
    eye = torch.eye(10, 12).int().reshape(-1).numpy()
    assert found.bytes == {
        "r1_no_index": (plain + 4 * np.count_nonzero(a) + 10) / 8,
        "r2_relative_index": (plain + relative_index_bits(a, 4) + relative_index_bits(eye, 1)) / 8,
        "r3_entropy_bound": (plain + entropy_bits(a) + entropy_bits(eye)) / 8,
        "r4_file": len(packed.content),
    }
    assert found.ratios == {
        name: pytest.approx(4_000 / value) for name, value in found.bytes.items()
    }
    assert sum(found.by_kind.values()) == len(packed.content)
    assert found.by_kind["levels"] == packed.level_bytes
    assert found.by_kind["header_and_plan"] == packed.header_bytes
    assert found.by_kind["scales"] > 10 * 2  # random ones: nothing to save
    assert found.by_kind["plain_weights"] >= 40
    assert found.by_kind["norms_and_biases"] >= 8 * 3
    assert found.estimates["mask"] == (entropy_bits(a != 0) + entropy_bits(eye != 0)) / 8


def test_nothing_left_has_no_ratio() -> None:
    state = {"a.weight": torch.zeros(4, 4)}
    found = storage_of(state, Plan(()), packed_network(state, Plan(())), 16)
    assert found.ratios["r1_no_index"] is None
    assert found.ratios["r3_entropy_bound"] is None
    assert found.ratios["r4_file"] is not None
