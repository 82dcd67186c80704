import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lissom.graph.capture import capture
from lissom.methods.weights import WeightMath
from lissom.plan.cost import Cost
from lissom.search.price import Configuration, LowRank, Pricer
from method_samples import Mixed, Small, built, seeded

IMAGE = (torch.zeros(1, 3, 8, 8),)


@pytest.fixture(scope="module")
def small():
    model = seeded(Small)
    return model, capture(model, IMAGE)


def test_the_plain_network_costs_what_capture_counted(small):
    model, graph = small
    pricer = Pricer(model, graph)
    assert pricer.price(Configuration()) == graph.cost
    assert pricer.by_layer(Configuration()) == {one.name: one.cost for one in graph.layers}


def test_counts_by_hand(small):
    pricer = Pricer(*small)
    cut = Configuration({"a": tuple(range(10))}, {"c": LowRank("tucker2", (4, 6))})
    costs = pricer.by_layer(cut)
    assert costs["a"] == Cost(16 * 10 * 9 + 10, 16 * 10 * 9 * 64, 32 * (16 * 10 * 9 + 10))
    assert costs["norm_a"].params == 20
    assert costs["b"].macs == 10 * 16 * 9 * 64
    assert costs["c"].macs == 4 * 16 * 64 + 4 * 6 * 9 * 16 + 6 * 32 * 16
    assert costs["c"].params == 4 * 16 + 4 * 6 * 9 + 6 * 32 + 32
    assert pricer.layer("b", cut) == costs["b"]
    assert pricer.channels("b", cut) == (10, 16)
    assert pricer.channels("a", cut) == (16, 10)
    assert pricer.touched("a") == {"a", "norm_a", "b"}


def test_keeping_everything_changes_nothing(small):
    model, graph = small
    every = {group.name: tuple(range(group.channels)) for group in graph.groups}
    assert Pricer(model, graph).price(Configuration(every)) == graph.cost


def test_grouped_and_depthwise_layers():
    model = seeded(Mixed)
    image = (torch.zeros(1, 3, 15, 13),)
    graph = capture(model, image)
    pricer, weights = Pricer(model, graph), WeightMath(model, graph, {})
    for group in graph.groups:
        if group.frozen_because is not None:
            continue
        half = group.channels // 2
        kept = tuple(range(half)) if not group.balance else tuple(range(0, group.channels, 2))
        configuration = Configuration({group.name: kept})
        network = built(model, *weights.realise(configuration))
        assert pricer.price(configuration) == capture(network, image).cost, group.name


class Raw(nn.Module):
    """A kernel that no layer holds, and a layer whose weight is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.kernel = nn.Conv2d(3, 8, 3), nn.Parameter(torch.randn(8, 8, 3, 3))
        self.b = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.b(F.conv2d(F.relu(self.a(x)), self.kernel))
        return self.head(x.mean((2, 3)))


def test_layers_without_a_weight_of_that_name_have_their_price():
    model = seeded(Raw)
    graph = capture(model, IMAGE)
    assert Pricer(model, graph).price(Configuration()) == graph.cost


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    graph = capture(model, (torch.zeros(1, 6),))
    assert Pricer(model, graph).price(Configuration()).params == 36 + 12
    assert Pricer(model, graph).price(Configuration()) == graph.cost
