from __future__ import annotations

import pytest
from torch import nn

from lissom.errors import UnsupportedLayer
from lissom.plan.cost import Cost
from lissom.plan.predict import (
    LayerShape,
    channel_svd_cost,
    dense_cost,
    filter_cp_cost,
    sparse_plus_svd_cost,
    spatial_svd_cost,
    tensor_train_cost,
    tucker2_cost,
)


def test_costs_by_hand() -> None:
    shape = LayerShape.of(nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 7, 7), (6, 4, 4))
    assert dense_cost(shape) == Cost(222, 216 * 16, 222 * 32)
    # first 2x4 at 49 positions, core 3x2x9 and last 6x3 at 16, bias 6.
    assert tucker2_cost(shape, 2, 3) == Cost(86, 8 * 49 + 72 * 16, 86 * 32)
    assert channel_svd_cost(shape, 2) == Cost(90, 84 * 16, 90 * 32)
    # sparse 6x1x9, first 2x3x9, last 6x2, all at 16 positions; bias 6.
    assert sparse_plus_svd_cost(shape, 1, 2) == Cost(126, 120 * 16, 126 * 32)


def test_linear_layers_and_calls() -> None:
    shape = LayerShape.of(nn.Linear(5, 4, bias=False), (7, 5), (7, 4), calls=3)
    assert dense_cost(shape) == Cost(20, 20 * 7 * 3, 640)
    assert channel_svd_cost(shape, 2).macs == 18 * 7 * 3
    assert sparse_plus_svd_cost(shape, 2, 1).macs == (4 * 2 + 3 + 4) * 7 * 3


def test_groups_divide_the_weights() -> None:
    shape = LayerShape.of(nn.Conv2d(4, 8, 3, groups=4), (4, 5, 5), (8, 3, 3))
    assert dense_cost(shape).params == 8 * 9 + 8


def test_other_layers_are_refused() -> None:
    with pytest.raises(
        UnsupportedLayer, match=r"Conv1d: costs are predicted for Conv2d and Linear"
    ):
        LayerShape.of(nn.Conv1d(1, 1, 1), (1, 3), (1, 3))


def test_separable_costs_by_hand() -> None:
    conv = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0))
    shape = LayerShape.of(conv, (4, 7, 5), (6, 4, 4))
    assert (shape.halves, shape.is_separable) == ((3, 2, 4 * 5), True)
    # 2x4x3 at 4 x 5 positions, 6x2x2 at 4 x 4; bias 6.
    assert spatial_svd_cost(shape, 2) == Cost(54, 24 * 20 + 24 * 16, 54 * 32)
    # 12 channels: 12x4 at 7 x 5, 12x3 at 4 x 5, 12x2 at 4 x 4.
    assert filter_cp_cost(shape, 2) == Cost(114, 48 * 35 + 36 * 20 + 24 * 16, 114 * 32)
    # 2x4 at 7 x 5, 5x2x3 at 4 x 5, 3x5x2 and 6x3 at 4 x 4.
    assert tensor_train_cost(shape, 2, 5, 3) == Cost(92, 8 * 35 + 30 * 20 + 48 * 16, 92 * 32)


def test_only_kernels_of_known_height_and_width_are_separable() -> None:
    assert not LayerShape.of(nn.Conv2d(4, 6, (3, 1)), (4, 7, 5), (6, 5, 5)).is_separable
    assert not LayerShape.of(nn.Conv2d(4, 6, (1, 3)), (4, 7, 5), (6, 7, 3)).is_separable
    assert not LayerShape.of(nn.Linear(5, 4), (5,), (4,)).is_separable
    unknown = LayerShape(6, 4, 9, 49, 16, bias=True)
    assert not unknown.is_separable
    with pytest.raises(ValueError, match="kernel_height and middle_positions are not known"):
        spatial_svd_cost(unknown, 1)
