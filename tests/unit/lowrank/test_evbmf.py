from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lissom.lowrank.evbmf import _tau_bar, evbmf_rank


def noisy(rank: int, sides: tuple[int, int], noise: float, seed: int = 0) -> Tensor:
    """Give a matrix of a rank, of unit variance per entry, under noise."""
    torch.manual_seed(seed)
    left, right = torch.randn(sides[0], rank), torch.randn(rank, sides[1])
    return left @ right / rank**0.5 + noise * torch.randn(sides)


@pytest.mark.parametrize("sides", [(40, 200), (200, 40), (64, 64)])
@pytest.mark.parametrize("rank", [1, 5, 12])
@pytest.mark.parametrize("noise", [0.01, 0.1, 0.3])
def test_the_rank_under_noise_is_recovered(sides, rank, noise) -> None:
    assert evbmf_rank(noisy(rank, sides, noise)) == rank


def test_noise_alone_has_no_rank() -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        assert evbmf_rank(torch.randn(50, 120)) == 0


def test_more_noise_hides_directions() -> None:
    torch.manual_seed(0)
    decaying = torch.randn(60, 60) * torch.linspace(1, 0, 60).pow(4) @ torch.randn(60, 60)
    ranks = [evbmf_rank(decaying + noise * torch.randn(60, 60)) for noise in (0.1, 1.0, 3.0)]
    assert ranks == sorted(set(ranks), reverse=True)
    assert ranks[-1] > 0


def test_scale_and_side_do_not_matter() -> None:
    matrix = noisy(4, (30, 90), 0.2)
    assert evbmf_rank(matrix) == evbmf_rank(1e-6 * matrix) == evbmf_rank(matrix.T) == 4


def test_exact_low_rank_and_empty_matrices() -> None:
    assert evbmf_rank(noisy(3, (20, 50), 0.0).double()) in (3, 4)  # float32 rounding may count
    assert evbmf_rank(torch.zeros(4, 6)) == 0


def test_the_threshold_is_the_known_one() -> None:
    for alpha in (0.1, 0.5, 1.0):
        # Nakajima et al. give 2.5129 sqrt(alpha) as an approximation, exact at alpha = 1.
        assert _tau_bar(alpha) == pytest.approx(2.5129 * alpha**0.5, rel=0.05 * (1 - alpha) + 1e-4)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="needs a matrix"):
        evbmf_rank(torch.zeros(2, 2, 2))
    with pytest.raises(ValueError, match="not finite"):
        evbmf_rank(torch.full((3, 3), float("nan")))
