from __future__ import annotations

import pytest
import torch
from torch import nn

from lissom.errors import PlanError, UnsupportedLayer
from lissom.plan.build import apply_values, build
from lissom.plan.low_rank import ChannelSVD
from lissom.plan.merge import Merge
from lissom.plan.plan import Plan
from lissom.plan.sparse_plus import SparsePlusLowRank, SparsePlusSVD


def conv(**changes) -> nn.Conv2d:
    attributes = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}
    return nn.Conv2d(6, 8, (3, 5), **(attributes | changes))


def split(decision: SparsePlusSVD, layer: nn.Module) -> SparsePlusLowRank:
    network = nn.Sequential(layer).eval()
    decision.apply(network)
    assert not any(module.training for module in network.modules())
    found = network[0]
    assert isinstance(found, SparsePlusLowRank)
    return found


def test_parts_of_a_convolution() -> None:
    both = split(SparsePlusSVD("0", 2, 3), conv(padding_mode="reflect"))
    parts = dict(both.named_children())
    assert list(parts) == ["sparse", "first", "last"]
    shapes = [tuple(part.weight.shape) for part in parts.values()]
    assert shapes == [(8, 2, 3, 5), (3, 4, 3, 5), (8, 3, 1, 1)]
    for part in (both.sparse, both.first):
        assert (part.stride, part.padding, part.dilation) == ((2, 1), (1, 2), (1, 2))
        assert part.padding_mode == "reflect"
    assert [part.bias is None for part in parts.values()] == [True, True, False]
    assert both.order.tolist() == [0, 1, 2, 3, 4, 5]
    assert split(SparsePlusSVD("0", 2, 3), conv(bias=False)).last.bias is None


@pytest.mark.parametrize("shape", [(6,), (4, 6)])
def test_a_linear_layer_reads_the_last_axis(shape) -> None:
    both = split(SparsePlusSVD("0", 2, 3), nn.Linear(6, 8)).double()
    weight = torch.randn(8, 6, dtype=torch.float64)
    both.order.copy_(torch.tensor([4, 1, 0, 2, 3, 5]))
    with torch.no_grad():
        both.sparse.weight.copy_(weight[:, [4, 1]])
        both.first.weight.copy_(torch.randn(3, 4))
        both.last.weight.copy_(torch.randn(8, 3))
        both.last.bias.zero_()
        dense = weight.clone()
        dense[:, [0, 2, 3, 5]] = both.last.weight @ both.first.weight
        inputs = torch.randn(2, *shape, dtype=torch.float64)
        torch.testing.assert_close(both(inputs), inputs @ dense.T)


def test_the_order_travels_with_the_values_through_the_meta_device() -> None:
    network, plan = nn.Sequential(conv()), Plan((SparsePlusSVD("0", 2, 3),))
    values = build(network, plan).state_dict()
    values["0.order"] = torch.tensor([5, 1, 0, 2, 3, 4])
    values["0.sparse.weight"] = torch.randn(8, 2, 3, 5)
    empty = build(network.to("meta"), plan)
    assert empty.state_dict()["0.order"].is_meta
    apply_values(empty, values)
    assert empty[0].order.tolist() == [5, 1, 0, 2, 3, 4]
    reached = torch.zeros(1, 6, 7, 7)
    reached[:, 1] = 1
    assert empty(reached).abs().max() > 0
    with torch.no_grad():
        difference = empty(reached[:, [0, 2, 1, 3, 4, 5]]) - empty(torch.zeros(1, 6, 7, 7))
    assert difference.abs().max() == 0


def test_parts_may_be_replaced_later() -> None:
    plan = Plan(
        (SparsePlusSVD("0", 2, 3), ChannelSVD("0.sparse", 4), SparsePlusSVD("0.first", 1, 2))
    )
    with torch.no_grad():
        assert build(nn.Sequential(conv()), plan)(torch.ones(1, 6, 7, 7)).shape == (1, 8, 4, 3)


@pytest.mark.parametrize(
    ("decision", "layer", "message"),
    [
        (SparsePlusSVD("0", 6, 1), conv(), r"0: channels=6, expected 1 to 5"),
        (SparsePlusSVD("0", 0, 1), conv(), r"0: channels=0, expected 1 to 5"),
        (SparsePlusSVD("0", 2, 9), conv(), r"0: rank=9, expected 1 to 8"),
        (SparsePlusSVD("0", 4, 3), nn.Linear(6, 8), r"0: rank=3, expected 1 to 2"),
        (SparsePlusSVD("0", 1, 1), nn.Conv2d(1, 4, 3), r"0: has one input channel, expected at le"),
    ],
)
def test_numbers_out_of_range_are_named(decision, layer, message) -> None:
    with pytest.raises(PlanError, match=message):
        decision.apply(nn.Sequential(layer))


def test_grouped_convolutions_and_merging_are_refused() -> None:
    with pytest.raises(UnsupportedLayer, match=r"0: low rank needs groups=1, got groups=2"):
        SparsePlusSVD("0", 1, 1).apply(nn.Sequential(conv(groups=2)))
    network = build(nn.Sequential(conv()), Plan((SparsePlusSVD("0", 2, 3),)))
    with pytest.raises(UnsupportedLayer, match=r"0: merging needs .*got SparsePlusLowRank"):
        Merge("0").apply(network)
