from __future__ import annotations

import pytest
import torch

from lissom.lowrank.rank import align, energy_rank, relative_rank
from lissom.plan.alignment import aligned_counts


@pytest.mark.parametrize(
    ("count", "full", "round_to", "expected"),
    [
        (3, 64, "auto", 8),
        (11, 64, "auto", 8),
        (12, 64, "auto", 16),
        (63, 64, "auto", 64),
        (40, 128, "auto", 48),
        (39, 128, "auto", 32),
        (2, 3, "auto", 3),
        (98, 100, "auto", 96),
        (99, 100, 5, 100),
        (7, 64, 1, 7),
        (0, 64, 1, 1),
    ],
)
def test_alignment(count, full, round_to, expected) -> None:
    assert align(count, full, round_to) == expected
    assert expected in aligned_counts(full, round_to)


@pytest.mark.parametrize("round_to", ["none", 0, -8, True])
def test_alignment_that_means_nothing(round_to) -> None:
    with pytest.raises(ValueError, match=r"expected 'auto' or an integer of at least 1"):
        align(3, 8, round_to)


def test_relative_rank() -> None:
    assert relative_rank(0.5, 64) == 32
    assert relative_rank(0.01, 64) == 1
    assert relative_rank(0.3, 64, "auto") == 16
    with pytest.raises(ValueError, match="fraction=0"):
        relative_rank(0, 64)


def test_energy_rank() -> None:
    energies = torch.tensor([1.0, 4.0, 2.0, 3.0])
    assert [energy_rank(energies, share) for share in (0.4, 0.41, 0.7, 0.9, 1.0)] == [1, 2, 2, 3, 4]
