from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lissom.errors import PlanError, UnsupportedLayer
from lissom.plan.build import apply_values, build
from lissom.plan.fold import FoldBatchNorm
from lissom.plan.keep_channels import AxisCut, KeepChannels
from lissom.plan.low_rank import ChannelSVD, Tucker2
from lissom.plan.plan import Plan


class Network(nn.Module):
    """Two convolutions and two tied linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.wide = nn.Conv2d(6, 8, 3)
        self.head = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.head.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = self.wide(self.norm(self.conv(inputs)).relu()).mean((2, 3))
        return self.tied(self.head(features))


DECISIONS = Plan(
    (
        KeepChannels(
            "conv",
            (
                AxisCut(
                    (0, 2, 5),
                    6,
                    (
                        ("conv.weight", 0),
                        ("norm.weight", 0),
                        ("norm.bias", 0),
                        ("norm.running_mean", 0),
                        ("norm.running_var", 0),
                        ("wide.weight", 1),
                    ),
                ),
            ),
        ),
        FoldBatchNorm("conv", "norm"),
        Tucker2("wide", 2, 3),
        ChannelSVD("conv", 2),
    )
)


def test_the_input_network_is_untouched() -> None:
    model = Network()
    before = copy.deepcopy(model.state_dict())
    new = build(model, Plan.starting_from(model) + DECISIONS)
    assert type(new) is Network
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert not {id(p) for p in new.parameters()} & {id(p) for p in model.parameters()}
    assert new(torch.randn(2, 3, 9, 9)).shape == (2, 8)


def filled() -> nn.Module:
    torch.manual_seed(0)
    new = build(Network(), DECISIONS).eval()
    for parameter in new.parameters():
        nn.init.normal_(parameter)
    return new


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_fresh_network_with_stored_values_is_bit_identical(device) -> None:
    original = filled()
    with torch.device(device):
        fresh = build(Network(), DECISIONS).eval()
    apply_values(fresh, original.state_dict())
    assert list(fresh.state_dict()) == list(original.state_dict())
    inputs = torch.randn(2, 3, 9, 9)
    assert torch.equal(fresh(inputs), original(inputs))
    assert fresh.tied.weight is fresh.head.weight


def test_the_oracle_notices_one_changed_bit() -> None:
    original, fresh = filled(), filled()
    values = dict(original.state_dict())
    values["conv.last.bias"] = values["conv.last.bias"].nextafter(torch.tensor(9.0))
    apply_values(fresh, values)
    inputs = torch.randn(2, 3, 9, 9)
    assert not torch.equal(fresh(inputs), original(inputs))


def test_one_name_of_a_tied_tensor_is_enough() -> None:
    original = filled()
    values = dict(original.state_dict())
    del values["tied.weight"]
    fresh = build(Network(), DECISIONS)
    apply_values(fresh, values)
    assert torch.equal(fresh.tied.weight, original.tied.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv.first.weight": None}, r"tensor 'conv.first.weight' is not among the stored ones"),
        ({"extra": torch.zeros(1)}, r"stored tensor 'extra' has no place"),
        (
            {"conv.last.bias": torch.zeros(4)},
            r"'conv.last.bias': the network has \(3,\) float32, stored is \(4,\) float32",
        ),
        ({"conv.last.bias": torch.zeros(3).double()}, r"stored is \(3,\) float64"),
    ],
)
def test_values_that_do_not_fit_change_nothing(change, message) -> None:
    fresh = filled()
    before = copy.deepcopy(fresh.state_dict())
    values = {name: torch.ones_like(value) for name, value in before.items()} | change
    values = {name: value for name, value in values.items() if value is not None}
    with pytest.raises(PlanError, match=message):
        apply_values(fresh, values)
    assert all(torch.equal(fresh.state_dict()[name], value) for name, value in before.items())


def test_transient_buffers_need_a_real_device() -> None:
    model = nn.Module()
    model.register_buffer("positions", torch.zeros(2, device="meta"), persistent=False)
    with pytest.raises(PlanError, match=r"positions is not stored and has no values"):
        apply_values(model, {})


def test_another_network_is_refused_by_its_first_tensor() -> None:
    plan = Plan.starting_from(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)))
    other = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 6))
    message = r"'1.bias': .* with shape \(5,\), this Sequential has shape \(6,\)"
    with pytest.raises(PlanError, match=message):
        build(other, plan)
    with pytest.raises(PlanError, match=r"'1.bias': .* this Sequential has no such tensor"):
        build(nn.Sequential(nn.Linear(3, 4)), plan)
    with pytest.raises(PlanError, match=r"'2.bias': .* with no such tensor, this"):
        build(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(1, 1)), plan)
    with pytest.raises(PlanError, match=r"other tensor names or shapes than this Linear"):
        build(nn.Linear(3, 4), Plan((), None, plan.signature))


def test_errors_say_which_decision() -> None:
    with pytest.raises(
        PlanError, match=r"^decision 2 of 2 \(tucker2\): layer 'gone' does not exist"
    ):
        build(Network(), Plan((ChannelSVD("conv", 1), Tucker2("gone", 1, 1))))
    with pytest.raises(UnsupportedLayer, match=r"^decision 1 of 1 \(channel_svd\): norm: low rank"):
        build(Network(), Plan((ChannelSVD("norm", 1),)))
