import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lissom.graph.capture import capture
from lissom.lowrank.families import family_named
from lissom.methods.weights import WeightMath, plain_layers
from lissom.plan.low_rank import ChannelSVD, Tucker2
from lissom.search.price import Configuration, LowRank, Pricer
from lissom.sensitivity.statistics import input_covariances
from lissom.task import Classification
from method_samples import Small, batches_of, built, seeded

KEPT = {"stem": tuple(range(0, 16, 2)), "a": tuple(range(5, 20))}
RANKS = {"b": LowRank("tucker2", (7, 6)), "a": LowRank("channel_svd", (5,))}
OTHERS = [
    {"b": LowRank("spatial_svd", (6,)), "a": LowRank("filter_cp", (3,))},
    {"b": LowRank("tensor_train", (8, 14, 7)), "a": LowRank("tensor_train", (5, 9, 10))},
]


@pytest.fixture(scope="module")
def model():
    return seeded(Small)


@pytest.fixture(scope="module")
def graph(model):
    return capture(model, (torch.zeros(1, 3, 8, 8),))


@pytest.fixture(scope="module")
def covariances(model, graph):
    layers, batches = plain_layers(model, graph), batches_of(3, 8, 8, count=1, size=64)
    return input_covariances(model, layers, batches, Classification(), 64)


def distance(model: nn.Module, network: nn.Module) -> float:
    images = batches_of(3, 8, 8, count=1, seed=5)[0][0]
    with torch.no_grad():
        return float((model(images) - network(images)).pow(2).mean())


def test_columns_of_removed_channels_are_zero_and_the_network_stays(model, graph, covariances):
    before = model.a.weight.clone()
    weights = WeightMath(model, graph, covariances).pruned(KEPT)
    assert set(weights) == {"a.weight", "b.weight", "c.weight"}
    assert weights["a.weight"][:, 1::2].abs().max() == 0
    assert weights["b.weight"][:, :5].abs().max() == 0
    assert torch.equal(model.a.weight, before)


def test_rebuilding_is_a_setting_that_helps(model, graph, covariances):
    plain = WeightMath(model, graph, covariances, rebuild=False)
    assert torch.equal(plain.pruned(KEPT)["a.weight"][:, ::2], model.a.weight[:, ::2])
    decisions, values = plain.realise(Configuration(KEPT))
    assert values == {}  # slices need no values
    rebuilt = built(model, *WeightMath(model, graph, covariances).realise(Configuration(KEPT)))
    assert distance(model, rebuilt) < 0.8 * distance(model, built(model, decisions, values))


def test_whitening_is_a_setting_that_helps(model, graph, covariances):
    low = Configuration({}, RANKS)
    white = built(model, *WeightMath(model, graph, covariances).realise(low))
    plain = built(model, *WeightMath(model, graph, covariances, whiten=False).realise(low))
    assert distance(model, white) < distance(model, plain)


@pytest.mark.parametrize("rebuild", [True, False])
@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_pruned_layers_are_decomposed_in_every_setting(
    model, graph, covariances, rebuild, whiten, known
):
    weights = WeightMath(model, graph, covariances if known else {}, whiten, rebuild)
    decisions, values = weights.realise(Configuration(KEPT, RANKS))
    assert decisions[2:] == (Tucker2("b", 7, 6), ChannelSVD("a", 5))
    network = built(model, decisions, values)
    full = {"b": LowRank("tucker2", (15, 8)), "a": LowRank("channel_svd", (15,))}
    whole = built(model, *weights.realise(Configuration(KEPT, full)))
    pruned = built(model, *weights.realise(Configuration(KEPT)))
    assert distance(whole, pruned) < 1e-6  # full ranks of what is left give the same network
    assert distance(network, pruned) > 1e-4


@pytest.mark.parametrize("ranks", OTHERS)
def test_every_family_is_built_as_it_composes_and_priced(model, graph, covariances, ranks):
    weights = WeightMath(model, graph, covariances)
    configuration = Configuration({}, ranks)
    network = built(model, *weights.realise(configuration))
    composed = copy.deepcopy(model)
    with torch.no_grad():
        for layer, low_rank in ranks.items():
            composed.get_submodule(layer).weight.copy_(weights.decomposed(layer, low_rank))
    assert distance(network, composed) < 1e-9
    assert distance(network, model) > 1e-4
    measured = capture(network, (torch.zeros(1, 3, 8, 8),)).cost
    assert Pricer(model, graph).price(configuration) == measured


@pytest.mark.parametrize("ranks", OTHERS)
def test_every_family_follows_the_cuts(model, graph, covariances, ranks):
    weights = WeightMath(model, graph, covariances)
    configuration = Configuration(KEPT, ranks)
    network = built(model, *weights.realise(configuration))
    assert Pricer(model, graph).price(configuration) == (
        capture(network, (torch.zeros(1, 3, 8, 8),)).cost
    )


def test_keeping_all_channels_is_no_decision(model, graph, covariances):
    every = {"a": tuple(range(24))}
    assert WeightMath(model, graph, covariances).realise(Configuration(every)) == ((), {})


def test_factors_compose_to_the_decomposed_weight(model, graph, covariances):
    weights = WeightMath(model, graph, covariances)
    for layer, rank in RANKS.items():
        dense = weights.decomposed(layer, rank)
        factors = weights.factors(layer, rank, weights.weight(layer))
        torch.testing.assert_close(dense, family_named(rank.family).compose(factors))
        assert dense.shape == weights.weight(layer).shape
        assert 0 < weights.output_error(layer, dense) < 1
    assert weights.output_error("a", weights.weight("a")) == 0
    assert weights.output_error("a", torch.zeros(24, 16, 3, 3)) == pytest.approx(1)


def test_without_a_covariance_the_error_is_that_of_the_weight(model, graph):
    weights = WeightMath(model, graph, {})
    dense = weights.decomposed("a", RANKS["a"])
    weight = model.a.weight.detach()
    expected = (weight - dense).pow(2).sum() / weight.pow(2).sum()
    assert weights.output_error("a", dense) == pytest.approx(float(expected), rel=1e-4)


class Doubled(nn.Conv2d):
    """Computes something else than its base class."""


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.grouped = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2)
        self.foreign, self.computed = Doubled(8, 8, 1), nn.Conv2d(8, 6, 1)
        self.computed = nn.utils.parametrizations.weight_norm(self.computed)
        self.one, self.two, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.two.weight = self.one.weight
        self.idle = nn.Linear(3, 3)

    def forward(self, x):
        x = self.computed(self.foreign(self.grouped(self.a(x)))).mean((2, 3))
        return self.head(F.relu(self.two(F.relu(self.one(x)))))


def test_plain_layers_leave_out_what_their_weight_does_not_describe():
    model = seeded(Odd)
    graph = capture(model, (torch.zeros(1, 3, 8, 8),))
    assert plain_layers(model, graph) == ["a", "head"]
