from __future__ import annotations

import copy

import pytest
import torch
from nets import Gate, LiteralShortcut, Net, Residual, TrainedHead, Undecidable, conv
from torch import nn

from lissom.errors import ModelError
from lissom.graph.capture import capture
from lissom.graph.layers import Role
from lissom.graph.offers import decomposable_layers, prunable_layers
from lissom.models.resnet_cifar import resnet_cifar

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def group(graph, name):
    return next(g for g in graph.groups if g.name == name)


def refusals(graph, layer):
    return {r.action: r for r in graph.refusals if r.layer == layer}


def test_layers_are_counted_as_by_hand():
    graph = capture(Residual(), (X,))
    rows = [(r.name, r.kind, r.input_shape, r.output_shape, r.calls) for r in graph.layers]
    assert rows == [
        ("stem", "conv2d", (3, 8, 8), (8, 8, 8), 1),
        ("norm", "batch_norm", (8, 8, 8), (8, 8, 8), 1),
        ("a", "conv2d", (8, 8, 8), (6, 8, 8), 1),
        ("b", "conv2d", (6, 8, 8), (8, 8, 8), 1),
        ("head", "linear", (8,), (4,), 1),
    ]
    costs = {r.name: (r.cost.params, r.cost.macs) for r in graph.layers}
    assert costs == {
        "stem": (8 * 3 * 9 + 8, 8 * 3 * 9 * 64),
        "norm": (16, 0),
        "a": (6 * 8 * 9 + 6, 6 * 8 * 9 * 64),
        "b": (8 * 6 * 9 + 8, 8 * 6 * 9 * 64),
        "head": (36, 32),
    }
    assert graph.cost.bits == 32 * graph.cost.params


def test_odd_layers_are_counted_as_by_hand():
    net = Net(
        lambda s, x: s.head(s.up(s.two(s.two(s.stem(x)))).flatten(2).transpose(1, 2)),
        stem=conv(3, 4),
        two=conv(4, 4, groups=2, bias=False),
        up=nn.ConvTranspose2d(4, 6, 2, stride=2),
        head=nn.Linear(6, 5),
    )
    graph = capture(net, (X,))
    assert {r.name: (r.calls, r.cost.macs) for r in graph.layers} == {
        "stem": (1, 3 * 4 * 9 * 64),
        "two": (2, 2 * (4 * 2 * 9 * 64)),
        "up": (1, 4 * 6 * 4 * 64),
        "head": (1, 6 * 5 * 256),  # 256 positions
    }


def test_tied_weights_are_counted_once():
    net = nn.Sequential(conv(3, 3), conv(3, 3))
    net[1].weight = net[0].weight
    graph = capture(net, (X,))
    assert [r.cost.params for r in graph.layers] == [84, 3]
    assert "shared with another layer" in refusals(graph, "0")["decompose"].reason


def test_option_a_by_a_channel_map_is_one_group():
    graph = capture(resnet_cifar(20), (torch.randn(1, 3, 32, 32),))
    assert (graph.cost.params, round(graph.cost.macs / 1e6, 2)) == (269722, 40.55)
    stage = group(graph, "conv1")
    assert (stage.channels, stage.frozen_because, stage.exact) == (64, None, True)
    maps = [m for m in stage.members if m.role is Role.MAP]
    assert [(m.axis, len(m.labels)) for m in maps] == [(0, 32), (1, 16), (0, 64), (1, 32)]
    inside, outside = maps[1].labels, maps[0].labels
    assert outside[8:24] == inside


def test_a_head_that_only_trains_is_coupled():
    graph = capture(TrainedHead(), (X,))
    assert group(graph, "stem").frozen_because is None
    assert "aux.weight" in [m.tensor for m in group(graph, "stem").members]
    assert graph.layers[-1].name == "aux"
    assert graph.layers[-1].calls == 0
    assert "never runs" in refusals(graph, "aux")["decompose"].reason


def test_a_network_that_cannot_be_followed_still_gives_layers():
    graph = capture(Undecidable(), (X,))
    assert graph.groups == ()
    assert "can't be captured as a graph" in graph.notes[0]
    assert [r.cost.macs for r in graph.layers] == [3 * 8 * 9 * 64, 32]
    assert decomposable_layers(graph) == {"stem", "head"}
    assert prunable_layers(graph) == set()
    assert graph.notes[0] == refusals(graph, "stem")["prune"].reason


def test_several_inputs_and_nested_outputs():
    net = Net(
        lambda s, x, y: {"a": s.c(s.a(x) + s.b(y)), "b": (s.d(s.b(y)), None)},
        a=conv(3, 6),
        b=conv(2, 6),
        c=conv(6, 4),
        d=conv(6, 4),
    )
    graph = capture(net, (X, torch.randn(1, 2, 8, 8)))
    free = [g for g in graph.groups if g.frozen_because is None]
    assert [(g.name, g.producers, g.consumers) for g in free] == [("a", ("a", "b"), ("c", "d"))]
    assert [g.name for g in graph.groups if g.frozen_because] == ["c", "d"]


@pytest.mark.parametrize("build", [Residual, Gate, LiteralShortcut, TrainedHead])
def test_the_network_stays_as_it_is(build):
    model = build().train()
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    capture(model, (X,))
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_every_layer_is_offered_or_refused_with_a_reason():
    graph = capture(Gate(), (X,))
    assert prunable_layers(graph) == {"stem", "down", "up"}
    assert decomposable_layers(graph) == {"stem", "down", "up", "head"}
    refused = refusals(graph, "head")["prune"]
    assert refused.reason == "the network returns these channels"


def test_subclasses_and_groups_are_not_decomposed():
    class Standardised(nn.Conv2d):
        pass

    net = nn.Sequential(Standardised(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.PReLU(8))
    graph = capture(net, (X,))
    assert decomposable_layers(graph) == set()
    assert "class Standardised" in refusals(graph, "0")["decompose"].reason
    assert "groups=2" in refusals(graph, "1")["decompose"].reason
    assert set(refusals(graph, "2")) == {"prune", "decompose", "quantize"}


def test_bad_input_is_refused():
    with pytest.raises(ModelError, match=r"pass a torch\.nn\.Module"):
        capture(lambda x: x, (X,))
    with pytest.raises(ModelError, match="a tuple of tensors with a batch axis"):
        capture(Gate(), ())
    with pytest.raises(
        ModelError, match=r"does not run on example_inputs of shapes \(2, 5, 8, 8\)"
    ):
        capture(Gate(), (torch.zeros(1, 5, 8, 8),))


def test_a_layer_that_gets_its_input_by_name_is_named():
    class ByName(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.a(input=x).mean((2, 3))

    with pytest.raises(
        ModelError, match=r"a: the network hands it input by name; call it by place"
    ):
        capture(ByName(), (X,))
