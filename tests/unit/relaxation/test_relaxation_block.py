"""The compressed-aware block: what becomes one, its factors, its names."""

import copy

import pytest
import torch
from torch import nn

from lissom.errors import PlanError, UnsupportedLayer
from lissom.relaxation.block import (
    CompressedAwareBlock,
    put_block,
    relaxed_tensor,
    scratch_factors,
    spatial_factors,
    whitened_factors,
)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(4, 4, 3, groups=4), "needs groups=1, got groups=4"),
        (nn.Conv2d(4, 8, 3, groups=2), "needs groups=1, got groups=2"),
        (nn.ConvTranspose2d(4, 4, 3), "got ConvTranspose2d"),
        (nn.BatchNorm2d(4), "got BatchNorm2d"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), "got a parametrized one"),
    ],
)
def test_what_can_not_be_split_is_refused_with_the_reason(layer, reason) -> None:
    with pytest.raises(UnsupportedLayer, match=rf"^0: .*{reason}"):
        put_block(nn.Sequential(layer), "0")


def test_a_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(PlanError, match="deep"):
        put_block(nn.Sequential(nn.Conv2d(3, 3, 1)), "deep")


def test_attributes_go_to_the_first_part_and_the_bias_to_the_last() -> None:
    conv = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
    conv.padding_mode = "zeros"
    network = nn.Sequential(conv)
    block = put_block(network, "0")
    assert isinstance(network[0], CompressedAwareBlock)
    first, last = block.first, block.last
    assert (first.kernel_size, first.stride, first.padding) == ((3, 2), (2, 1), (1, 0))
    assert (first.dilation, first.bias) == ((1, 2), None)
    assert (last.kernel_size, last.stride, last.padding) == ((1, 1), (1, 1), (0, 0))
    assert torch.equal(last.bias, conv.bias)
    assert block.rank == 6


def test_the_norms_of_columns_are_what_they_put_out() -> None:
    """||A_j|| = root mean square of what column j adds to the output, over the data of C."""
    torch.manual_seed(0)
    mixing = torch.randn(5, 5, dtype=torch.float64)
    inputs = torch.randn(4000, 5, dtype=torch.float64) @ mixing
    weight = torch.randn(4, 5, dtype=torch.float64)
    covariance = inputs.T @ inputs / len(inputs)
    factors = whitened_factors(weight, covariance)
    basis = factors.basis @ inputs.T  # (r, samples)
    root_mean_square = basis.square().mean(dim=1).sqrt() * factors.coefficients.norm(dim=0)
    torch.testing.assert_close(
        root_mean_square, factors.coefficients.norm(dim=0), rtol=1e-3, atol=0
    )
    assert bool((factors.coefficients.norm(dim=0).diff() <= 0).all())  # strongest first
    cross = basis @ basis.T / len(inputs)
    torch.testing.assert_close(cross, torch.eye(4).double(), rtol=0, atol=1e-3)


def test_the_plain_form_has_orthonormal_rows() -> None:
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    factors = whitened_factors(weight, None)
    rows = factors.basis.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(4), rtol=0, atol=1e-5)
    values = torch.linalg.svdvals(weight.flatten(1))
    torch.testing.assert_close(factors.coefficients.norm(dim=0), values, rtol=1e-5, atol=0)


def test_directions_that_the_weight_lacks_are_exact_zeros() -> None:
    left, right = torch.randn(6, 2), torch.randn(2, 9)
    factors = whitened_factors((left @ right).reshape(6, 1, 3, 3), None)
    assert factors.basis.shape == (6, 1, 3, 3)
    assert not factors.coefficients[:, 2:].any()
    assert not factors.basis[2:].any()
    assert factors.coefficients[:, :2].any(dim=0).all()


def test_a_weight_of_zeros_has_factors_of_zeros() -> None:
    factors = whitened_factors(torch.zeros(3, 2), None)
    assert not factors.basis.any()
    assert not factors.coefficients.any()


@pytest.mark.parametrize(
    ("shape", "rank"), [((64, 32, 3, 3), 64), ((64, 4, 1, 1), 4), ((10, 40), 10), ((40, 10), 10)]
)
def test_from_scratch_the_coefficients_are_the_identity_and_a_little_noise(shape, rank) -> None:
    factors = scratch_factors(torch.empty(shape), torch.Generator().manual_seed(0))
    assert factors.coefficients.shape == (shape[0], rank)
    assert factors.basis.shape == (rank, *shape[1:])
    noise = factors.coefficients - torch.eye(shape[0], rank)
    assert float(noise.std()) == pytest.approx(5e-3, rel=0.2)
    fan_in = torch.empty(shape)[0].numel()
    assert float(factors.basis.std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.2)
    again = scratch_factors(torch.empty(shape), torch.Generator().manual_seed(0))
    assert torch.equal(factors.basis, again.basis)
    other = scratch_factors(torch.empty(shape), torch.Generator().manual_seed(1))
    assert not torch.equal(factors.basis, other.basis)


def test_names_of_a_blocks_tensors() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    put_block(network, "0")
    assert relaxed_tensor(network, "0.weight", 0) == "0.last.weight"
    assert relaxed_tensor(network, "0.weight", 1) == "0.first.weight"
    assert relaxed_tensor(network, "0.bias", 0) == "0.last.bias"
    assert relaxed_tensor(network, "1.weight", 1) == "1.weight"
    assert relaxed_tensor(network, "elsewhere.weight", 0) == "elsewhere.weight"


def _as_two_layers(block: CompressedAwareBlock, inputs: torch.Tensor) -> torch.Tensor:
    return block.last(block.first(inputs))


_LAYERS = [
    nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
    nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect", bias=False),
    nn.Conv2d(6, 12, 1, stride=2),
    nn.Linear(12, 9),
]


@pytest.mark.parametrize("layer", _LAYERS, ids=["strided", "reflecting", "pointwise", "linear"])
@pytest.mark.parametrize("split", ["channel", "spatial"])
@pytest.mark.parametrize("left", [1, 2, 3, 20])
def test_a_block_computes_what_its_two_layers_do_whichever_way_it_takes(layer, left, split) -> None:
    torch.manual_seed(0)
    block = put_block(nn.Sequential(copy.deepcopy(layer)), "0", split).double()
    exact = spatial_factors if block.family == "spatial_svd" else whitened_factors
    block.fill(exact(layer.weight, None))
    columns = torch.arange(block.rank) < left
    with torch.no_grad():
        block.coefficients[:, ~columns] = 0
    shape = (5, 12) if isinstance(layer, nn.Linear) else (2, layer.in_channels, 7, 7)
    inputs = torch.randn(shape, dtype=torch.float64)
    direction = torch.randn_like(_as_two_layers(block, inputs))

    def gradients(outputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad((outputs * direction).sum(), (block.basis, block.coefficients))

    wanted = gradients(_as_two_layers(block, inputs))
    torch.testing.assert_close(block(inputs), _as_two_layers(block, inputs))
    torch.testing.assert_close(gradients(block(inputs)), wanted)
    block.use(columns)
    torch.testing.assert_close(block(inputs), _as_two_layers(block, inputs))
    basis, coefficients = gradients(block(inputs))
    torch.testing.assert_close(basis, wanted[0])  # what is dead has no gradient in B
    torch.testing.assert_close(coefficients[:, columns], wanted[1][:, columns])
    assert not coefficients[:, ~columns].any()


def test_a_block_computes_with_what_is_left_alone_where_that_is_cheaper() -> None:
    block = put_block(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)), "0")
    calls: list[int] = []
    for part in (block.first, block.last, block._whole[0]):
        original = part._conv_forward
        part._conv_forward = lambda x, w, b, real=original: calls.append(len(w)) or real(x, w, b)
    images = torch.randn(1, 8, 5, 5)
    block(images)
    assert calls == [8]  # 8 columns of 72 + 8 values cost more than the layer's 576
    block.use(torch.arange(8) < 3)
    block(images)
    assert calls == [8, 3, 8]


def test_the_merged_weight_is_not_rounded_by_autocast() -> None:
    torch.manual_seed(0)
    block = put_block(nn.Sequential(nn.Linear(32, 32)), "0")
    block.fill(whitened_factors(torch.randn(32, 32), None))
    weight = block.coefficients @ block.basis
    inputs = torch.randn(4, 32)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = nn.functional.linear(inputs, weight.detach(), block.last.bias)
        merged = block(inputs)
    torch.testing.assert_close(merged, wanted, rtol=0, atol=1e-2)
