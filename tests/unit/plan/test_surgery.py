from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from lissom.errors import PlanError, UnsupportedLayer
from lissom.plan.surgery import (
    ChannelMap,
    axis_size,
    conv_like,
    linear_like,
    replace_module,
    slice_axis,
)


class Shortcut(nn.Module):
    """A channel map in the style of an option-A shortcut."""

    def __init__(self, source: tuple[int, ...], in_channels: int) -> None:
        super().__init__()
        self.source, self.in_channels = source, in_channels

    def select(self, keep_in: Sequence[int], keep_out: Sequence[int]) -> None:
        place = {channel: position for position, channel in enumerate(keep_in)}
        self.source = tuple(place.get(self.source[out], -1) for out in keep_out)
        self.in_channels = len(keep_in)


ATTRIBUTES = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 8, (3, 1), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2),
        nn.Conv2d(4, 8, 3, padding="same", padding_mode="circular", bias=False),
        nn.Conv2d(4, 8, 3, padding="valid", dtype=torch.float64),
        nn.Conv1d(4, 8, 3, padding=2, padding_mode="reflect"),
        nn.Conv3d(2, 2, 3, stride=2),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
    ],
    ids=lambda conv: f"{type(conv).__name__}-{conv.padding}",
)
def test_conv_like_copies_every_attribute(conv) -> None:
    conv = conv.eval()
    conv.weight.requires_grad_(False)
    random = torch.get_rng_state()
    new = conv_like(conv)
    assert torch.equal(random, torch.get_rng_state())
    assert type(new) is type(conv)
    for name in ATTRIBUTES:
        assert getattr(new, name) == getattr(conv, name), name
    assert (new.bias is None) == (conv.bias is None)
    assert new.weight.dtype == conv.weight.dtype
    assert not new.training
    assert not new.weight.requires_grad
    assert bool((new.weight == 0).all())
    new.load_state_dict(conv.state_dict())
    size = (1, conv.in_channels, *[9] * (conv.weight.ndim - 2))
    inputs = torch.randn(size, dtype=conv.weight.dtype)
    assert torch.equal(new(inputs), conv(inputs))


def test_conv_like_changes_what_is_asked() -> None:
    new = conv_like(nn.Conv2d(4, 8, 3, padding=1), out_channels=2, bias=False)
    assert new.weight.shape == (2, 4, 3, 3)
    assert new.bias is None
    assert new.padding == (1, 1)
    assert conv_like(nn.Conv2d(4, 8, 3, device="meta")).weight.is_meta
    assert linear_like(nn.Linear(3, 4), in_features=2).weight.shape == (4, 2)


def test_subclasses_are_not_rebuilt() -> None:
    class Odd(nn.Conv2d):
        pass

    class OddLinear(nn.Linear):
        pass

    with pytest.raises(UnsupportedLayer, match="Odd is not one of torch's own"):
        conv_like(Odd(1, 1, 1))
    with pytest.raises(UnsupportedLayer, match=r"OddLinear is not torch.nn.Linear itself"):
        linear_like(OddLinear(1, 1))


KEEP = (0, 2, 3)


@pytest.mark.parametrize(
    ("layer", "tensors", "attributes"),
    [
        (nn.Conv2d(5, 6, 3), [("weight", 0), ("bias", 0)], {"out_channels": 3, "in_channels": 5}),
        (nn.Conv2d(6, 5, 3), [("weight", 1)], {"out_channels": 5, "in_channels": 3}),
        (nn.ConvTranspose2d(6, 5, 3), [("weight", 0)], {"in_channels": 3, "out_channels": 5}),
        (nn.ConvTranspose2d(5, 6, 3), [("weight", 1), ("bias", 0)], {"out_channels": 3}),
        (nn.Linear(6, 5), [("weight", 1)], {"in_features": 3, "out_features": 5}),
        (nn.Linear(5, 6), [("weight", 0), ("bias", 0)], {"out_features": 3}),
        (nn.Embedding(5, 6), [("weight", 1)], {"embedding_dim": 3, "num_embeddings": 5}),
        (
            nn.BatchNorm2d(6),
            [("weight", 0), ("bias", 0), ("running_mean", 0), ("running_var", 0)],
            {"num_features": 3},
        ),
        (
            nn.BatchNorm2d(6, affine=False),
            [("running_mean", 0), ("running_var", 0)],
            {"num_features": 3},
        ),
        (nn.InstanceNorm2d(6, affine=True), [("weight", 0), ("bias", 0)], {"num_features": 3}),
        (nn.GroupNorm(3, 6), [("weight", 0), ("bias", 0)], {"num_channels": 3}),
        (nn.LayerNorm(6), [("weight", 0), ("bias", 0)], {"normalized_shape": (3,)}),
        (nn.PReLU(6), [("weight", 0)], {"num_parameters": 3}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_attributes_agree_after_a_cut(layer, tensors, attributes) -> None:
    for device in ("cpu", "meta"):
        network = copy.deepcopy(nn.Sequential(layer)).to(device)
        before = dict(network[0].named_parameters()) | dict(network[0].named_buffers())
        for name, axis in tensors:
            slice_axis(network, f"0.{name}", axis, KEEP)
            found = getattr(network[0], name)
            assert found.shape[axis] == 3
            if device == "cpu":
                assert torch.equal(found, before[name].index_select(axis, torch.tensor(KEEP)))
        for name, value in attributes.items():
            assert getattr(network[0], name) == value


def test_subclasses_are_sliced_by_what_they_are() -> None:
    class LayerNorm2d(nn.LayerNorm):
        pass

    network = nn.Sequential(LayerNorm2d(6))
    slice_axis(network, "0.weight", 0, KEEP)
    assert network[0].normalized_shape == (3,)


@pytest.mark.parametrize(("multiplier", "keep"), [(1, (0, 2, 3)), (2, (0, 1, 6, 7))])
def test_depthwise_convolutions_lose_groups(multiplier, keep) -> None:
    network = nn.Sequential(nn.Conv2d(4, 4 * multiplier, 3, groups=4))
    expected = nn.functional.conv2d(
        torch.ones(1, len(keep) // multiplier, 5, 5),
        network[0].weight[list(keep)],
        network[0].bias[list(keep)],
        groups=len(keep) // multiplier,
    )
    for name in ("0.weight", "0.bias"):
        slice_axis(network, name, 0, keep)
    conv = network[0]
    assert (conv.groups, conv.in_channels, conv.out_channels) == (
        len(keep) // multiplier,
        len(keep) // multiplier,
        len(keep),
    )
    assert torch.equal(network(torch.ones(1, conv.in_channels, 5, 5)), expected)


def test_depthwise_outputs_may_shrink_evenly() -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4, bias=False))
    slice_axis(network, "0.weight", 0, (0, 3, 4, 7))  # one of the two of each group
    assert (network[0].groups, network[0].out_channels) == (4, 4)


def test_grouped_inputs_keep_each_groups_own_columns() -> None:
    network = nn.Sequential(nn.Conv2d(8, 4, 1, groups=2, bias=False))
    inputs = torch.randn(1, 8, 2, 2)
    keep = (0, 3, 5, 6)
    gone = [1, 2, 4, 7]
    inputs[:, gone] = 0
    expected = network(inputs)
    slice_axis(network, "0.weight", 1, keep, groups=2)
    assert (network[0].in_channels, network[0].groups) == (4, 2)
    torch.testing.assert_close(network(inputs[:, keep]), expected)


def test_tied_tensors_stay_tied() -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(4, 2))
    network[1].weight = network[0].weight
    network[0].weight.requires_grad_(False)
    slice_axis(network, "0.weight", 0, KEEP)
    assert network[0].weight is network[1].weight
    assert not network[1].weight.requires_grad
    assert (network[0].out_features, network[1].out_features) == (3, 3)
    assert isinstance(network[0].weight, nn.Parameter)


def test_buffers_of_both_kinds() -> None:
    network = nn.Module()
    network.register_buffer("kept", torch.arange(6))
    network.register_buffer("lost", torch.arange(6), persistent=False)
    slice_axis(network, "kept", 0, KEEP)
    slice_axis(network, "lost", 0, KEEP)
    assert network.lost.tolist() == [0, 2, 3]
    assert list(network.state_dict()) == ["kept"]


def test_channel_maps_are_rewritten() -> None:
    network = nn.Sequential(Shortcut((-1, 0, 1, 2, 3, -1), 4))
    assert isinstance(network[0], ChannelMap)
    assert not isinstance(nn.Conv2d(1, 1, 1), ChannelMap)
    assert (axis_size(network, "0", 0), axis_size(network, "0", 1)) == (6, 4)
    slice_axis(network, "0", 1, (0, 3))
    assert network[0].source == (-1, 0, -1, -1, 1, -1)
    slice_axis(network, "0", 0, (1, 2, 4))
    assert (network[0].source, network[0].in_channels) == ((0, -1, 1), 2)


@pytest.mark.parametrize(
    ("name", "axis", "keep", "groups", "message"),
    [
        ("0.weights", 0, (0,), 1, r"tensor '0.weights' does not exist in Sequential"),
        ("3.weight", 0, (0,), 1, r"layer '3' does not exist in Sequential"),
        ("0.weight", 4, (0,), 1, r"there is no axis 4 to cut"),
        ("0.weight", 0, (), 1, r"at least one index to keep"),
        ("0.weight", 0, (0, 8), 1, r"0.weight has 8 entries .* below 8"),
        ("0.weight", 0, (1, 0), 1, r"strictly increasing"),
        ("0.weight", 0, (-1, 0), 1, r"strictly increasing"),
        ("0.weight", 0, (0, 1, 4), 1, r"groups=2, 4 rows each; expected equally many"),
        ("0.weight", 1, (0, 1, 2), 2, r"2 convolution groups .* got \[2, 1\]"),
        ("1.weight", 0, (0, 1, 2), 1, r"num_groups=4; expected a multiple .* got 3"),
    ],
)
def test_what_does_not_fit_is_named(name, axis, keep, groups, message) -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.GroupNorm(4, 8))
    with pytest.raises(PlanError, match=message):
        slice_axis(network, name, axis, keep, groups)


def test_parametrized_tensors_are_refused() -> None:
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)))
    with pytest.raises(PlanError, match="source of a parametrized tensor"):
        slice_axis(network, "0.parametrizations.weight.original1", 0, (0, 1))


def test_replacing_covers_every_name_of_a_module() -> None:
    shared = nn.ReLU()
    network = nn.Sequential(shared, nn.Sequential(shared))
    replace_module(network, "0", nn.Identity())
    assert isinstance(network[1][0], nn.Identity)
    with pytest.raises(PlanError, match="has no parent"):
        replace_module(network, "", nn.Identity())
