from __future__ import annotations

import pytest
import tensorly
import torch
from tensorly.decomposition import partial_tucker
from torch import Tensor

from lissom.lowrank import factorize
from lissom.lowrank.factorize import (
    channel_svd,
    compose_svd,
    compose_tucker2,
    linear_svd,
    tucker2,
)


@pytest.fixture
def weight() -> Tensor:
    torch.manual_seed(0)
    # A decaying spectrum along both modes, as trained layers have.
    left = torch.randn(12, 12) * torch.linspace(1, 0.05, 12)
    right = torch.randn(10, 10) * torch.linspace(1, 0.05, 10)
    return torch.einsum("ta,abhw,sb->tshw", left, torch.randn(12, 10, 3, 3), right)


@pytest.fixture
def covariance() -> Tensor:
    """Neighbouring positions correlated, channels of unequal strength."""
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


@pytest.mark.parametrize(("rank_out", "rank_in"), [(3, 3), (6, 4), (12, 2), (2, 10)])
def test_tucker2_equals_tensorly(weight, rank_out, rank_in) -> None:
    ours = compose_tucker2(*tucker2(weight, rank_out, rank_in))
    kernel = tensorly.tensor(weight.double().numpy())
    (core, factors), _ = partial_tucker(kernel, rank=[rank_out, rank_in], modes=[0, 1], tol=1e-10)
    theirs = tensorly.tenalg.multi_mode_dot(core, factors, modes=[0, 1])
    ours_error = float((weight - ours).double().norm())
    theirs_error = float((weight.double() - torch.from_numpy(theirs)).norm())
    assert ours_error == pytest.approx(theirs_error, rel=1e-3)


def test_factor_shapes_and_orthonormality(weight) -> None:
    last, core, first = tucker2(weight, 5, 4)
    assert (last.shape, core.shape, first.shape) == ((12, 5), (5, 4, 3, 3), (4, 10))
    torch.testing.assert_close(last.T @ last, torch.eye(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(first @ first.T, torch.eye(4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("rank", [2, 5, 8])
def test_whitening_lowers_the_output_error(weight, covariance, rank) -> None:
    channels = torch.einsum("akbk->ab", covariance.reshape(10, 9, 10, 9)) / 9
    errors = [
        output_error(
            weight, compose_tucker2(*tucker2(weight, rank, rank, covariance=c)), covariance
        )
        for c in (None, channels, covariance)
    ]
    assert errors[2] < errors[1] < errors[0]
    errors = [
        output_error(weight, compose_svd(*channel_svd(weight, rank, covariance=c)), covariance)
        for c in (None, channels, covariance)
    ]
    assert errors[2] < errors[1] < errors[0]


def test_refining_the_input_factor_never_hurts(weight, covariance, monkeypatch) -> None:
    errors = []
    for rounds in (0, 1, 3, 30):
        monkeypatch.setattr(factorize, "_ROUNDS", rounds)
        factors = tucker2(weight, 5, 5, covariance=covariance)
        errors.append(output_error(weight, compose_tucker2(*factors), covariance))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.995 * errors[0]


def test_channel_level_equals_its_patch_level_kronecker_product(weight, covariance) -> None:
    channels = torch.einsum("akbk->ab", covariance.reshape(10, 9, 10, 9)) / 9
    patches = torch.kron(channels, torch.eye(9))
    for rank in (3, 7):
        small = compose_tucker2(*tucker2(weight, rank, rank, covariance=channels))
        large = compose_tucker2(*tucker2(weight, rank, rank, covariance=patches))
        # Two routes to one optimum; HOOI stops at 1e-9 of the energy.
        assert output_error(weight, small, patches) == pytest.approx(
            output_error(weight, large, patches), rel=1e-4
        )


def test_no_random_factors_beat_the_closed_form(weight, covariance) -> None:
    last, first = channel_svd(weight, 4, covariance=covariance)
    best = output_error(weight, compose_svd(last, first), covariance)
    torch.manual_seed(3)
    for _ in range(20):
        nearby = compose_svd(last + 0.01 * torch.randn_like(last), first)
        assert output_error(weight, nearby, covariance) > best


def test_rank_deficient_and_empty_covariances_are_fine(weight) -> None:
    sample = torch.randn(3, 90)
    for covariance in (sample.T @ sample, torch.zeros(90, 90)):
        full = compose_tucker2(*tucker2(weight, 12, 10, covariance=covariance))
        # Relative: the kernel's entries are of the order of 10.
        torch.testing.assert_close(full, weight, rtol=1e-4, atol=1e-4)
        assert bool(
            torch.isfinite(compose_svd(*channel_svd(weight, 3, covariance=covariance))).all()
        )


def test_results_repeat_and_keep_type(weight, covariance) -> None:
    first, second = (tucker2(weight, 4, 4, covariance=covariance) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(part.dtype == torch.bfloat16 for part in tucker2(weight.bfloat16(), 4, 4))


def test_linear_svd_is_the_truncated_svd() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(7, 5)
    values = torch.linalg.svdvals(matrix)
    error = (matrix - compose_svd(*linear_svd(matrix, 3))).norm()
    assert float(error) == pytest.approx(float(values[3:].norm()), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: tucker2(w, 13, 1), r"rank_out=13, expected 1 to 12"),
        (lambda w: tucker2(w, 1, 0), r"rank_in=0, expected 1 to 10"),
        (lambda w: channel_svd(w, 13), r"rank=13, expected 1 to 12"),
        (lambda w: tucker2(w[0], 1, 1), r"needs a kernel"),
        (lambda w: linear_svd(w, 1), r"needs a matrix"),
        (lambda w: channel_svd(w[:, 0], 1), r"needs \(T, S\)"),
        (lambda w: tucker2(w, 1, 1, covariance=torch.eye(11)), r"expected \(90, 90\) over patches"),
        (lambda w: tucker2(w * float("nan"), 1, 1), r"not finite"),
        (lambda w: tucker2(w, 1, 1, covariance=torch.eye(10) / 0), r"not finite"),
        (
            lambda w: tucker2(w, 1, 1, covariance=torch.diag(torch.tensor([-1.0] + [2.0] * 9))),
            r"semi-definite",
        ),
    ],
)
def test_wrong_arguments_are_named(weight, call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(weight)
