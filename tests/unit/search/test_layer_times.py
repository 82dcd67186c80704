"""Times of layers as a configuration leaves them."""

import torch
from torch import nn

from lissom.graph.capture import capture
from lissom.search.layer_times import LayerTimes
from lissom.search.price import Configuration, LowRank, Pricer


class WeightClock:
    """Takes a nanosecond for each weight, so that sums can be told by hand."""

    def __init__(self):
        self.asked = []

    def nanoseconds(self, layer, input_shape):
        self.asked.append(input_shape)
        layer(torch.empty(1, *input_shape, device="meta"))
        return sum(part.numel() for name, part in layer.named_parameters() if "weight" in name)

    def milliseconds(self, network, original):
        raise AssertionError("no network is run")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.wide = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.same = nn.Conv2d(12, 12, 1)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = torch.relu(self.wide(torch.relu(self.deep(torch.relu(self.stem(x))))))
        return self.head(self.same(self.same(x)).mean((2, 3)))


def prepared():
    model = Net().eval()
    return model, capture(model, (torch.randn(1, 3, 8, 8),)), WeightClock()


def test_layers_take_the_time_of_what_is_left_of_them():
    times = LayerTimes(*prepared())
    assert times.of("wide", 8, 12, None) == 12 * 8 * 9
    assert times.of("wide", 5, 7, None) == 7 * 5 * 9
    assert times.of("head", 3, 4, None) == 12
    assert times.of("same", 12, 12, None) == 2 * 144  # it is called twice


def test_a_depthwise_convolution_stays_depthwise():
    model, graph, clock = prepared()
    assert LayerTimes(model, graph, clock).of("deep", 1, 5, None) == 5 * 9
    assert clock.asked == [(5, 8, 8)]


def test_decomposed_layers_take_the_time_of_their_parts():
    times = LayerTimes(*prepared())
    assert times.of("wide", 8, 12, LowRank("channel_svd", (4,))) == 4 * 8 * 9 + 12 * 4
    assert times.of("wide", 6, 12, LowRank("tucker2", (2, 3))) == 2 * 6 + 3 * 2 * 9 + 12 * 3


def test_each_question_is_asked_once():
    model, graph, clock = prepared()
    times = LayerTimes(model, graph, clock)
    assert times.of("wide", 8, 12, None) == times.of("wide", 8, 12, None)
    assert len(clock.asked) == 1


def test_prices_carry_times_only_with_a_clock():
    model, graph, clock = prepared()
    assert Pricer(model, graph).price(Configuration()).nanoseconds == 0
    pricer = Pricer(model, graph, clock)
    plain = pricer.price(Configuration())
    assert plain.nanoseconds == 3 * 8 * 9 + 8 * 9 + 8 * 12 * 9 + 2 * 144 + 48
    group = next(one for one in graph.groups if "stem" in one.producers)
    cut = Configuration({group.name: tuple(range(5))}, {"wide": LowRank("channel_svd", (2,))})
    assert pricer.price(cut).nanoseconds == (3 * 5 * 9 + 5 * 9 + 2 * 5 * 9 + 12 * 2 + 2 * 144 + 48)
    assert (plain - pricer.price(cut)).nanoseconds == plain.nanoseconds - pricer.price(
        cut
    ).nanoseconds
