from __future__ import annotations

import pytest
import torch
from torch import nn

from lissom.errors import PlanError, UnsupportedLayer
from lissom.plan.low_rank import ChannelSVD, Tucker2, check_decomposable


class Odd(nn.Conv2d):
    pass


def conv() -> nn.Conv2d:
    return nn.Conv2d(
        6, 8, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), padding_mode="reflect"
    )


def test_tucker2_puts_the_geometry_on_the_core() -> None:
    network = nn.Sequential(conv()).eval()
    Tucker2("0", rank_in=2, rank_out=3).apply(network)
    first, core, last = (network.get_submodule(f"0.{name}") for name in ("first", "core", "last"))
    assert [name for name, _ in network[0].named_children()] == ["first", "core", "last"]
    assert (first.weight.shape, core.weight.shape, last.weight.shape) == (
        (2, 6, 1, 1),
        (3, 2, 3, 5),
        (8, 3, 1, 1),
    )
    assert (core.stride, core.padding, core.dilation, core.padding_mode) == (
        (2, 1),
        (1, 2),
        (1, 2),
        "reflect",
    )
    assert (first.bias, core.bias) == (None, None)
    assert last.bias is not None
    assert (first.stride, last.stride, first.padding, last.padding) == (
        (1, 1),
        (1, 1),
        (0, 0),
        (0, 0),
    )
    assert not any(module.training for module in network.modules())


def test_channel_svd_puts_the_geometry_on_the_first() -> None:
    network = nn.Sequential(conv())
    ChannelSVD("0", 2).apply(network)
    first, last = network[0].first, network[0].last
    assert (first.weight.shape, last.weight.shape) == ((2, 6, 3, 5), (8, 2, 1, 1))
    assert (first.stride, first.padding_mode, first.bias) == ((2, 1), "reflect", None)
    assert last.bias is not None


def test_channel_svd_of_a_linear_layer() -> None:
    network = nn.Sequential(nn.Linear(5, 4, bias=False))
    ChannelSVD("0", 2).apply(network)
    assert (network[0].first.weight.shape, network[0].last.weight.shape) == ((2, 5), (4, 2))
    assert network[0].last.bias is None


def test_frozen_weights_stay_frozen_and_types_are_kept() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 3, dtype=torch.float64))
    network[0].weight.requires_grad_(False)
    Tucker2("0", 2, 2).apply(network)
    assert not any(
        network[0].get_submodule(n).weight.requires_grad for n in ("first", "core", "last")
    )
    assert network[0].last.bias.requires_grad
    assert network[0].core.weight.dtype == torch.float64


def hooked() -> nn.Conv2d:
    layer = nn.Conv2d(4, 4, 3)
    layer.register_forward_hook(lambda *_: None)
    return layer


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            nn.Conv2d(4, 4, 3, groups=2),
            r"^a.b: low rank needs groups=1, got groups=2; .*--ignore a.b",
        ),
        (nn.ConvTranspose2d(4, 4, 3), r"got ConvTranspose2d; exclude it with --ignore a.b"),
        (nn.Conv1d(4, 4, 3), r"needs torch.nn.Conv2d or torch.nn.Linear, got Conv1d"),
        (nn.BatchNorm2d(4), r"got BatchNorm2d"),
        (Odd(4, 4, 3), r"got the subclass Odd, whose forward may compute something else"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), r"parametriz"),
        (hooked(), r"would lose the forward hooks"),
    ],
)
def test_what_cannot_be_decomposed_is_named(layer, message) -> None:
    with pytest.raises(UnsupportedLayer, match=message):
        check_decomposable("a.b", layer)


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        (Tucker2("0", 7, 1), r"0: rank_in=7, expected 1 to 6"),
        (Tucker2("0", 1, 9), r"0: rank_out=9, expected 1 to 8"),
        (Tucker2("0", 0, 1), r"rank_in=0"),
        (ChannelSVD("0", 9), r"0: rank=9, expected 1 to 8"),
        (ChannelSVD("7", 1), r"layer '7' does not exist in Sequential"),
    ],
)
def test_ranks_and_names_are_checked(decision, message) -> None:
    with pytest.raises(PlanError, match=message):
        decision.apply(nn.Sequential(conv()))


def test_tucker2_of_a_linear_layer_is_refused() -> None:
    with pytest.raises(
        UnsupportedLayer, match=r"needs torch.nn.Conv2d, got Linear; use channel_svd"
    ):
        Tucker2("0", 1, 1).apply(nn.Sequential(nn.Linear(2, 2)))
