from __future__ import annotations

import pytest
from torch import nn

from lissom.errors import UnsupportedLayer
from lissom.plan.cost import Cost
from lissom.plan.predict import LayerShape, channel_svd_cost, dense_cost, tucker2_cost


def test_costs_by_hand() -> None:
    shape = LayerShape.of(nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 7, 7), (6, 4, 4))
    assert dense_cost(shape) == Cost(222, 216 * 16, 222 * 32)
    # first 2x4 at 49 positions, core 3x2x9 and last 6x3 at 16, bias 6.
    assert tucker2_cost(shape, 2, 3) == Cost(86, 8 * 49 + 72 * 16, 86 * 32)
    assert channel_svd_cost(shape, 2) == Cost(90, 84 * 16, 90 * 32)


def test_linear_layers_and_calls() -> None:
    shape = LayerShape.of(nn.Linear(5, 4, bias=False), (7, 5), (7, 4), calls=3)
    assert dense_cost(shape) == Cost(20, 20 * 7 * 3, 640)
    assert channel_svd_cost(shape, 2).macs == 18 * 7 * 3


def test_groups_divide_the_weights() -> None:
    shape = LayerShape.of(nn.Conv2d(4, 8, 3, groups=4), (4, 5, 5), (8, 3, 3))
    assert dense_cost(shape).params == 8 * 9 + 8


def test_other_layers_are_refused() -> None:
    with pytest.raises(
        UnsupportedLayer, match=r"Conv1d: costs are predicted for Conv2d and Linear"
    ):
        LayerShape.of(nn.Conv1d(1, 1, 1), (1, 3), (1, 3))
