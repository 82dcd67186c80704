"""A relaxed layer computes what the layer did, at the start and wherever the gauge is fixed."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies_convolutions import ConvolutionCase, convolutions, covariance, seeds
from torch import Tensor, nn

from lissom.lowrank.metric import metric_for
from lissom.relaxation.block import put_block, spatial_factors, whitened_factors
from lissom.relaxation.columns import Columns, as_cube
from relaxation_samples import NETWORKS, images, relative_difference, relaxed

SPREAD = settings(max_examples=25, deadline=None)
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
# Factors are computed in double precision and kept in single: a few roundings of 6e-8 each.
EXACT = 1e-5


def drawn_covariance(weight: Tensor, level: str, seed: int) -> Tensor | None:
    """Give a random covariance of full or low rank for a weight (T, S, ...)."""
    if level == "none":
        return None
    size = weight.shape[1] if level == "channels" else weight[0].numel()
    return covariance(size, 1 + seed % (2 * size), seed)


levels = st.sampled_from(["none", "channels", "patches"])


def lower_rank(module: nn.Module, rank: int) -> None:
    """Take directions out of a weight."""
    flat = module.weight.detach().flatten(1)
    left, values, right = torch.linalg.svd(flat, full_matrices=False)
    values[rank:] = 0
    module.weight.data.copy_(((left * values) @ right).reshape(module.weight.shape))


@SPREAD
@given(convolutions(), levels, seeds(), st.integers(0, 6))
def test_a_convolution_as_a_block_is_the_same_function(
    case: ConvolutionCase, level: str, seed: int, missing: int
) -> None:
    conv, inputs = case.conv.float(), case.inputs.float()
    network = nn.Sequential(conv).eval()
    highest = min(conv.weight.flatten(1).shape)
    lower_rank(conv, max(1, highest - missing))
    with torch.no_grad():
        expected = network(inputs)
        factors = whitened_factors(conv.weight, drawn_covariance(conv.weight, level, seed))
        block = put_block(network, "0")
        block.fill(factors)
        found = network(inputs)
    assert block.rank == highest
    scale = float(expected.abs().max().clamp_min(conv.weight.detach().abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=EXACT * scale)


@SPREAD
@given(convolutions(), levels, seeds())
def test_a_convolution_split_by_its_sides_is_the_same_function(
    case: ConvolutionCase, level: str, seed: int
) -> None:
    assume(min(case.conv.kernel_size) > 1)
    conv, inputs = case.conv.float(), case.inputs.float()
    network = nn.Sequential(conv).eval()
    (height, width), (outputs, fan_in) = conv.kernel_size, conv.weight.shape[:2]
    with torch.no_grad():
        expected = network(inputs)
        factors = spatial_factors(conv.weight, drawn_covariance(conv.weight, level, seed))
        block = put_block(network, "0", "spatial")
        block.fill(factors)
        merged = network(inputs)
        two = block.last(block.first(inputs))
    assert block.family == "spatial_svd"
    assert block.rank == block.highest == min(fan_in * height, outputs * width)
    scale = float(expected.abs().max().clamp_min(conv.weight.detach().abs().max()))
    torch.testing.assert_close(merged, expected, rtol=0, atol=EXACT * scale)
    torch.testing.assert_close(two, expected, rtol=0, atol=EXACT * scale)


@SPREAD
@given(st.integers(1, 9), st.integers(1, 9), levels, seeds(), st.booleans())
def test_a_linear_layer_as_a_block_is_the_same_function(
    outputs: int, fan_in: int, level: str, seed: int, biased: bool
) -> None:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(fan_in, outputs, bias=biased)).eval()
    inputs = torch.randn(3, 2, fan_in)
    with torch.no_grad():
        expected = network(inputs)
        weight = network[0].weight
        factors = whitened_factors(weight, drawn_covariance(weight, level, seed))
        put_block(network, "0").fill(factors)
        found = network(inputs)
    scale = float(expected.abs().max().clamp_min(1e-3))
    torch.testing.assert_close(found, expected, rtol=0, atol=EXACT * scale)


@SPREAD
@given(convolutions(), levels, seeds(), st.sampled_from(["channel", "spatial"]))
def test_the_gauge_changes_neither_function_nor_strengths(
    case: ConvolutionCase, level: str, seed: int, split: str
) -> None:
    conv, inputs = case.conv.float(), case.inputs.float()
    network = nn.Sequential(conv).eval()
    covariances = drawn_covariance(conv.weight, level, seed)
    with torch.no_grad():
        block = put_block(network, "0", split)
        exact = spatial_factors if block.family == "spatial_svd" else whitened_factors
        block.fill(exact(conv.weight, covariances))
        # Another gauge than the balanced one: columns 30 times as large or small.
        stretch = torch.logspace(-1.5, 1.5, block.rank)
        block.coefficients.mul_(stretch[None, :, None, None])
        block.basis.div_(stretch[:, None, None, None])
        columns = Columns("0", block, metric_for(as_cube(conv.weight), covariances), None)
        expected, strengths = network(inputs), columns.strengths()
        for _ in range(40):
            columns.fix_gauge(None)
        found, after = network(inputs), columns.strengths()
    scale = float(expected.abs().max().clamp_min(1e-3))
    torch.testing.assert_close(found, expected, rtol=0, atol=EXACT * scale)
    torch.testing.assert_close(after, strengths, rtol=1e-4, atol=1e-5)
    sizes = block.coefficients.detach().transpose(0, 1).flatten(1).norm(dim=1)
    # What is many orders below the layer's strongest column is rounding, and stays where it is.
    real = after > 1e-5
    torch.testing.assert_close(
        sizes[real], block.basis.detach().flatten(1).norm(dim=1)[real], rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("factory", NETWORKS)
@pytest.mark.parametrize("form", ["whitened", "plain"])
def test_a_relaxed_network_computes_what_the_network_did(factory, form) -> None:
    case = relaxed(factory, form=form)
    with torch.no_grad():
        expected = case.model(images())
    assert case.relaxation.columns
    assert relative_difference(case.outputs(), expected) < EXACT


def test_the_comparison_sees_a_wrong_factor() -> None:
    case = relaxed(NETWORKS[0])
    with torch.no_grad():
        expected = case.model(images())
        case.relaxation.columns["a"].block.coefficients[0, 0] *= 1.01
    assert relative_difference(case.outputs(), expected) > EXACT
