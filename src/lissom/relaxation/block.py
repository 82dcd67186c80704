"""The compressed-aware block: one layer as a product of two, whose columns can vanish."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.lowrank.metric import metric_for
from lissom.plan.low_rank import ChannelSVD, check_decomposable
from lissom.plan.surgery import submodule

_DEAD = 1e-6  # share of the largest singular value below which a direction counts as absent
_NOISE = 5e-3  # standard deviation of what is added to the identity in training from scratch


@dataclass(frozen=True, slots=True)
class Factors:
    """W = A B, by columns of A and rows of B.

    Attributes:
        basis: B, (r, S, ...), the weight layer.
        coefficients: A, (T, r), the coefficient layer.
    """

    basis: Tensor
    coefficients: Tensor


def whitened_factors(weight: Tensor, covariance: Tensor | None) -> Factors:
    """Split a weight exactly, so that the norms of the columns of A are root mean square outputs.

    With W C^1/2 = U S V^T: A = U S and B = V^T C^-1/2, computed as B = S^-1 U^T W. Without a
    covariance C = 1, the plain form A = U S, B = V^T. Directions that the weight has not got become
    zero columns with zero rows.

    Args:
        weight: (T, S, kH, kW), or (T, S).
        covariance: E[x x^T] of the layer's inputs as in ``lissom.lowrank.factorize``, or None.

    Returns:
        Factors of rank min(T, S kH kW), of the type and on the device of ``weight``.
    """
    dense = weight.detach().to("cpu", torch.float64).flatten(1)  # (T, S K)
    rank = min(dense.shape)
    cube = dense.reshape(weight.shape[0], weight.shape[1], -1)
    metric = metric_for(cube, covariance)
    rows = metric.rows(cube)
    energy = torch.einsum("tjn,nm,ujm->tu", rows, metric.matrix, rows)
    values, vectors = torch.linalg.eigh(energy)
    strengths = values.flip(0)[:rank].clamp_min(0).sqrt()
    directions = vectors.flip(1)[:, :rank]
    alive = strengths > _DEAD * strengths[0]
    inverse = torch.where(alive, 1 / strengths.clamp_min(1e-300), 0.0)
    basis = (directions.T @ dense) * inverse[:, None]
    coefficients = directions * torch.where(alive, strengths, 0.0)
    return Factors(
        basis.reshape(rank, *weight.shape[1:]).to(weight), coefficients.to(weight).contiguous()
    )


def scratch_factors(weight: Tensor, generator: torch.Generator | None = None) -> Factors:
    """Start a training from scratch: A = identity + noise, B with Kaiming's variance.

    Args:
        weight: (T, S, kH, kW), or (T, S); only shape, type and device are read.
        generator: On the CPU; None draws from the global one.

    Source:
        He et al., ICCV 2015, arXiv:1502.01852, eq. 10, for B.
    """
    outputs, fan_in = weight.shape[0], weight[0].numel()
    rank = min(outputs, fan_in)
    noise = torch.randn(outputs, rank, generator=generator) * _NOISE
    draws = torch.randn(rank, *weight.shape[1:], generator=generator)
    return Factors(
        (draws * (2 / fan_in) ** 0.5).to(weight), (torch.eye(outputs, rank) + noise).to(weight)
    )


class CompressedAwareBlock(nn.Sequential):
    """A convolution or linear layer W as ``last`` (A, with the bias) after ``first`` (B).

    ``first`` is k x k and keeps stride, padding and dilation; ``last`` is 1 x 1. Nothing non-linear
    lies between them, so that zero columns of A with their rows of B can be cut, and both be merged
    into one layer again, without a change of the function. What ``ChannelSVD`` at full rank builds.

    It computes as one layer, W = A B, where that costs no more than one after the other, and with
    the columns that are left alone once these are known (``use``): function and gradients are the
    same, a training step is faster. Hooks on ``first`` and ``last`` are not called.

    Attributes:
        first: The weight layer.
        last: The coefficient layer.

    Source:
        Ruan et al., IEEE TNNLS 32, 2021, doi 10.1109/TNNLS.2020.3018177 (abstract).
    """

    first: nn.Conv2d | nn.Linear
    last: nn.Conv2d | nn.Linear
    _used: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute A (B x) + bias, by the cheaper of two ways."""
        basis: Tensor = self.basis
        coefficients: Tensor = self.coefficients
        if self._used is not None:
            used = self._used = self._used.to(basis.device)
            basis, coefficients = basis[used], coefficients[:, used]
        rank, fan_in, outputs = len(basis), basis[0].numel(), len(coefficients)
        if rank * (fan_in + outputs) < fan_in * outputs:
            hidden = _apply(self.first, inputs, basis, None)
            return _apply(self.last, hidden, coefficients, self.last.bias)
        # Of what autocast rounds to bf16 the product loses more than the layer itself would.
        with torch.autocast(inputs.device.type, enabled=False):
            weight = (coefficients.flatten(1) @ basis.flatten(1)).view(-1, *basis.shape[1:])
        return _apply(self.first, inputs, _in_format(weight, basis), self.last.bias)

    def use(self, columns: Tensor) -> None:
        """Compute with some columns alone, from now on.

        Args:
            columns: (r,), True where a column is left; all others must stay zero.
        """
        self._used = None if bool(columns.all()) else torch.nonzero(columns).flatten()

    @property
    def rank(self) -> int:
        """Number of columns of A, dead ones included."""
        return self.last.weight.shape[1]

    @property
    def basis(self) -> nn.Parameter:
        """B, (r, S, kH, kW) or (r, S)."""
        weight = self.first.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def coefficients(self) -> nn.Parameter:
        """A, (T, r, 1, 1) or (T, r)."""
        weight = self.last.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    @torch.no_grad()
    def fill(self, factors: Factors) -> None:
        """Overwrite both weights; the bias stays."""
        self.basis.copy_(factors.basis)
        self.coefficients.copy_(factors.coefficients.reshape(self.coefficients.shape))


def _apply(
    layer: nn.Conv2d | nn.Linear, inputs: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Apply a layer with another weight and bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(inputs, weight, bias)
    return layer._conv_forward(inputs, weight, bias)


def _in_format(weight: Tensor, like: Tensor) -> Tensor:
    """Give a kernel the memory format of another."""
    if weight.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last):
        return weight.contiguous(memory_format=torch.channels_last)
    return weight


def put_block(model: nn.Module, layer: str) -> CompressedAwareBlock:
    """Replace a layer by an unfilled block of full rank, in place; the bias is taken over.

    Raises:
        UnsupportedLayer: The layer is grouped, depthwise, parametrized, hooked or no plain Conv2d
            or Linear.
        PlanError: There is no such layer.
    """
    module = check_decomposable(layer, submodule(model, layer))
    bias = module.bias
    ChannelSVD(layer, min(module.weight.flatten(1).shape)).apply(model)
    pair = submodule(model, layer)
    # The class says what the pair is for; its layout stays the one that plans know.
    pair.__class__ = CompressedAwareBlock
    assert isinstance(pair, CompressedAwareBlock)
    if bias is not None and pair.last.bias is not None:
        with torch.no_grad():
            pair.last.bias.copy_(bias)
    return pair


def relaxed_tensor(model: nn.Module, tensor: str, axis: int) -> str:
    """Give the name that an axis of a layer's tensor has once the layer is a block.

    Args:
        model: The relaxed network.
        tensor: State-dict name in the network before.
        axis: 0 outputs, 1 inputs.

    Returns:
        ``layer.last.weight`` for outputs, ``layer.first.weight`` for inputs, ``layer.last.bias``;
        ``tensor`` itself where there is no block.
    """
    owner, _, key = tensor.rpartition(".")
    try:
        module = model.get_submodule(owner)
    except AttributeError:
        return tensor
    if not isinstance(module, CompressedAwareBlock):
        return tensor
    return f"{owner}.{'first' if key == 'weight' and axis == 1 else 'last'}.{key}"
