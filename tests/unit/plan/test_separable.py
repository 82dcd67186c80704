from __future__ import annotations

import pytest
import torch
from torch import nn

from lissom.errors import PlanError, UnsupportedLayer
from lissom.plan.plan import Plan
from lissom.plan.separable import FilterCP, SpatialSVD, TensorTrain


def conv(**changes) -> nn.Conv2d:
    attributes = {
        "stride": (2, 1),
        "padding": (1, 2),
        "dilation": (1, 2),
        "padding_mode": "reflect",
    }
    return nn.Conv2d(6, 8, (3, 5), **(attributes | changes))


def parts_of(decision, layer: nn.Module | None = None) -> dict[str, nn.Conv2d]:
    network = nn.Sequential(layer or conv()).eval()
    decision.apply(network)
    assert not any(module.training for module in network.modules())
    return dict(network[0].named_children())


def geometry(part: nn.Conv2d) -> tuple:
    return part.stride, part.padding, part.dilation


VERTICAL, HORIZONTAL = ((2, 1), (1, 0), (1, 1)), ((1, 1), (0, 2), (1, 2))


def test_spatial_svd_splits_the_geometry() -> None:
    parts = parts_of(SpatialSVD("0", 4))
    assert list(parts) == ["first", "last"]
    assert parts["first"].weight.shape == (4, 6, 3, 1)
    assert parts["last"].weight.shape == (8, 4, 1, 5)
    assert geometry(parts["first"]) == VERTICAL
    assert geometry(parts["last"]) == HORIZONTAL
    assert {part.padding_mode for part in parts.values()} == {"reflect"}


def test_filter_cp_is_depthwise_and_sums_within_filters() -> None:
    parts = parts_of(FilterCP("0", 2))
    assert list(parts) == ["first", "core", "last"]
    assert parts["first"].weight.shape == (16, 6, 1, 1)
    assert parts["core"].weight.shape == (16, 1, 3, 1)
    assert parts["last"].weight.shape == (8, 2, 1, 5)
    assert [part.groups for part in parts.values()] == [1, 16, 8]
    assert geometry(parts["first"]) == ((1, 1), (0, 0), (1, 1))
    assert geometry(parts["core"]) == VERTICAL
    assert geometry(parts["last"]) == HORIZONTAL


def test_tensor_train_has_four_parts() -> None:
    parts = parts_of(TensorTrain("0", 2, 5, 3))
    assert list(parts) == ["first", "vertical", "horizontal", "last"]
    shapes = [tuple(part.weight.shape) for part in parts.values()]
    assert shapes == [(2, 6, 1, 1), (5, 2, 3, 1), (3, 5, 1, 5), (8, 3, 1, 1)]
    assert geometry(parts["vertical"]) == VERTICAL
    assert geometry(parts["horizontal"]) == HORIZONTAL


@pytest.mark.parametrize(
    "decision", [SpatialSVD("0", 2), FilterCP("0", 2), TensorTrain("0", 2, 2, 2)]
)
def test_only_the_last_part_has_the_bias(decision) -> None:
    *before, last = parts_of(decision).values()
    assert all(part.bias is None for part in before)
    assert last.bias is not None
    assert parts_of(decision, conv(bias=False))["last"].bias is None


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_named_paddings_go_to_both_halves(padding) -> None:
    layer = conv(stride=1, padding=padding, dilation=1)
    assert {p.padding for p in parts_of(SpatialSVD("0", 2), layer).values()} == {padding}


def test_types_and_frozen_weights_are_kept() -> None:
    layer = conv(dtype=torch.float64)
    layer.weight.requires_grad_(False)
    for part in parts_of(FilterCP("0", 1), layer).values():
        assert part.weight.dtype == torch.float64
        assert not part.weight.requires_grad


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        (SpatialSVD("0", 19), r"0: rank=19, expected 1 to 18"),  # min(6 x 3, 8 x 5)
        (FilterCP("0", 16), r"0: rank=16, expected 1 to 15"),  # 3 x 5
        (FilterCP("0", 0), r"rank=0"),
        (TensorTrain("0", 7, 1, 1), r"rank_in=7, expected 1 to 6"),
        (TensorTrain("0", 1, 1, 9), r"rank_out=9, expected 1 to 8"),
        (TensorTrain("0", 2, 7, 2), r"rank_middle=7, expected 1 to 6"),
    ],
)
def test_ranks_are_checked(decision, message) -> None:
    with pytest.raises(PlanError, match=message):
        decision.apply(nn.Sequential(conv()))


@pytest.mark.parametrize(
    "decision", [SpatialSVD("0", 1), FilterCP("0", 1), TensorTrain("0", 1, 1, 1)]
)
def test_linear_layers_are_refused(decision) -> None:
    with pytest.raises(UnsupportedLayer, match=r"needs torch.nn.Conv2d, got Linear"):
        decision.apply(nn.Sequential(nn.Linear(2, 2)))


def test_fields_are_read_by_name_and_checked() -> None:
    plan = Plan((TensorTrain("a.b", 2, 5, 3),))
    assert '"rank_in":2,"rank_middle":5,"rank_out":3' in plan.to_json()
    assert TensorTrain("a.b", 2, 5, 3).ranks == (2, 5, 3)
    with pytest.raises(PlanError, match=r"tensor_train: field 'rank_middle' is missing"):
        TensorTrain.from_dict({"layer": "a", "rank_in": 1, "rank_out": 1})
    with pytest.raises(PlanError, match=r"spatial_svd: unknown field 'more'"):
        SpatialSVD.from_dict({"layer": "a", "rank": 1, "more": 2})
