import pytest
import torch

from lissom.methods.output_error import OutputError
from lissom.pruning.reconstruct import output_error


@pytest.mark.parametrize("size", [27, 3, None])
def test_it_is_the_output_error_prepared(size):
    torch.manual_seed(0)
    weight, changed = torch.randn(5, 3, 3, 3), torch.randn(5, 3, 3, 3)
    root = torch.randn(size or 1, 40)
    covariance = None if size is None else root @ root.T / 40
    error = OutputError.of(weight, covariance)
    expected = output_error(weight, changed, torch.eye(3) if covariance is None else covariance)
    assert error(changed) == pytest.approx(expected)
    assert error(weight) == 0


def test_linear_layers_and_layers_that_give_nothing():
    weight, changed, root = torch.randn(5, 3), torch.randn(5, 3), torch.randn(3, 9)
    expected = output_error(weight, changed, root @ root.T)
    assert OutputError.of(weight, root @ root.T)(changed) == pytest.approx(expected)
    assert OutputError.of(torch.zeros(5, 3), root @ root.T)(changed) == 0
