import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lissom.quantization.levels import levels_of, quantized


def scalars(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def test_levels_by_hand():
    weight = torch.tensor([0.0, 0.2, 0.59, 0.61, -0.7, 1.4, 1.6, -9.0])
    found = levels_of(weight, *[torch.tensor(v) for v in (1.0, 0.6, 3.0)])
    assert found.tolist() == [0, 0, 0, 1, -1, 1, 2, -3]


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=30),
    st.floats(0.01, 5),
    st.floats(0.5, 3),
    st.integers(1, 127),
)
def test_levels_are_the_nearest_outside_the_dead_zone(values, step, dead, largest):
    weight = torch.tensor(values, dtype=torch.float64)
    s, t, top = scalars(step, step * dead, float(largest))
    levels = levels_of(weight, s, t, top)
    kept = weight.abs() > t
    assert not levels[~kept].any()
    assert bool((levels[kept] != 0).all())
    assert int(levels.abs().max()) <= largest
    inside = kept & (weight.abs() <= s * top)
    # A level is at least 1, so just above a threshold of s / 2 the error may reach s / 2.
    assert bool(((weight - s * levels)[inside].abs() <= 0.5 * s * (1 + 1e-9)).all())
    assert torch.equal(quantized(weight, s, t, top), s * levels)


def test_gradients_by_hand():
    weight = torch.tensor([0.2, 0.8, -1.3, 7.0], dtype=torch.float64, requires_grad=True)
    step, threshold, largest = (v.requires_grad_() for v in scalars(1.0, 0.6, 3.0))
    quantized(weight, step, threshold, largest)[0].backward(retain_graph=True)
    assert weight.grad.tolist() == [1, 0, 0, 0]  # masked, straight through all the same
    weight.grad = step.grad = threshold.grad = largest.grad = None
    quantized(weight, step, threshold, largest).sum().backward()
    assert weight.grad.tolist() == [1, 1, 1, 0]  # beyond the range nothing
    # round(u) - u, with the sign of the weight; q_max where clipped; masked nothing.
    assert float(step.grad) == pytest.approx((1 - 0.8) - (1 - 1.3) + 3)
    assert float(largest.grad) == pytest.approx(1.0)
    soft = [torch.sigmoid(torch.tensor((abs(w) - 0.6) / 0.12)) for w in (0.2, 0.8, 1.3, 7.0)]
    slopes = [float(p * (1 - p)) / 0.12 for p in soft]
    values = (1.0, 1.0, -1.0, 3.0)  # what each weight is, or would be, outside the dead zone
    expected = -sum(slope * value for slope, value in zip(slopes, values, strict=True))
    assert float(threshold.grad) == pytest.approx(expected)


def test_an_output_without_weights_learns_nothing():
    weight = torch.tensor([[0.1, 0.2], [0.1, 2.0]], requires_grad=True)
    given = [torch.tensor(v, requires_grad=True) for v in (1.0, 0.6, 3.0)]
    quantized(weight, *given).backward(torch.full((2, 2), 1e6))
    assert weight.grad.tolist() == [[0, 0], [1e6, 1e6]]
