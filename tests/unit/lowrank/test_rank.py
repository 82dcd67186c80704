from __future__ import annotations

import pytest
import torch

from lissom.lowrank.rank import (
    align,
    channel_svd_break_even,
    channel_svd_rank_for,
    energy_rank,
    full_svd_rank,
    mode_energies,
    relative_rank,
    tucker2_break_even,
    tucker2_ranks_for,
)
from lissom.plan.alignment import aligned_counts
from lissom.plan.predict import LayerShape, channel_svd_cost, dense_cost, tucker2_cost

SHAPE = LayerShape(64, 32, 9, 49, 16, bias=True)


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


def test_mode_energies_are_those_of_the_unfoldings() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3, 3, dtype=torch.float64)
    outputs = torch.linalg.svdvals(weight.flatten(1)).square()
    inputs = torch.linalg.svdvals(weight.transpose(0, 1).flatten(1)).square()
    torch.testing.assert_close(mode_energies(weight, 0)[:6], outputs)
    torch.testing.assert_close(mode_energies(weight, 1), inputs)
    samples = torch.randn(200, 45, dtype=torch.float64)
    whole = mode_energies(weight, 0, covariance=samples.T @ samples / 200).sum()
    seen = (samples @ weight.flatten(1).T).square().sum() / 200
    assert float(whole) == pytest.approx(float(seen), rel=1e-3)
    with pytest.raises(ValueError, match="mode=2"):
        mode_energies(weight, 2)


@pytest.mark.parametrize("unit", ["macs", "params"])
@pytest.mark.parametrize("round_to", [1, 8, "auto"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_largest_ranks_within_a_cost(unit, round_to, share) -> None:
    limit = int(share * getattr(dense_cost(SHAPE), unit))
    found = tucker2_ranks_for(SHAPE, limit, unit, round_to)
    assert found is not None
    rank_in, rank_out = found
    assert getattr(tucker2_cost(SHAPE, rank_in, rank_out), unit) <= limit
    # The step is the same on both sides, so the proportions differ by at most one step.
    step = 1 if round_to == 1 else 8
    assert abs(rank_out / 64 - rank_in / 32) <= step / 32
    assert getattr(tucker2_cost(SHAPE, rank_in + step, rank_out + step), unit) > limit
    rank = channel_svd_rank_for(SHAPE, limit, unit, round_to)
    assert rank is not None
    assert getattr(channel_svd_cost(SHAPE, rank), unit) <= limit
    assert getattr(channel_svd_cost(SHAPE, rank + step), unit) > limit


def test_nothing_fits_a_tiny_limit() -> None:
    assert tucker2_ranks_for(SHAPE, 10, "macs") is None
    assert channel_svd_rank_for(SHAPE, 10, "params") is None


def test_break_even() -> None:
    rank = channel_svd_break_even(SHAPE, "macs")
    assert rank == 52  # r < T S d^2 / (S d^2 + T) = 52.4
    ranks = tucker2_break_even(SHAPE, "params")
    assert ranks is not None
    assert tucker2_cost(SHAPE, *ranks).params < dense_cost(SHAPE).params
    assert channel_svd_break_even(LayerShape(8, 1, 1, 4, 4, bias=False), "macs") is None
    assert full_svd_rank(LayerShape(8, 1, 1, 4, 4, bias=False)) == 1
