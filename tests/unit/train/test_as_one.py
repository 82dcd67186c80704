from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lissom.lowrank.families import family_named
from lissom.plan.separable import FilterCP, SpatialSVD
from lissom.task import Classification
from lissom.train.as_one import as_one
from lissom.train.loop import train
from lissom.train.settings import TrainSettings


def decomposed(rank: int = 2, **attributes) -> nn.Sequential:
    conv = nn.Conv2d(6, 4, **({"kernel_size": 3, "padding": 1} | attributes))
    network = nn.Sequential(conv, nn.ReLU())
    FilterCP("0", rank).apply(network)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # zeros are copied
@settings(max_examples=40, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(
        st.sampled_from([0, (2, 1), (0, 3), "valid", "same"]),
        st.sampled_from(["zeros", "reflect", "circular", "replicate"]),
    ),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_function_and_gradients_are_those_of_the_parts(
    kernel, stride, dilation, padding, bias, seed
) -> None:
    torch.manual_seed(seed)
    if padding[0] == "same":
        stride = 1  # or torch refuses
    network = decomposed(
        1 + seed % min(kernel[0] * kernel[1], 6 * min(kernel)),
        kernel_size=kernel,
        stride=stride,
        dilation=dilation,
        padding=padding[0],
        padding_mode=padding[1],
        bias=bias,
    ).double()
    images = torch.randn(2, 6, 9, 10, dtype=torch.float64, requires_grad=True)
    expected = network(images)
    towards = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * towards).sum(), [images, *network.parameters()])
    with as_one(network) as names:
        assert names == ("0",)
        found = network(images)
        gradients = torch.autograd.grad((found * towards).sum(), [images, *network.parameters()])
    torch.testing.assert_close(found, expected)
    for gradient, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, other)


def fail_inside(network: nn.Module) -> None:
    with as_one(network) as names:
        assert names == ("0",)
        raise ZeroDivisionError


def test_network_is_afterwards_what_it_was() -> None:
    network = decomposed()
    attributes = [vars(module).copy() for module in network.modules()]
    with pytest.raises(ZeroDivisionError):
        fail_inside(network)
    assert type(network[0]) is nn.Sequential
    assert [vars(module) for module in network.modules()] == attributes


def saved_and_loaded(network: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, saved_and_loaded])
def test_a_copy_made_meanwhile_has_the_parts(copied) -> None:
    network, images = decomposed(), torch.randn(1, 6, 5, 5)
    with as_one(network):
        twin = copied(network)
    assert [type(one) for one in twin.modules()] == [type(one) for one in network.modules()]
    assert [vars(one).keys() for one in twin.modules()] == [
        vars(one).keys() for one in network.modules()
    ]
    assert twin[0].core.weight is not network[0].core.weight
    torch.testing.assert_close(twin(images), network(images))


def test_hooks_that_come_meanwhile_are_called_and_slices_are_parts() -> None:
    network, images = decomposed(), torch.randn(1, 6, 5, 5)
    calls = []
    with as_one(network) as names:
        assert names == ("0",)
        torch.testing.assert_close(
            network[0][:2](images), network[0].core(network[0].first(images))
        )
        network[0].core.register_forward_hook(lambda *_: calls.append(1))
        network(images)
    assert calls == [1]


def test_the_kernel_is_composed_in_full_precision() -> None:
    """The product of three factors would lose more in bf16 than one rounding of it."""
    torch.manual_seed(0)
    network, images = decomposed(rank=8), torch.randn(4, 6, 9, 9)
    rounded = family_named("filter_cp").compose(
        {f"{name}.weight": part.weight for name, part in network[0].named_children()}
    )
    bias = network[0].last.bias.bfloat16()
    expected = F.conv2d(images.bfloat16(), rounded.bfloat16(), bias, padding=1)
    with as_one(network), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(network[0](images), expected, rtol=0, atol=0)


def test_channels_that_were_pruned_since_do_not_matter() -> None:
    network = decomposed(rank=9)
    first = nn.Conv2d(2, 36, 1, bias=False)
    network[0].first = first  # rank 9 is more than two inputs admit
    images = torch.randn(1, 2, 5, 5)
    expected = network(images)
    with as_one(network) as names:
        assert names == ("0",)
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)


def wide() -> nn.Sequential:
    network = nn.Sequential(nn.Conv2d(512, 2, 3, padding=1))
    FilterCP("0", 1).apply(network)
    return network


def with_hooks(*places: str) -> list[Callable[[], nn.Sequential]]:
    def build(place: str, kind: str) -> nn.Sequential:
        network = decomposed()
        getattr(network.get_submodule(place), f"register_{kind}")(lambda *_: None)
        return network

    kinds = "forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"
    return [partial(build, place, kind) for place in places for kind in kinds]


def with_a_forward_of_its_own() -> nn.Sequential:
    network = decomposed()
    core = network[0].core
    core.forward = lambda inputs: nn.Conv2d.forward(core, inputs)
    return network


def with_a_weight_that_is_a_buffer() -> nn.Sequential:
    network = decomposed()
    last = network[0].last
    weight = last.weight.detach()
    del last.weight
    last.register_buffer("weight", weight)
    return network


def of_paddings_that_no_convolution_has() -> nn.Sequential:
    network = decomposed()
    network[0].last = nn.Conv2d(8, 4, (1, 3), groups=4, padding="same")
    return network


def of_strides_that_no_convolution_has() -> nn.Sequential:
    network = decomposed(padding="same")
    network[0].last = nn.Conv2d(8, 4, (1, 3), groups=4, stride=(1, 2))
    return network


def parametrized() -> nn.Sequential:
    network = decomposed()
    nn.utils.parametrize.register_parametrization(network[0].last, "weight", nn.Identity())
    return network


def with_bias_inside() -> nn.Sequential:
    network = decomposed()
    network[0].first = nn.Conv2d(6, 8, 1)
    return network


def of_three_layers() -> nn.Sequential:
    network = decomposed()
    network[0].core = nn.Conv2d(8, 8, 3, padding=1)
    return network


def of_another_family() -> nn.Sequential:
    network = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1))
    SpatialSVD("0", 2).apply(network)
    return network


@pytest.mark.parametrize(
    "build",
    [
        wide,
        *with_hooks("0", "0.first", "0.core", "0.last"),
        parametrized,
        with_a_forward_of_its_own,
        with_a_weight_that_is_a_buffer,
        with_bias_inside,
        of_three_layers,
        of_paddings_that_no_convolution_has,
        of_strides_that_no_convolution_has,
        of_another_family,
    ],
)
def test_is_left_in_parts(build) -> None:
    network = build()
    kinds = [type(module) for module in network.modules()]
    with as_one(network) as names:
        assert names == ()
        assert [type(module) for module in network.modules()] == kinds


def test_training_computes_as_one_and_learns_the_parts(data, monkeypatch) -> None:
    def network() -> nn.Sequential:
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()
        model = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(24, 2))
        FilterCP("0", 2).apply(model)
        for parameter in model[0].parameters():
            nn.init.normal_(parameter, std=0.5)
        return model

    settings = TrainSettings(epochs=2, learning_rate=0.05, precision="32", ema=0.0)
    one, parts = network(), network()
    start, ran = copy.deepcopy(one[0].state_dict()), []
    original = nn.Conv2d.forward

    def forward(self: nn.Conv2d, inputs: torch.Tensor) -> torch.Tensor:
        ran.append(self)
        return original(self, inputs)

    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    train(one, data, Classification(), settings)
    assert ran == []  # no part on its own
    parts[0].core.register_forward_hook(lambda *_: None)
    train(parts, data, Classification(), settings)
    assert len(ran) == 3 * 2 * 4
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, parts.state_dict()[name], rtol=1e-3, atol=1e-4)
    assert not any(torch.equal(value, start[name]) for name, value in one[0].state_dict().items())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_maps_keep_the_memory_format_of_the_inputs(layout) -> None:
    network = decomposed()
    images = torch.randn(2, 6, 5, 5).contiguous(memory_format=layout)
    with as_one(network):
        maps = network(images)
    assert maps.is_contiguous(memory_format=layout)
