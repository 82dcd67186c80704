import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lissom.quantization.channel_levels import ChannelLevels


def weight(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(-3, 1, shape[0]).view(-1, *[1] * (len(shape) - 1))
    return torch.randn(shape, generator=generator) * scales


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([(6, 4, 3, 3), (5, 7), (3, 1, 5, 5), (1, 1)]),
    st.integers(1, 127),
)
def test_hardened_levels_are_the_values_of_the_training(shape, largest) -> None:
    levels = ChannelLevels(weight(*shape), largest)
    q, step = levels.hardened(weight(*shape))
    assert q.dtype == torch.int32
    assert step.shape == (shape[0],)
    assert int(q.abs().max()) <= largest
    shaped = step.view(-1, *[1] * (len(shape) - 1))
    assert torch.allclose(q * shaped, levels(weight(*shape)), rtol=1e-6)
    assert bool((torch.frexp(step).mantissa * 2**11 % 1 == 0).all())


@pytest.mark.parametrize("largest", [1, 3, 7, 127])
def test_clipping_is_no_worse_than_none(largest: int) -> None:
    given = weight(8, 16, 3, 3)
    levels = ChannelLevels(given, largest)
    chosen = (levels(given) - given).square().sum()
    levels.clipping.fill_(1)
    assert chosen <= (levels(given) - given).square().sum()
    if largest < 4:
        assert chosen < 0.95 * (levels(given) - given).square().sum()


def test_gradient_is_straight_through_within_the_range() -> None:
    given = weight(4, 3, 3, 3).requires_grad_()
    levels = ChannelLevels(given, 3)
    levels.clipping.fill_(0.5)
    levels(given).sum().backward()
    peak = given.detach().flatten(1).abs().amax(1).view(-1, 1, 1, 1)
    inside = given.detach().abs() < 0.5 * peak * (1 - 1e-6)
    assert given.grad is not None
    assert torch.equal(given.grad[inside], torch.ones_like(given.grad[inside]))
    assert float(given.grad.min()) == 0


def test_channels_of_zeros_and_of_hardly_anything_are_kept() -> None:
    given = torch.zeros(3, 4)
    given[1] = torch.tensor([1e-9, -2e-9, 3e-9, 0])
    given[2] = 1.0
    q, step = ChannelLevels(given).hardened(given)
    assert not q[0].any()
    assert torch.allclose(q * step[:, None], given, rtol=0.01, atol=1e-11)


def test_it_is_a_parametrization() -> None:
    layer = nn.Conv2d(2, 3, 3)
    parametrize.register_parametrization(layer, "weight", ChannelLevels(layer.weight, 4))
    values = layer.weight.flatten(1)
    assert all(len(row.unique()) <= 15 for row in values)


@pytest.mark.parametrize("largest", [0, 128])
def test_other_widths_are_refused(largest: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 127"):
        ChannelLevels(weight(2, 2), largest)
