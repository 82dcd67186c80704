"""What pruning promises: reconstruction never hurts, and choices are balanced."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies_convolutions import covariance, seeds

from lissom.pruning.reconstruct import output_error, reconstruct


@settings(max_examples=60, deadline=None)
@given(
    st.data(), seeds(), st.integers(1, 5), st.integers(2, 6), st.sampled_from([(), (1, 1), (2, 3)])
)
def test_reconstruction_is_at_most_as_wrong_as_slicing(data, seed, outputs, inputs, kernel) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(outputs, inputs, *kernel, dtype=torch.float64)
    size = data.draw(st.sampled_from(sorted({inputs, weight[0].numel()})))
    matrix = covariance(size, data.draw(st.integers(1, 2 * size)), seed)
    keep = sorted(data.draw(st.sets(st.integers(0, inputs - 1), min_size=1)))
    sliced, rebuilt = torch.zeros_like(weight), torch.zeros_like(weight)
    sliced[:, keep] = weight[:, keep]
    rebuilt[:, keep] = reconstruct(weight, keep, matrix)
    # In the damped metric it is the minimum; 1e-12 is rounding.
    damped = 1e-4
    after = output_error(weight, rebuilt, matrix, ridge=damped)
    assert after <= output_error(weight, sliced, matrix, ridge=damped) + 1e-12


def test_the_oracle_notices_a_reconstruction_from_a_wrong_covariance() -> None:
    weight, matrix = torch.ones(2, 3, dtype=torch.float64), covariance(3, 9, 0)
    sliced, rebuilt = torch.zeros_like(weight), torch.zeros_like(weight)
    sliced[:, :2] = weight[:, :2]
    wrong_signs = 2 * matrix.diag().diag() - matrix
    rebuilt[:, :2] = reconstruct(weight, (0, 1), wrong_signs)
    assert output_error(weight, rebuilt, matrix) > output_error(weight, sliced, matrix)
