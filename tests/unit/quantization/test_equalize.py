import pytest
import torch
import torch.nn.functional as F

from lissom.quantization.equalize import (
    corrected_bias,
    divide_channels,
    equalizing_factors,
    multiply_readers,
    reading_weights,
)


@pytest.mark.parametrize(("channels", "groups"), [(6, 1), (6, 2), (6, 6)])
def test_two_layers_with_a_relu_between_compute_the_same(channels: int, groups: int) -> None:
    torch.manual_seed(0)
    first, bias = torch.randn(channels, 3, 3, 3), torch.randn(channels)
    second = torch.randn(12, channels // groups, 3, 3)
    images = torch.randn(2, 3, 8, 8)
    inside = F.conv2d(images, first, bias, padding=1).relu()
    peaks = inside.abs().amax(dim=(0, 2, 3))
    factors = equalizing_factors(peaks, reading_weights(second, groups))
    assert float(factors.max() / factors.min()) > 1.1
    new_first, new_bias = divide_channels(first, bias, factors)
    new_second = multiply_readers(second, factors, groups)
    after = F.conv2d(images, new_first, new_bias, padding=1).relu()
    expected = F.conv2d(inside, second, groups=groups, padding=1)
    found = F.conv2d(after, new_second, groups=groups, padding=1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)  # sums in another order


def test_channels_become_alike() -> None:
    peaks, reading = torch.tensor([0.5, 8.0, 2.0]), torch.tensor([2.0, 0.5, 1.0])
    factors = equalizing_factors(peaks, reading)
    ratio = (peaks / factors) / (reading * factors)
    torch.testing.assert_close(ratio, ratio[:1].expand(3))
    assert float(factors.log().sum()) == pytest.approx(0, abs=1e-5)


def test_silent_channels_stay() -> None:
    factors = equalizing_factors(torch.tensor([0.0, 1.0, 4.0]), torch.tensor([1.0, 0.0, 1.0]))
    assert factors[0] == 1
    assert factors[1] == 1
    assert torch.equal(equalizing_factors(torch.zeros(2), torch.ones(2)), torch.ones(2))


def test_no_factor_is_extreme() -> None:
    factors = equalizing_factors(torch.tensor([1e-9, 1.0, 1e9]), torch.ones(3))
    assert float(factors.max()) <= 32
    assert float(factors.min()) >= 1 / 32


def test_a_bias_moves_by_the_shift_of_the_mean() -> None:
    moved = corrected_bias(
        torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.5]), torch.tensor([0.4, 0.7])
    )
    torch.testing.assert_close(moved, torch.tensor([1.1, 1.8]))
    torch.testing.assert_close(
        corrected_bias(None, torch.tensor([0.5]), torch.tensor([0.4])), torch.tensor([0.1])
    )
