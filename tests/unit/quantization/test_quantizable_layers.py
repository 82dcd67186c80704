import torch
from torch import nn

from lissom.graph.capture import capture
from lissom.quantization.layers import quantizable


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.one = nn.Linear(6, 6, bias=False)
        self.two = nn.Linear(6, 6, bias=False)
        self.two.weight = self.one.weight
        self.up = nn.ConvTranspose2d(6, 6, 2)
        self.scaled = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
        self.idle = nn.Linear(2, 2)

    def forward(self, x):
        x = self.up(self.stem(x)).mean((2, 3))
        return self.scaled(self.two(self.one(x)))


def test_every_layer_is_offered_or_explained():
    model = Odd().eval()
    graph = capture(model, (torch.zeros(1, 3, 6, 6),))
    chosen, refused = quantizable(model, graph, frozenset({"up"}))
    assert chosen == ("stem",)
    assert refused["up"] == "ignored"
    assert "shares its weight" in refused["one"]
    assert "computed by something else" in refused["scaled"]
    assert refused["idle"] == "does not run"
    assert quantizable(model, graph, frozenset())[0] == ("stem", "up")


class Twice(nn.Module):
    """One layer under two names."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.net = nn.Sequential(self.conv, nn.ReLU())

    def forward(self, x):
        return self.net(x)


def test_another_name_is_no_other_layer():
    model = Twice().eval()
    chosen, refused = quantizable(model, capture(model, (torch.zeros(1, 3, 6, 6),)), frozenset())
    assert len(chosen) == 1
    assert not refused


def test_a_network_that_is_a_layer_is_refused_with_a_way_out():
    model = nn.Conv2d(3, 4, 3).eval()
    chosen, refused = quantizable(model, capture(model, (torch.zeros(1, 3, 6, 6),)), frozenset())
    assert chosen == ()
    assert "Sequential" in refused["(the network)"]


def test_other_types_than_float32_are_refused():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(96, 2)).double().eval()
    graph = capture(model, (torch.zeros(1, 3, 6, 6).double(),))
    chosen, refused = quantizable(model, graph, frozenset())
    assert chosen == ()
    assert "torch.float64, levels are for float32" in refused["0"]
