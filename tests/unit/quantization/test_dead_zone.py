import pytest
import torch
from torch.nn.utils import parametrize

from lissom.quantization.dead_zone import DeadZone


@pytest.fixture
def weight():
    return torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_starts_with_the_asked_bits_over_the_range(weight, bits):
    zone = DeadZone(weight, bits)
    levels = zone.levels(weight)
    assert levels.dtype == torch.int32
    assert int(levels.abs().max()) == max(2 ** (bits - 1), 1)
    error = (zone(weight) - weight).detach().abs().max()
    assert float(error) <= 0.61 * float(zone.step(weight).detach())
    assert torch.equal(zone(weight), zone.step(weight) * levels)


def test_the_price_is_near_the_entropy_and_learns(weight):
    zone = DeadZone(weight, 4)
    levels = zone.levels(weight)
    counts = torch.bincount(levels.abs().flatten())
    share = counts[counts > 0] / counts.sum()
    entropy = float(-(share * share.log2()).sum()) + float((levels != 0).float().mean())
    price = zone.bits(weight)
    assert float(price.detach()) / weight.numel() == pytest.approx(entropy, rel=0.1)
    price.backward()
    assert float(zone.sigma.grad) < 0  # a wider step costs less
    zone(weight.requires_grad_()).square().sum().backward()
    assert all(torch.isfinite(p.grad) for p in (zone.tau, zone.rho))


def test_refreshed_lengths_move(weight):
    zone = DeadZone(weight, 4)
    before = zone.lengths.clone()
    with torch.no_grad():
        zone.sigma += 1
    zone.refresh(weight, keep=0.5)
    halfway = zone.lengths.clone()
    zone.refresh(weight)
    assert torch.allclose(halfway, (before + zone.lengths) / 2)
    assert not torch.allclose(before, zone.lengths)


def test_as_a_parametrization(weight):
    layer = torch.nn.Conv2d(4, 8, 3)
    layer.weight.data.copy_(weight)
    parametrize.register_parametrization(layer, "weight", DeadZone(weight, 3))
    layer(torch.randn(1, 4, 5, 5)).sum().backward()
    assert layer.parametrizations.weight.original.grad is not None
    assert len(layer.weight.unique()) <= 9


@pytest.mark.parametrize(("bits", "dead"), [(0, 0.1), (9, 0.1), (4, 0.0)])
def test_refuses(weight, bits, dead):
    with pytest.raises(ValueError, match="expected 1 to 8 bits and dead > 0"):
        DeadZone(weight, bits, dead)
