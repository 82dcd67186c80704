from __future__ import annotations

import weakref

import pytest
import torch

from lissom.lowrank.metric import RIDGE, damped, metric_for


def test_rows_and_back() -> None:
    weight = torch.randn(4, 3, 5)
    for size in (15, 3):
        metric = metric_for(weight, torch.eye(size))
        assert torch.equal(metric.unrows(metric.rows(weight)), weight)


def test_channel_level_weighs_every_position_alike() -> None:
    weight = torch.randn(4, 3, 5, dtype=torch.float64)
    channels = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    small = metric_for(weight, channels, ridge=0.0)
    large = metric_for(weight, torch.kron(channels, torch.eye(5)), ridge=0.0)
    energies = [(m.rows(weight) @ m.matrix * m.rows(weight)).sum() for m in (small, large)]
    torch.testing.assert_close(*energies)


def test_a_kronecker_product_is_separated_exactly() -> None:
    outer, inner = torch.randn(3, 9), torch.randn(5, 9)
    product = torch.kron(outer @ outer.T, inner @ inner.T).double()
    metric = metric_for(torch.zeros(1, 3, 5), product, ridge=1e-9)
    torch.testing.assert_close(torch.kron(*metric.separated()), product, rtol=1e-4, atol=1e-4)


def test_single_directions_span_a_basis() -> None:
    metric = metric_for(torch.zeros(1, 3, 2), torch.eye(6))
    column = torch.randn(4, 3, dtype=torch.float64)[1:2].T  # strides that kron does not take
    assert metric.basis(column).shape == (6, 2)


def test_damping_adds_to_the_diagonal_what_it_says() -> None:
    matrix = torch.diag(torch.tensor([1.0, 3.0]))
    expected = torch.diag(torch.tensor([1 + 2 * RIDGE, 3 + 2 * RIDGE], dtype=torch.float64))
    torch.testing.assert_close(damped(matrix), expected)
    assert torch.equal(damped(torch.zeros(2, 2)), torch.eye(2, dtype=torch.float64))


def test_damping_grows_where_rounding_asks_for_it() -> None:
    matrix = torch.diag(torch.tensor([1.0, 1.0, -1e-3]))
    assert float(torch.linalg.eigvalsh(damped(matrix)).min()) > 0
    with pytest.raises(ValueError, match="a covariance is square"):
        damped(torch.zeros(2, 3))


def test_asked_again_the_metric_is_the_same_until_the_covariance_changes() -> None:
    weight, covariance = torch.zeros(1, 3, 2), torch.eye(6)
    first = metric_for(weight, covariance)
    assert metric_for(weight, covariance) is first
    assert metric_for(weight, covariance, ridge=0.1) is not first
    assert metric_for(torch.zeros(1, 6, 1), covariance).channels == 6
    assert metric_for(weight, torch.eye(6)) is not first
    metric_for(weight, covariance)
    covariance *= 3
    assert float(metric_for(weight, covariance).matrix[0, 0]) == pytest.approx(3 * (1 + RIDGE))


def test_of_a_covariance_that_is_gone_nothing_is_kept() -> None:
    covariance = torch.eye(6)
    kept = weakref.ref(metric_for(torch.zeros(1, 3, 2), covariance))
    assert kept() is not None
    del covariance
    assert kept() is None


def test_inference_tensors_are_not_remembered() -> None:
    with torch.inference_mode():
        covariance = torch.eye(6)
        first = metric_for(torch.zeros(1, 3, 2), covariance)
        covariance *= 2
        second = metric_for(torch.zeros(1, 3, 2), covariance)
    assert float(second.matrix[0, 0]) == pytest.approx(2 * float(first.matrix[0, 0]))


@pytest.mark.parametrize("size", [15, 3])
def test_products_with_a_basis_are_those_that_it_gives_when_built(size: int) -> None:
    root = torch.randn(size, 40, dtype=torch.float64)
    metric = metric_for(torch.zeros(1, 3, 5), root @ root.T)
    channels = torch.randn(3, 2, dtype=torch.float64)
    cross, gram = metric.onto(channels)
    basis = metric.basis(channels)
    torch.testing.assert_close(cross, metric.matrix @ basis)
    torch.testing.assert_close(gram, basis.T @ metric.matrix @ basis)


@pytest.mark.parametrize("size", [30, 3])
def test_over_columns_the_metric_measures_the_same(size: int) -> None:
    root = torch.randn(size, 40, dtype=torch.float64)
    metric = metric_for(torch.zeros(1, 3, 10), root @ root.T)
    tall = metric.over_columns(5)
    weight = torch.randn(4, 3, 10, dtype=torch.float64)
    columns = weight.reshape(4, 15, 2)
    energy = (metric.pulled(weight) * weight).sum()
    torch.testing.assert_close((tall.pulled(columns) * columns).sum(), energy)
    assert (tall.channels, tall.positions) == (15, 2)
    assert metric.over_columns(5) is tall
