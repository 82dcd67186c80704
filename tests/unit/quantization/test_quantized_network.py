import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from lissom.quantization.levelled import Levelled
from lissom.quantization.network import QuantizedNetwork


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    ).eval()


@pytest.fixture
def inputs():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_many_bits_hardly_change_the_function(model, inputs):
    quantized = copy.deepcopy(model)
    QuantizedNetwork.attach(quantized, ["0", "4"], bits=8, dead=1e-3)
    expected = model(inputs)
    assert not torch.equal(quantized(inputs), expected)
    assert torch.allclose(
        quantized(inputs), expected, atol=0.02 * float(expected.detach().abs().max())
    )


def test_speaks_for_all_zones(model):
    network = QuantizedNetwork.attach(model, ["0", "4"])
    weights = network.weights()
    assert list(weights) == ["0", "4"]
    assert len(network.parameters()) == 6
    assert float(network.bits().detach()) == pytest.approx(
        sum(float(zone.bits(weights[name]).detach()) for name, zone in network.zones.items())
    )
    count = sum(weight.numel() for weight in weights.values())
    assert 1.5 * count < network.entropy() < 4.5 * count


@pytest.mark.parametrize("share", [0.4, 0.9, 1.2])
def test_one_factor_on_all_steps_brings_the_entropy_anywhere(model, share):
    for name in ("0", "4"):
        nn.init.normal_(model.get_submodule(name).weight)
    network = QuantizedNetwork.attach(model, ["0", "4"])
    goal = share * network.entropy()
    before = {name: float(zone.sigma.detach()) for name, zone in network.zones.items()}
    factor = network.widen_to(goal)
    assert (factor > 1) == (share < 1)
    assert network.entropy() == pytest.approx(goal, rel=0.03)
    for name, zone in network.zones.items():
        assert float(zone.sigma.detach()) == pytest.approx(
            before[name] + math.log(factor), abs=1e-5
        )


def test_the_price_teaches_steps_and_dead_zones(model):
    network = QuantizedNetwork.attach(model, ["0"])
    network.bits().backward()
    zone = network.zones["0"]
    assert float(zone.sigma.grad) < 0
    assert float(zone.tau.grad) < 0  # a wider dead zone costs less
    assert network.weights()["0"].grad.abs().sum() > 0


def test_levels_are_what_the_network_computes_with(model, inputs):
    network = QuantizedNetwork.attach(model, ["0", "4"], bits=3)
    expected = model(inputs)
    levels = network.levelled()
    for name, one in levels.items():
        parametrize.remove_parametrizations(model.get_submodule(name), "weight")
        assert isinstance(one, Levelled)
        assert torch.equal(model.get_submodule(name).weight, one.weight)
    assert torch.equal(model(inputs), expected)


def test_held_levels_stay_whatever_the_weights_do(model, inputs):
    network = QuantizedNetwork.attach(model, ["0", "4"], bits=3)
    levels = {name: one.levels for name, one in network.levelled().items()}
    before = model(inputs)
    assert not network.holds
    network.hold(levels)
    assert network.holds
    assert torch.allclose(model(inputs), before, rtol=1e-6)
    loss = model(inputs).square().sum()
    loss.backward()
    for name, weight in network.weights().items():
        assert not weight.grad.any()  # but there is one, for processes that train together
        zone = network.zones[name]
        assert float(zone.sigma.grad) != 0
        assert float(zone.tau.grad) == float(zone.rho.grad) == 0
        weight.data.add_(1.0)
        assert torch.equal(network.levelled()[name].levels, levels[name])
    assert torch.allclose(model(inputs), before, rtol=1e-6)


def test_a_resumed_network_holds(model):
    network = QuantizedNetwork.attach(model, ["0", "4"], bits=3)
    other = QuantizedNetwork(model, network.zones)
    network.hold({name: one.levels for name, one in network.levelled().items()})
    state = network.state_dict()
    for zone in network.zones.values():
        zone.holds = False
    other.load_state_dict(state)
    assert other.holds


@pytest.mark.parametrize("share", [0.4, 0.9, 1.2])
def test_an_end_above_the_goal_leaves_something_to_trim(model, share):
    for name in ("0", "4"):
        weight = model.get_submodule(name).weight
        nn.init.normal_(weight)
        with torch.no_grad():  # at the borders of their levels, as after a training: a stair
            weight.copy_((weight * 8).round() / 8 + 1e-3 * torch.randn_like(weight))
    network = QuantizedNetwork.attach(model, ["0", "4"])
    goal = share * network.entropy()
    network.widen_to(goal)
    below = network.entropy()
    network.widen_to(goal, over=True)
    above = network.entropy()
    assert below <= goal < above


def test_finer_steps_than_there_are_levels_change_nothing(model):
    for name in ("0", "4"):
        nn.init.normal_(model.get_submodule(name).weight)
    network = QuantizedNetwork.attach(model, ["0", "4"], bits=8)
    before = {name: one.levels for name, one in network.levelled().items()}
    whole = network.entropy()
    for _ in range(3):  # a look at a mild budget after the other
        assert network.widen_to(2 * whole) == pytest.approx(1.0, abs=0.05)
    after = network.levelled()
    assert all((after[name].levels - levels).abs().max() <= 8 for name, levels in before.items())
    assert network.entropy() >= whole


def test_all_levels_up_to_8_bits_have_a_price(model):
    zone = QuantizedNetwork.attach(model, ["0"], bits=8).zones["0"]
    assert len(zone.lengths) == 129
    assert bool((zone.lengths > 0).all())


def test_one_weight_is_enough():
    layer = nn.Sequential(nn.Linear(1, 1, bias=False))
    network = QuantizedNetwork.attach(layer, ["0"])
    assert torch.isfinite(layer(torch.ones(1, 1))).all()
    assert torch.isfinite(network.bits())
