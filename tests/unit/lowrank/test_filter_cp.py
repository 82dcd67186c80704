from __future__ import annotations

import pytest
import tensorly
import torch
from tensorly.decomposition import parafac
from torch import Tensor

from lissom.lowrank import filter_cp as module
from lissom.lowrank.filter_cp import compose_filter_cp, filter_cp, full_rank


@pytest.fixture
def weight() -> Tensor:
    torch.manual_seed(0)
    spectrum = torch.linspace(1, 0.1, 9)
    return torch.einsum(
        "tsk,k,kl->tsl", torch.randn(6, 10, 9), spectrum, torch.randn(9, 9)
    ).reshape(6, 10, 3, 3)


@pytest.fixture
def covariance() -> Tensor:
    torch.manual_seed(1)
    places = torch.arange(9)
    apart = (places[:, None] // 3 - places // 3).abs() + (places[:, None] % 3 - places % 3).abs()
    mixed = torch.randn(4000, 10, 9) @ torch.linalg.cholesky(0.8**apart).T
    mixed = torch.einsum("nsk,sr->nrk", mixed, torch.randn(10, 10) * torch.linspace(1, 0.1, 10))
    samples = mixed.relu().flatten(1)
    return samples.T @ samples / 4000


def output_error(weight: Tensor, approximation: Tensor, covariance: Tensor) -> float:
    change = (weight - approximation).flatten(1).double()
    return float((change @ covariance.double() * change).sum())


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_as_good_as_tensorly_from_its_best_start(weight, rank) -> None:
    ours = compose_filter_cp(*filter_cp(weight, rank))
    for filter_, found in zip(weight, ours, strict=True):
        kernel = tensorly.tensor(filter_.double().numpy())
        theirs = min(
            float(
                tensorly.norm(
                    kernel
                    - tensorly.cp_to_tensor(
                        parafac(kernel, rank, init="random", random_state=seed, n_iter_max=300)
                    )
                )
            )
            for seed in range(2)
        )
        # ALS knows local optima only; ours comes from one deterministic start.
        assert float((filter_ - found).norm()) <= 1.15 * theirs


def test_rank_one_filters_are_found() -> None:
    torch.manual_seed(0)
    weight = torch.einsum("ts,ti,tj->tsij", torch.randn(5, 7), torch.randn(5, 3), torch.randn(5, 4))
    parts = filter_cp(weight, 1)
    torch.testing.assert_close(compose_filter_cp(*parts), weight, atol=1e-5, rtol=1e-4)
    assert [tuple(part.shape) for part in parts] == [(5, 1, 7), (5, 1, 3), (5, 1, 4)]
    norms = [part.norm(dim=2) for part in parts]  # balanced, so that all learn at one rate
    torch.testing.assert_close(norms[0], norms[1])
    torch.testing.assert_close(norms[0], norms[2])


def test_more_products_err_less_and_all_are_exact(weight, covariance) -> None:
    for metric in (None, covariance):
        errors = [
            output_error(
                weight,
                compose_filter_cp(*filter_cp(weight, rank, covariance=metric)),
                torch.eye(90) if metric is None else metric,
            )
            for rank in range(1, 10)
        ]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 1e-8 * errors[0]


@pytest.mark.parametrize("sides", [(10, 3, 3), (2, 3, 3), (1, 3, 5), (4, 2, 3), (3, 1, 3)])
def test_the_full_rank_is_exact_whatever_side_is_the_smallest(sides) -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, *sides)
    exact = compose_filter_cp(*filter_cp(weight, full_rank(*sides)))
    torch.testing.assert_close(exact, weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_whitening_lowers_the_output_error(weight, covariance, rank) -> None:
    channels = torch.einsum("akbk->ab", covariance.reshape(10, 9, 10, 9)) / 9
    errors = [
        output_error(
            weight, compose_filter_cp(*filter_cp(weight, rank, covariance=metric)), covariance
        )
        for metric in (None, covariance)
    ]
    assert errors[1] < 0.9 * errors[0]
    # Over channels alone, judged by what it knows.
    patches = torch.kron(channels, torch.eye(9))
    errors = [
        output_error(
            weight, compose_filter_cp(*filter_cp(weight, rank, covariance=metric)), patches
        )
        for metric in (None, channels)
    ]
    assert errors[1] < errors[0]


def test_rounds_under_the_covariance_pay(weight, covariance, monkeypatch) -> None:
    errors = []
    for rounds in (0, 1, 3):
        monkeypatch.setattr(module, "_ROUNDS", rounds)
        dense = compose_filter_cp(*filter_cp(weight, 2, covariance=covariance))
        errors.append(output_error(weight, dense, covariance))
    assert errors[0] > errors[1] > errors[2]


def test_zero_and_deficient_weights_are_fine() -> None:
    for weight in (torch.zeros(2, 3, 3, 3), torch.ones(2, 3, 3, 3)):
        for covariance in (None, torch.zeros(27, 27), torch.ones(27, 27)):
            dense = compose_filter_cp(*filter_cp(weight, 2, covariance=covariance))
            torch.testing.assert_close(dense, weight, atol=1e-3, rtol=0)


def test_results_repeat_and_keep_type(weight, covariance) -> None:
    first, second = (filter_cp(weight, 2, covariance=covariance) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(part.dtype == torch.bfloat16 for part in filter_cp(weight.bfloat16(), 2))


def test_wrong_arguments_are_named(weight) -> None:
    with pytest.raises(ValueError, match="rank=10, expected 1 to 9"):
        filter_cp(weight, 10)
    with pytest.raises(ValueError, match="needs a kernel"):
        filter_cp(weight[0], 1)
    with pytest.raises(ValueError, match=r"expected \(90, 90\) over patches"):
        filter_cp(weight, 1, covariance=torch.eye(11))
