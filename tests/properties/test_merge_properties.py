"""What a merge promises: one layer instead of its factors, and the same function."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies_convolutions import ConvolutionCase, convolutions, seeds
from torch import Tensor, nn

from lissom.plan.build import apply_values, build
from lissom.plan.low_rank import ChannelSVD, Tucker2
from lissom.plan.merge import Merge, merge_values
from lissom.plan.plan import Plan
from lissom.plan.separable import SpatialSVD

# torch remarks on its own speed for some of the attributes drawn.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

COMMON = settings(max_examples=60, deadline=None)


def filled(model: nn.Module, decision: Tucker2 | ChannelSVD | SpatialSVD, seed: int) -> nn.Module:
    """Build and fill with random numbers."""
    factors = build(model, Plan((decision,)))
    torch.manual_seed(seed)
    for parameter in factors.parameters():
        nn.init.normal_(parameter)
    return factors


def difference(model: nn.Module, inputs: Tensor, values: dict[str, Tensor]) -> float:
    """Compare with the merged network, relative to the largest output."""
    whole = build(model, Plan((Merge("0"),)))
    apply_values(whole, values)
    with torch.no_grad():
        expected = model(inputs)
        found = whole(inputs)
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1))


@st.composite
def decompositions(draw: st.DrawFn, case: ConvolutionCase) -> Tucker2 | ChannelSVD | SpatialSVD:
    conv = case.conv
    if min(conv.kernel_size) > 1 and draw(st.booleans()):
        height, width = conv.kernel_size
        highest = min(conv.in_channels * height, conv.out_channels * width)
        return SpatialSVD("0", draw(st.integers(1, highest)))
    if draw(st.booleans()):
        rank_in = draw(st.integers(1, conv.in_channels))
        return Tucker2("0", rank_in, draw(st.integers(1, conv.out_channels)))
    return ChannelSVD("0", draw(st.integers(1, min(conv.weight.flatten(1).shape))))


@COMMON
@given(convolutions(), st.data(), seeds(), st.sampled_from([torch.float32, torch.float64]))
def test_the_merged_convolution_is_the_same_function(case, data, seed, dtype) -> None:
    factors = filled(case.network.to(dtype), data.draw(decompositions(case)), seed)
    whole = build(factors, Plan((Merge("0"),)))[0]
    for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode"):
        assert getattr(whole, name) == getattr(case.conv, name)
    assert whole.weight.shape == case.conv.weight.shape
    assert (whole.bias is None) == (case.conv.bias is None)
    # Rounding of another order of operations.
    limit = 1e-5 if dtype == torch.float32 else 1e-12
    assert difference(factors, case.inputs.to(dtype), merge_values(factors, "0")) < limit


@COMMON
@given(st.integers(1, 7), st.integers(1, 7), st.booleans(), st.data(), seeds())
def test_the_merged_linear_layer_is_the_same_function(inputs, outputs, bias, data, seed) -> None:
    rank = data.draw(st.integers(1, min(inputs, outputs)))
    model = nn.Sequential(nn.Linear(inputs, outputs, bias=bias))
    factors = filled(model, ChannelSVD("0", rank), seed)
    assert difference(factors, torch.randn(3, inputs), merge_values(factors, "0")) < 1e-5


@COMMON
@given(convolutions(), st.data(), seeds())
def test_a_plan_with_a_merge_replays_bit_for_bit(case, data, seed) -> None:
    network = case.network
    decision = data.draw(decompositions(case))
    plan = Plan.starting_from(network) + Plan((decision, Merge("0")))
    whole = build(network, plan)
    apply_values(whole, merge_values(filled(network, decision, seed), "0"))
    with torch.device("meta"):
        again = build(case.network.to("meta"), Plan.from_json(plan.to_json()))
    apply_values(again, whole.state_dict())
    with torch.no_grad():
        assert torch.equal(again(case.inputs), whole(case.inputs))


def test_the_oracle_notices_a_wrong_product() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    factors = filled(network, ChannelSVD("0", 2), 1)
    values = merge_values(factors, "0")
    values["0.weight"] = values["0.weight"].flip(-1)
    assert difference(factors, torch.randn(1, 3, 6, 6), values) > 1e-2
