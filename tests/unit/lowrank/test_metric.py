from __future__ import annotations

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
