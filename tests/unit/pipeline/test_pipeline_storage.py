from __future__ import annotations

import torch
from torch import nn

from lissom.pipeline.storage import not_levels
from lissom.plan.plan import Plan
from lissom.plan.quantize import Quantize


def test_layers_that_are_no_levels_whatever_the_plan_says_are_named() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    for layer in (model[0], model[1]):
        layer.weight.data = torch.round(layer.weight.data * 40) / 8 + 0.0
    plan = Plan(tuple(Quantize(name, 3, 1, channel_scales=False) for name in "012"))
    assert not_levels(model, plan) == ["2"]
    assert not_levels(model, Plan(())) == []
    model[1].weight.data[0, 0, 0, 0] = 0.1234567  # no level times a scale
    assert not_levels(model, plan) == ["1", "2"]
