import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lissom.quantization.activation_ranges import Range, affine
from lissom.quantization.learned_range import LearnedRange, rounded

LOWS = st.sampled_from([0.0, -0.1, -1.0, -7.3])
HIGHS = st.sampled_from([0.0, 0.02, 1.0, 6.0, 130.0])


def values(count: int = 400) -> Tensor:
    return 3 * torch.randn(count, generator=torch.Generator().manual_seed(0))


@settings(deadline=None)
@given(LOWS, HIGHS, st.sampled_from([4, 8]))
def test_rounds_as_the_file_will(low: float, high: float, bits: int) -> None:
    how = affine(Range(low, high), bits)
    levels = np.clip(np.rint(values().numpy() / how.scale) + how.zero_point, 0, 2**bits - 1)
    wanted = (levels - how.zero_point) * how.scale
    found = LearnedRange(Range(low, high), bits)(values()).detach()
    # A value half-way between two levels may go either way.
    assert float((found - torch.from_numpy(wanted)).abs().max()) <= how.scale * 1.001
    assert float((found - torch.from_numpy(wanted)).abs().mean()) <= how.scale * 0.01


def composed(x: Tensor, low: Tensor, high: Tensor, largest: int) -> Tensor:
    """The same in operators that autograd knows, with a straight-through rounding."""
    step = (high - low) / largest
    zero = (-low / step).round().detach()
    places = x / step
    whole = places.round().clamp(-zero.item(), largest - zero.item())
    inside = step * (places + (whole - places).detach())
    below, above = x < (-zero - 0.5) * step, x > (largest - zero + 0.5) * step
    return torch.where(below, low + 0 * x, torch.where(above, high + 0 * x, inside))


@pytest.mark.parametrize("ends", [(-1.5, 2.0), (0.0, 2.5), (-3.0, 0.0)])
def test_gradients_are_those_of_the_learned_step_size(ends: tuple[float, float]) -> None:
    grads = []
    for function in (rounded, composed):
        x = values().requires_grad_()
        low, high = (torch.tensor(end, requires_grad=True) for end in ends)
        (function(x, low, high, 255) * torch.linspace(-1, 2, 400)).sum().backward()
        grads.append((x.grad, low.grad, high.grad))
    for ours, theirs in zip(*grads, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_an_end_at_zero_stays_and_the_other_is_learned() -> None:
    module = LearnedRange(Range(0.0, 1.0))
    adam = torch.optim.Adam(module.parameters(), lr=0.05)
    x = values().relu()
    errors = []
    for _ in range(60):
        adam.zero_grad()
        error = (module(x) - x).square().mean()
        error.backward()
        adam.step()
        errors.append(error.item())
    assert module.range.low == 0.0
    assert module.range.high > 2.0
    assert errors[-1] < 0.1 * errors[0]


def test_a_tensor_of_zeros_stays_one_and_harms_nobody() -> None:
    module = LearnedRange(Range(0.0, 0.0))
    found = module(torch.zeros(3, requires_grad=True))
    found.sum().backward()
    assert torch.equal(found, torch.zeros(3))
    assert module.shift.grad is not None
    assert torch.isfinite(module.shift.grad).all()


@pytest.mark.parametrize("low", [0.0, -8.0])
def test_half_precision_keeps_its_type_and_the_ends_their_gradient(low: float) -> None:
    x = values(200_000).abs().bfloat16()
    grads = []
    for kind in (torch.bfloat16, torch.float32):
        module = LearnedRange(Range(low, 20.0))
        found = module(x.to(kind))
        assert found.dtype == kind
        (found.float() * 0.3).sum().backward()
        assert module.shift.grad is not None
        grads.append(module.shift.grad)
    # No value lies beyond: sums of half precision would leave hundreds.
    assert float((grads[0] - grads[1]).abs().max()) < 5
