import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lissom.quantization.assign import cheapest_levels, error_feedback_levels
from lissom.quantization.rate import code_lengths, magnitude_counts

FLAT = torch.zeros(9)
PEAKED = torch.tensor([0.5, 2.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])


def covariance(size, seed=0):
    """Of strongly correlated inputs."""
    mix = torch.randn(size, size, generator=torch.Generator().manual_seed(seed)).double()
    shared = torch.ones(size, size, dtype=torch.float64)
    return mix @ mix.T / size + 3 * shared


def output_error(weight, levels, step, matrix):
    change = (weight - step * levels).flatten(1).double()
    return float(torch.einsum("tn,nm,tm->", change, matrix, change))


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=20), st.floats(0.2, 4), st.floats(0, 3))
def test_the_cheapest_is_the_best_of_all_levels(values, step, price):
    weight = torch.tensor(values, dtype=torch.float64)
    s = torch.tensor(step, dtype=torch.float64)
    found = cheapest_levels(weight, s, torch.tensor(1.0), PEAKED, price)
    every = torch.arange(9, dtype=torch.float64)[:, None]
    costs = (weight.abs() - s * every).square() + price * PEAKED.double()[:, None]
    mine = (weight - s * found).square() + price * PEAKED.double()[found.abs().long()]
    assert torch.allclose(mine, costs.min(dim=0).values)


@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (6, 45), (6, 45, 1, 1)])
def test_independent_inputs_are_rounded(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    size = weight[0].numel()
    step = torch.tensor(0.4)
    found = error_feedback_levels(weight, torch.eye(size), step, FLAT)
    assert torch.equal(found, (weight / step).round().clamp(-8, 8))


@pytest.mark.parametrize("per_output", [False, True])
@pytest.mark.parametrize("level", ["patch", "channel"])
def test_feedback_lowers_the_error_of_the_output(level, per_output):
    weight = torch.randn(7, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    matrix = covariance(144 if level == "patch" else 16)
    full = matrix if level == "patch" else torch.kron(matrix, torch.eye(9, dtype=torch.float64))
    step = torch.rand(7, 1, generator=torch.Generator().manual_seed(1)) + 0.5
    step = step if per_output else step[0, 0]
    found = error_feedback_levels(weight, matrix, step, FLAT)
    shaped = step.reshape(-1, 1, 1, 1) if per_output else step
    plain = (weight / shaped).round().clamp(-8, 8)
    ours, theirs = (output_error(weight, q, shaped, full) for q in (found, plain))
    assert ours < 0.7 * theirs
    assert int(found.abs().max()) <= 8


def test_a_price_buys_bits_for_error():
    weight = torch.randn(16, 40, generator=torch.Generator().manual_seed(0))
    matrix, step = covariance(40), torch.tensor(0.3)
    bits, errors = [], []
    for price in (0.0, 0.01, 0.1, 1.0):
        levels = error_feedback_levels(weight, matrix, step, PEAKED, price)
        lengths = code_lengths(magnitude_counts(levels, 8))
        bits.append(float(lengths[levels.abs().long()].sum()))
        errors.append(output_error(weight, levels, step, matrix))
    assert bits == sorted(bits, reverse=True)
    assert errors == sorted(errors)
    assert bits[-1] < 0.6 * bits[0]


def test_the_last_block_sees_the_errors_of_the_first():
    weight = torch.randn(4, 300, generator=torch.Generator().manual_seed(0))
    matrix, step = covariance(300), torch.tensor(0.8)
    found = error_feedback_levels(weight, matrix, step, FLAT)
    plain = (weight / step).round().clamp(-8, 8)
    assert output_error(weight, found, step, matrix) < 0.7 * output_error(
        weight, plain, step, matrix
    )


def test_refuses_a_covariance_of_another_layer():
    with pytest.raises(ValueError, match="expected 45 over patches or 5 over channels"):
        error_feedback_levels(torch.zeros(2, 5, 3, 3), torch.eye(7), torch.tensor(1.0), FLAT)
