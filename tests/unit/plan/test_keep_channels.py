from __future__ import annotations

import pytest
import torch
from torch import nn

from lissom.errors import PlanError
from lissom.plan.keep_channels import AxisCut, KeepChannels


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3))
    nn.init.uniform_(layers[1].weight, 0.5, 1.5)
    return layers.eval()


AXES = (
    ("0.weight", 0),
    ("0.bias", 0),
    ("1.weight", 0),
    ("1.bias", 0),
    ("1.running_mean", 0),
    ("1.running_var", 0),
    ("3.weight", 1),
)


def test_channels_that_the_consumer_ignores_can_go() -> None:
    model = network()
    with torch.no_grad():
        model[3].weight[:, [1, 4]] = 0
        inputs = torch.randn(2, 3, 9, 9)
        before = model(inputs)
        decision = KeepChannels("0", (AxisCut((0, 2, 3, 5), 6, AXES),))
        decision.apply(model)
        # Fewer terms in each sum: equal up to rounding.
        torch.testing.assert_close(model(inputs), before)
    assert decision.target == "0"
    assert (model[0].out_channels, model[1].num_features, model[3].in_channels) == (4, 4, 4)


def test_the_oracle_notices_a_channel_that_matters() -> None:
    model = network()
    with torch.no_grad():
        inputs = torch.randn(2, 3, 9, 9)
        before = model(inputs)
        KeepChannels("0", (AxisCut((0, 2, 3, 5), 6, AXES),)).apply(model)
        assert float((model(inputs) - before).abs().max()) > 1e-3


def test_another_size_is_named() -> None:
    decision = KeepChannels("layer1", (AxisCut((0, 2), 7, (("3.weight", 1),)),))
    with pytest.raises(
        PlanError, match=r"3.weight has 6 entries along axis 1, but .* layer1 expects 7"
    ):
        decision.apply(network())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), 6, ()), r"an axis of 6 entries keeps 0; expected at least one"),
        (((0, 6), 6, ()), r"from 0 to 5"),
        (((2, 1), 6, ()), r"strictly increasing"),
        (((0,), 6, (), 4), r"6 channels can't be split into groups=4"),
        (((0,), 6, (), 0), r"groups=0"),
    ],
)
def test_cuts_are_checked_when_made(arguments, message) -> None:
    with pytest.raises(PlanError, match=message):
        AxisCut(*arguments)
