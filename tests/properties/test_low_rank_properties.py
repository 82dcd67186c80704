"""What low rank promises: full rank is exact, costs are known before, more rank is better."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies_convolutions import (
    ConvolutionCase,
    convolutions,
    covariance,
    seeds,
)
from torch import Tensor, nn

from lissom.lowrank.factorize import channel_svd, compose_svd, compose_tucker2, tucker2
from lissom.plan.build import build
from lissom.plan.low_rank import ChannelSVD, Tucker2
from lissom.plan.plan import Plan
from lissom.plan.predict import LayerShape, channel_svd_cost, dense_cost, tucker2_cost

# torch remarks on its own speed for some of the attributes drawn.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

COMMON = settings(max_examples=40, deadline=None)


def decomposed(
    case: ConvolutionCase, decision: Tucker2 | ChannelSVD, whiten: int | None
) -> nn.Module:
    """Build and fill; ``whiten`` is the seed of a covariance, None for none."""
    conv = case.conv
    size = conv.weight[0].numel()
    matrix = None if whiten is None else covariance(size, size // 2 + 1, whiten)
    new = build(case.network, Plan((decision,)))
    part = new.get_submodule("0")
    with torch.no_grad():
        if isinstance(decision, Tucker2):
            last, core, first = tucker2(
                conv.weight, decision.rank_out, decision.rank_in, covariance=matrix
            )
            part.first.weight.copy_(first[:, :, None, None])
            part.core.weight.copy_(core)
        else:
            last, first = channel_svd(conv.weight, decision.rank, covariance=matrix)
            part.first.weight.copy_(first)
        part.last.weight.copy_(last[:, :, None, None])
        if conv.bias is not None:
            part.last.bias.copy_(conv.bias)
    return new


def largest_difference(case: ConvolutionCase, new: nn.Module) -> float:
    with torch.no_grad():
        return float((new(case.inputs) - case.network(case.inputs)).abs().max())


@COMMON
@given(convolutions(), st.one_of(st.none(), seeds()))
def test_full_rank_is_the_same_function(case, whiten) -> None:
    conv = case.conv
    full = min(conv.weight.flatten(1).shape)
    # Double precision; the damped covariance has a condition of up to 1e4 times the size.
    assert (
        largest_difference(
            case, decomposed(case, Tucker2("0", conv.in_channels, conv.out_channels), whiten)
        )
        < 1e-8
    )
    assert largest_difference(case, decomposed(case, ChannelSVD("0", full), whiten)) < 1e-8


def test_the_full_rank_oracle_notices_a_wrong_factor() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, dtype=torch.float64)
    case = ConvolutionCase(conv, torch.randn(1, 3, 6, 6, dtype=torch.float64))
    new = decomposed(case, Tucker2("0", 3, 4), None)
    with torch.no_grad():
        new.get_submodule("0").core.weight[0, 0, 0, 0] += 0.01
    assert largest_difference(case, new) > 1e-4


def count_macs(model: nn.Module, inputs: Tensor) -> int:
    """Count by hooks: outputs x weights per output."""
    total = 0

    def add(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        model(inputs[:1])
    for hook in hooks:
        hook.remove()
    return total


@COMMON
@given(convolutions(), st.data())
def test_predicted_cost_is_the_counted_one(case, data) -> None:
    conv = case.conv
    with torch.no_grad():
        shape = LayerShape.of(conv, case.inputs.shape[1:], conv(case.inputs).shape[1:])
    rank_in = data.draw(st.integers(1, conv.in_channels))
    rank_out = data.draw(st.integers(1, conv.out_channels))
    rank = data.draw(st.integers(1, min(conv.weight.flatten(1).shape)))
    predicted = [
        (dense_cost(shape), case.network),
        (
            tucker2_cost(shape, rank_in, rank_out),
            build(case.network, Plan((Tucker2("0", rank_in, rank_out),))),
        ),
        (channel_svd_cost(shape, rank), build(case.network, Plan((ChannelSVD("0", rank),)))),
    ]
    for cost, network in predicted:
        assert cost.macs == count_macs(network, case.inputs)
        assert cost.params == sum(p.numel() for p in network.parameters())
        assert cost.bits == 32 * cost.params


def test_the_cost_oracle_notices_the_input_size_rule_of_thumb() -> None:
    conv = nn.Conv2d(4, 4, 3, stride=2, padding=1)
    inputs = torch.zeros(1, 4, 7, 7)
    guessed = LayerShape.of(conv, (4, 8, 8), (4, 4, 4))  # output x stride: wrong for odd sizes
    network = build(nn.Sequential(conv), Plan((Tucker2("0", 2, 2),)))
    assert tucker2_cost(guessed, 2, 2).macs != count_macs(network, inputs)


@COMMON
@given(convolutions())
def test_building_leaves_the_input_network_alone(case) -> None:
    network = case.network
    before = copy.deepcopy(network.state_dict())
    random = torch.get_rng_state()
    build(network, Plan((Tucker2("0", 1, 1),)))
    after = network.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(random, torch.get_rng_state())


@COMMON
@given(convolutions(), st.data())
def test_energy_identity(case, data) -> None:
    weight = case.conv.weight.detach()
    rank_out = data.draw(st.integers(1, weight.shape[0]))
    rank_in = data.draw(st.integers(1, weight.shape[1]))
    last, core, first = tucker2(weight, rank_out, rank_in)
    error = float((weight - compose_tucker2(last, core, first)).square().sum())
    energy = float(weight.square().sum())
    assert error == pytest.approx(energy - float(core.square().sum()), abs=1e-10 * (1 + energy))


@COMMON
@given(seeds(), st.integers(2, 6), st.integers(2, 6), st.booleans())
def test_more_rank_never_raises_the_error(seed, outputs, inputs, whiten) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(outputs, inputs, 2, 3, dtype=torch.float64)
    matrix = covariance(inputs * 6, inputs * 12, seed) if whiten else None
    metric = torch.eye(inputs * 6, dtype=torch.float64) if matrix is None else matrix

    def error(approximation: Tensor) -> float:
        change = (weight - approximation).flatten(1)
        return float((change @ metric * change).sum())

    svd = [
        error(compose_svd(*channel_svd(weight, r, covariance=matrix)))
        for r in range(1, outputs + 1)
    ]
    # Over the output rank alone, where the closed form is optimal for given inputs at full rank_in.
    tucker = [
        error(compose_tucker2(*tucker2(weight, r, inputs, covariance=matrix)))
        for r in range(1, outputs + 1)
    ]
    for errors in (svd, tucker):
        # The damping of 1e-4 may cost that much of the energy.
        slack = 1e-3 * error(torch.zeros_like(weight))
        assert all(more <= less + slack for less, more in pairwise(errors))
