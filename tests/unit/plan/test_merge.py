from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lissom.artifacts import Artifacts, load, save
from lissom.errors import PlanError, UnsupportedLayer
from lissom.plan.build import build
from lissom.plan.keep_channels import AxisCut, KeepChannels
from lissom.plan.low_rank import ChannelSVD, Tucker2
from lissom.plan.merge import Merge, merge_values
from lissom.plan.plan import Plan, decision_kinds


def parts(*modules: nn.Module) -> nn.Sequential:
    names = ("first", "last") if len(modules) == 2 else ("first", "core", "last")
    return nn.Sequential(
        OrderedDict(layer=nn.Sequential(OrderedDict(zip(names, modules, strict=True))))
    )


def largest_difference(model: nn.Module, inputs: torch.Tensor) -> float:
    values = merge_values(model, "layer")
    new = build(model, Plan((Merge("layer"),)))
    new.load_state_dict(values)
    assert type(new.layer) in (nn.Conv2d, nn.Linear)
    with torch.no_grad():
        return float((new(inputs) - model(inputs)).abs().max())


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (parts(nn.Linear(5, 2, bias=False), nn.Linear(2, 4)), (3, 5)),
        (parts(nn.Linear(5, 2), nn.Linear(2, 4, bias=False)), (3, 6, 5)),
        (parts(nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 4, 1)), (2, 3, 6, 6)),
        (parts(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 4, 3)), (2, 3, 6, 6)),
        (
            parts(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")),
            (2, 3, 6, 6),
        ),
        (
            parts(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 3, (3, 1), stride=2), nn.Conv2d(3, 4, 1)),
            (2, 3, 7, 6),
        ),
        (parts(nn.Conv2d(3, 2, 1, padding="same"), nn.Conv2d(2, 4, 1)), (2, 3, 5, 5)),
        (parts(nn.Conv2d(3, 2, 1, stride=2), nn.Conv2d(2, 4, 1)), (2, 3, 5, 5)),
    ],
    ids=lambda value: str(value) if isinstance(value, tuple) else None,
)
def test_a_bias_on_any_part_is_taken_along_where_that_is_exact(model, shape) -> None:
    torch.manual_seed(0)
    assert largest_difference(model.eval(), torch.randn(shape)) < 1e-5


def test_the_merged_layer_has_the_attributes_of_the_window_and_the_outer_channels() -> None:
    model = parts(
        nn.Conv2d(3, 2, 1, bias=False),
        nn.Conv2d(2, 5, (3, 5), (2, 1), (1, 2), (1, 2), bias=False, padding_mode="circular"),
        nn.Conv2d(5, 4, 1),
    )
    model.layer.core.weight.requires_grad_(False)
    model.layer.last.bias.requires_grad_(False)
    model.eval()
    Merge("layer").apply(model)
    conv = model.layer
    assert (conv.in_channels, conv.out_channels, conv.kernel_size) == (3, 4, (3, 5))
    assert (conv.stride, conv.padding, conv.dilation) == ((2, 1), (1, 2), (1, 2))
    assert conv.padding_mode == "circular"
    assert not conv.training
    assert conv.weight.requires_grad  # two of the three were trained
    assert not conv.bias.requires_grad


def test_no_part_with_a_bias_gives_no_bias() -> None:
    model = parts(nn.Linear(3, 2, bias=False), nn.Linear(2, 4, bias=False)).train()
    model.requires_grad_(False)
    assert list(merge_values(model, "layer")) == ["layer.weight"]
    Merge("layer").apply(model)
    assert model.layer.bias is None
    assert model.layer.training
    assert not model.layer.weight.requires_grad


def test_the_values_are_those_of_double_precision() -> None:
    torch.manual_seed(0)
    model = parts(nn.Linear(300, 200, bias=False), nn.Linear(200, 50, bias=False))
    first, last = model.layer.first.weight.detach(), model.layer.last.weight.detach()
    expected = (last.double() @ first.double()).float()
    assert torch.equal(merge_values(model, "layer")["layer.weight"], expected)


class Wrapped(nn.Sequential):
    pass


def hooked() -> nn.Sequential:
    model = parts(nn.Linear(3, 2), nn.Linear(2, 4))
    model.layer.first.register_forward_hook(lambda *_: None)
    return model


REFUSED = {
    "whole": (
        nn.Sequential(OrderedDict(layer=nn.Conv2d(3, 4, 3))),
        r"layer: merging needs a Sequential of first and last, .* got Conv2d\(\); decompose",
    ),
    "names": (
        nn.Sequential(OrderedDict(layer=nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4)))),
        r"got Sequential\(0, 1\)",
    ),
    "subclass": (
        nn.Sequential(
            OrderedDict(layer=Wrapped(OrderedDict(first=nn.Linear(3, 2), last=nn.Linear(2, 4))))
        ),
        r"got Wrapped\(first, last\)",
    ),
    "activation": (
        parts(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 4)),
        r"layer: merging needs parts that are all .*, got Linear, ReLU, Linear; leave",
    ),
    "mixed": (parts(nn.Conv2d(3, 2, 1), nn.Linear(2, 4)), r"got Conv2d, Linear"),
    "grouped": (
        parts(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 1)),
        r"layer.first: merging needs groups=1, got groups=2",
    ),
    "two windows": (
        parts(nn.Conv2d(3, 2, (3, 1)), nn.Conv2d(2, 4, (3, 3))),
        r"layer: merging needs at most one part that is not 1x1 .* got first and last",
    ),
    "columns after rows": (
        parts(nn.Conv2d(3, 2, (1, 3)), nn.Conv2d(2, 4, (3, 1))),
        r"or a vertical and then a horizontal one, got first and last",
    ),
    "a stride that is not its own": (
        parts(nn.Conv2d(3, 2, (3, 1), stride=(1, 2)), nn.Conv2d(2, 4, (1, 3))),
        r"or a vertical and then a horizontal one, got first and last",
    ),
    "two ways of padding": (
        parts(
            nn.Conv2d(3, 2, (3, 1), padding=(1, 0), padding_mode="reflect"),
            nn.Conv2d(2, 4, (1, 3), padding=(0, 1)),
        ),
        r"or a vertical and then a horizontal one, got first and last",
    ),
    "a bias before the horizontal padding": (
        parts(nn.Conv2d(3, 2, (3, 1)), nn.Conv2d(2, 4, (1, 3), padding=(0, 1))),
        r"layer.first: merging needs no bias before the zero padding of last",
    ),
    "padded 1x1": (
        parts(nn.Conv2d(3, 2, 3), nn.Conv2d(2, 4, 1, padding=1)),
        r"at most one part that is not 1x1",
    ),
    "bias before padding": (
        parts(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 1)),
        r"layer.first: merging needs no bias before the zero padding of core",
    ),
    "bias before same": (
        parts(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 4, 3, padding="same")),
        r"layer.first: merging needs no bias before the zero padding of last",
    ),
    "sides": (
        parts(nn.Linear(3, 2), nn.Linear(3, 4)),
        r"layer.last: expected 2 inputs, the outputs of first, got 3; cut both sides",
    ),
    "hooks": (hooked(), r"layer: merging would lose a parametrization or the forward hooks"),
    "parametrized": (
        parts(weight_norm(nn.Linear(3, 2)), nn.Linear(2, 4)),
        r"layer: merging would lose a parametrization or the forward hooks",
    ),
}


@pytest.mark.parametrize(("model", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_merged_is_named(model, message) -> None:
    with pytest.raises(UnsupportedLayer, match=message):
        merge_values(model, "layer")
    with pytest.raises(UnsupportedLayer, match=message):
        Merge("layer").apply(model)


def test_a_missing_layer_is_named() -> None:
    with pytest.raises(PlanError, match="layer 'other' does not exist"):
        Merge("other").apply(parts(nn.Linear(3, 2), nn.Linear(2, 4)))


def test_the_file_format_knows_it() -> None:
    assert decision_kinds()["merge"] is Merge
    plan = Plan((ChannelSVD("layer", 2), Merge("layer")))
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.decisions[1].target == "layer"
    with pytest.raises(PlanError, match="layer"):
        Merge.from_dict({})


def test_channels_cut_from_the_parts_are_gone_in_the_merged_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        OrderedDict(layer=nn.Conv2d(4, 6, 3, padding=1), later=nn.Conv2d(6, 2, 1))
    )
    cuts = (
        AxisCut((0, 2), 3, (("layer.first.weight", 0), ("layer.last.weight", 1))),
        AxisCut(
            (1, 3, 4),
            6,
            (("layer.last.weight", 0), ("layer.last.bias", 0), ("later.weight", 1)),
        ),
    )
    earlier = (ChannelSVD("layer", 3), KeepChannels("layer", cuts))
    factors = build(model, Plan(earlier)).eval()
    for parameter in factors.parameters():
        nn.init.normal_(parameter)
    whole = build(model, Plan((*earlier, Merge("layer")))).eval()
    state = {n: v for n, v in factors.state_dict().items() if not n.startswith("layer.")}
    whole.load_state_dict(state | merge_values(factors, "layer"))
    assert whole.layer.weight.shape == (3, 4, 3, 3)
    inputs = torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        # Float32 rounding of another order of operations; outputs are around 30.
        torch.testing.assert_close(whole(inputs), factors(inputs), atol=1e-4, rtol=1e-5)


class Owned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).mean((2, 3)))


def test_a_folder_whose_plan_ends_with_merges_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Owned()
    decisions = (Tucker2("conv", 2, 5), ChannelSVD("head", 3))
    factors = build(model, Plan.starting_from(model) + Plan(decisions))
    for parameter in factors.parameters():
        nn.init.normal_(parameter)
    plan = Plan.starting_from(model) + Plan((*decisions, Merge("conv"), Merge("head")))
    whole = build(model, plan).eval()
    whole.load_state_dict(merge_values(factors, "conv") | merge_values(factors, "head"))
    save(tmp_path, Artifacts(model=whole, plan=plan))
    loaded = load(tmp_path, model=Owned())
    inputs = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        assert torch.equal(loaded(inputs), whole(inputs))
