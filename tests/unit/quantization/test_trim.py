import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lissom.quantization.rate import code_lengths, magnitude_counts
from lissom.quantization.trim import Trimmable, cheaper, trimmed, trimmed_while
from packed_samples import kernels


def tensor_of(weights, step, curvature=1.0):
    weight = torch.tensor(weights, dtype=torch.float64)
    levels = (weight / step).round().to(torch.int32)
    return Trimmable(weight, levels, torch.tensor(step), torch.tensor(curvature))


@given(
    st.lists(st.floats(-4, 4), min_size=1, max_size=20),
    st.floats(0.3, 2),
    st.floats(0, 3),
    st.floats(0.1, 2),
)
def test_the_cheapest_of_all_levels_towards_zero(weights, step, price, curvature):
    one = tensor_of(weights, step, curvature)
    lengths = code_lengths(magnitude_counts(one.levels, max(int(one.levels.abs().max()), 1)))
    found = cheaper(one, lengths, price)

    def cost(weight, level):
        return curvature * (abs(weight) - step * level) ** 2 + price * float(lengths[level])

    for weight, before, after in zip(
        one.weight.tolist(), one.levels.tolist(), found.tolist(), strict=True
    ):
        assert abs(after) <= abs(before)
        assert after * before >= 0
        best = min(cost(weight, level) for level in range(abs(before) + 1))
        assert cost(weight, abs(after)) == pytest.approx(best, abs=1e-6)


def test_without_a_price_nothing_changes():
    one = tensor_of([0.4, -1.6, 2.2, 9.0], 1.0)
    assert torch.equal(cheaper(one, torch.ones(20), 0.0), one.levels)


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(400, generator=generator) for name in "ab"}
    curvature = {"a": 100.0, "b": 1.0}
    return {
        name: Trimmable(
            weight,
            (weight / 0.3).round().to(torch.int32),
            torch.tensor(0.3),
            torch.tensor(curvature[name]),
        )
        for name, weight in weights.items()
    }


def magnitudes(levels):
    return float(sum(one.abs().sum() for one in levels.values()))


def test_fits_closely_and_takes_where_it_harms_least(tensors):
    before = {name: one.levels for name, one in tensors.items()}
    limit = 0.6 * magnitudes(before)
    found = trimmed(tensors, limit, magnitudes)
    assert 0.9 * limit <= magnitudes(found) <= limit
    lost = {
        name: float((before[name].abs() - found[name].abs()).sum() / before[name].abs().sum())
        for name in before
    }
    assert lost["b"] > 5 * lost["a"]


def on_levels(shape, seed):
    """A finished network's weight: nothing says which of its equal levels matters less."""
    levels = torch.from_numpy(kernels(shape, 0.2, seed)).clamp(-1, 1)
    step = torch.tensor(0.05)
    return Trimmable(step * levels, levels, step, torch.tensor(1.0))


@pytest.mark.parametrize("share", [0.97, 0.5, 0.1])
def test_of_levels_that_are_all_alike_as_few_change_as_fit(share):
    tensors = {"a": on_levels((16, 8, 3, 3), 0), "b": on_levels((12, 20), 1)}
    limit = share * magnitudes({name: one.levels for name, one in tensors.items()})
    found = trimmed(tensors, limit, magnitudes)
    assert 0.99 * limit - 1 <= magnitudes(found) <= limit


def test_of_levels_that_are_all_alike_the_lonely_ones_go_first():
    levels = torch.zeros(4, 4, 3, 3, dtype=torch.int32)
    levels[0] = 1
    levels[2, 1, 1, 1] = levels[3, 2, 0, 1] = 1
    one = Trimmable(0.1 * levels, levels, torch.tensor(0.1), torch.tensor(1.0))
    found = trimmed({"a": one}, 36, magnitudes)["a"]
    assert found[0].all()
    assert not found[1:].any()


def test_what_fits_stays(tensors):
    levels = {name: one.levels for name, one in tensors.items()}
    found = trimmed(tensors, magnitudes(levels), magnitudes)
    assert all(torch.equal(found[name], levels[name]) for name in levels)


def test_below_everything_there_is_nothing(tensors):
    found = trimmed(tensors, 5.0, lambda levels: 10 + magnitudes(levels))
    assert not any(one.any() for one in found.values())


def test_one_price_for_all(tensors):
    tables = {
        name: code_lengths(magnitude_counts(one.levels, int(one.levels.abs().max())))
        for name, one in tensors.items()
    }
    prices = [10**power for power in torch.linspace(-3, 4, 400).tolist()]
    ladder = [
        {name: cheaper(one, tables[name], price) for name, one in tensors.items()}
        for price in prices
    ]
    sizes = [magnitudes(levels) for levels in ladder]
    assert all(one >= other for one, other in itertools.pairwise(sizes))
    limit = (sizes[0] + sizes[-1]) / 2
    found = trimmed(tensors, limit, magnitudes)
    below = max(size for size in sizes if size <= limit)
    assert below * 0.99 <= magnitudes(found) <= limit


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_as_cheap_as_is_bearable(tensors, share):
    whole = magnitudes({name: one.levels for name, one in tensors.items()})
    found = trimmed_while(tensors, lambda levels: magnitudes(levels) >= share * whole)
    assert share * whole <= magnitudes(found) <= (share + 0.12) * whole


def test_where_nothing_is_bearable_nothing_changes(tensors):
    found = trimmed_while(tensors, lambda _levels: False)
    assert all(torch.equal(found[name], one.levels) for name, one in tensors.items())
