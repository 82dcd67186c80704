import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.quantization.dead_zone import DeadZone
from lissom.quantization.levelled import Levelled


@given(st.integers(0, 9), st.floats(0.02, 0.8), st.integers(1, 6))
@settings(max_examples=40)
def test_any_levels_can_be_begun_with(seed, step, largest):
    generator = torch.Generator().manual_seed(seed)
    weight = 0.3 * torch.randn(12, 10, generator=generator)
    # Error feedback leaves levels that are not the nearest to the weight, some of the other sign.
    levels = torch.randint(-largest, largest + 1, weight.shape, generator=generator).int()
    levels[0, 0] = largest
    found = Levelled(levels, torch.tensor(step))
    zone = DeadZone(weight, 4)
    started = weight.clone()
    zone.start_from(started, found)
    assert torch.equal(zone.levels(started), levels)
    assert float(zone.step(started).detach()) == pytest.approx(step, rel=1e-5)


def test_weights_that_have_their_levels_stay_where_they_are():
    weight = torch.tensor([[0.0, 0.3, -0.4], [1.2, -0.8, 2.1]])
    zone = DeadZone(weight, 3)
    started = weight.clone()
    zone.start_from(started, Levelled((weight).round().int(), torch.tensor(1.0)))
    assert torch.equal(started, weight)
