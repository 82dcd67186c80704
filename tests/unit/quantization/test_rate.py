import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lissom.quantization.rate import (
    binary_entropy_bits,
    code_lengths,
    expected_bits,
    magnitude_counts,
)


def test_lengths_are_those_of_the_histogram():
    counts = magnitude_counts(torch.tensor([0, 0, 0, 1, -1, 2, -2, -2]), 3)
    assert counts.tolist() == [3, 2, 3, 0]
    lengths = code_lengths(counts)
    total = 8 + 4 * 0.5
    expected = [-torch.log2(torch.tensor(n / total)) for n in (3.5, 2.5, 3.5, 0.5)]
    assert lengths[0] == pytest.approx(float(expected[0]))
    assert lengths[1:].tolist() == pytest.approx([float(e) + 1 for e in expected[1:]])


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=40), st.floats(0.1, 3))
def test_on_the_lattice_it_is_what_the_code_costs(levels, step):
    q = torch.tensor(levels)
    lengths = code_lengths(magnitude_counts(q, 4))
    bits = expected_bits(q * step, torch.tensor(step), lengths)
    assert float(bits.detach()) == pytest.approx(float(lengths[q.abs()].sum()), rel=1e-3)


def test_between_levels_it_is_linear_and_says_where_it_gets_cheaper():
    lengths = torch.tensor([0.5, 3.0, 5.0])
    weight = torch.tensor([0.25, -1.5, 9.0], requires_grad=True)
    step = torch.tensor(1.0, requires_grad=True)
    bits = expected_bits(weight, step, lengths)
    assert float(bits.detach()) == pytest.approx(0.5 + 0.25 * 2.5 + 4.0 + 5.0)
    bits.backward()
    assert weight.grad.tolist() == pytest.approx([2.5, -2.0, 0.0])
    assert float(step.grad) == pytest.approx(-(0.25 * 2.5 + 1.5 * 2.0))


def test_binary_entropy():
    found = binary_entropy_bits(torch.tensor(0.5), torch.tensor(3.0), 100)
    assert float(found) == pytest.approx(100 * (1.5 + 1))
    assert float(binary_entropy_bits(torch.tensor(0.0), torch.tensor(3.0), 9)) < 1e-3
