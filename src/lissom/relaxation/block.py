"""The compressed-aware block: one layer as a product of two, whose columns can vanish."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lissom.lowrank.metric import Metric, metric_for
from lissom.plan.functional import apply_with, in_format
from lissom.plan.low_rank import ChannelSVD, Factorization, check_decomposable
from lissom.plan.separable import SpatialSVD
from lissom.plan.surgery import conv_like, linear_like, submodule

_DEAD = 1e-6  # share of the largest singular value below which a direction counts as absent
_NOISE = 5e-3  # standard deviation of what is added to the identity in training from scratch


@dataclass(frozen=True, slots=True)
class Factors:
    """W = A B, by columns of A and rows of B.

    Attributes:
        basis: B, the weight layer: (r, S, kH, kW), (r, S, kH, 1) or (r, S).
        coefficients: A, the coefficient layer: (T, r), or (T, r, kW).
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


def spatial_factors(weight: Tensor, covariance: Tensor | None) -> Factors:
    """Split a kernel exactly into columns kH x 1 and rows 1 x kW, strongest first.

    W[t, s, i, j] = sum_r A[t, r, j] B[r, s, i]. Of the matrix (S kH, T kW), whitened on both sides
    by the nearest Kronecker product to the covariance, the singular value decomposition: what the
    leading columns leave is least for inputs of that covariance.

    Args:
        weight: (T, S, kH, kW).
        covariance: E[x x^T] of the layer's inputs as in ``lissom.lowrank.factorize``, or None.

    Returns:
        Factors of rank min(S kH, T kW), of the type and on the device of ``weight``.

    Source:
        Jaderberg et al., BMVC 2014, arXiv:1405.3866, Sec. 2.1 (scheme 2), for the split.
    """
    outputs, inputs, height, width = weight.shape
    dense = weight.detach().to("cpu", torch.float64)
    below, beside = _sides_of(metric_for(dense.flatten(2), covariance), height, width)
    matrix = dense.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)  # (S kH, T kW)
    left, right = (torch.linalg.cholesky(side) for side in (below, beside))
    whitened = left.T @ matrix.reshape(-1, outputs, width).flatten(1)
    whitened = (whitened.reshape(-1, width) @ right).reshape(len(matrix), -1)
    vectors, values, others = torch.linalg.svd(whitened, full_matrices=False)
    alive = values > _DEAD * values[0].clamp_min(1e-300)
    others = (others * torch.where(alive, values, 0.0)[:, None]).reshape(-1, width)
    rows = torch.linalg.solve_triangular(right.T, others.T, upper=True).T
    columns = torch.linalg.solve_triangular(left.T, vectors * alive, upper=True)
    basis = columns.T.reshape(-1, inputs, height, 1)
    coefficients = rows.reshape(-1, outputs, width).transpose(0, 1)
    return Factors(basis.to(weight).contiguous(), coefficients.to(weight).contiguous())


def _sides_of(metric: Metric, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Give C as the nearest product of a metric of (channels, rows) and one of columns."""
    eye = torch.eye(height, dtype=torch.float64)
    if not metric.is_patch_level:
        return torch.kron(metric.matrix, eye), torch.eye(width, dtype=torch.float64)
    return Metric(metric.matrix, metric.channels * height, width).separated()


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

    ``first`` is k x k with stride, padding and dilation, and ``last`` 1 x 1 (what ``ChannelSVD``
    builds at full rank), or ``first`` is k x 1 and ``last`` 1 x k (``SpatialSVD``). Nothing
    non-linear lies between them, so that zero columns of A with their rows of B can be cut, and
    both be merged into one layer again, without a change of the function.

    It computes as one layer, W = A B, where that costs no more than one after the other, and with
    the columns that are left alone once these are known (``use``): function and gradients are the
    same, a training step is faster. Hooks on ``first`` and ``last`` are not called.

    Attributes:
        first: The weight layer.
        last: The coefficient layer.
        family: ``channel_svd`` or ``spatial_svd``.

    Source:
        Ruan et al., IEEE TNNLS 32, 2021, doi 10.1109/TNNLS.2020.3018177 (abstract).
    """

    first: nn.Conv2d | nn.Linear
    last: nn.Conv2d | nn.Linear
    family: str
    _whole: tuple[nn.Conv2d | nn.Linear]
    _used: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute A (B x) + bias, by the cheaper of two ways."""
        basis: Tensor = self.basis
        coefficients: Tensor = self.coefficients
        if self._used is not None:
            used = self._used = self._used.to(basis.device)
            basis, coefficients = basis[used], coefficients[:, used]
        whole = self._whole[0]
        if basis.numel() + coefficients.numel() < len(coefficients) * whole.weight[0].numel():
            return apply_with(
                self.last, apply_with(self.first, inputs, basis), coefficients, self.last.bias
            )
        # Of what autocast rounds to bf16 the product loses more than the layer itself would.
        with torch.autocast(inputs.device.type, enabled=False):
            weight = product(basis, coefficients)
        return apply_with(whole, inputs, in_format(weight, basis), self.last.bias)

    def use(self, columns: Tensor) -> None:
        """Compute with some columns alone, from now on.

        Args:
            columns: (r,), True where a column is left; all others must stay zero.
        """
        left = torch.nonzero(columns).flatten()
        # Where all have vanished, one of them, all zeros, stands for the zero function.
        self._used = None if bool(columns.all()) else left if len(left) else left.new_zeros(1)

    @property
    def rank(self) -> int:
        """Number of columns of A, dead ones included."""
        return self.last.weight.shape[1]

    @property
    def highest(self) -> int:
        """Rank beyond which the product is no decomposition: the smaller side of the matrix."""
        return min(self.basis[0].numel(), self.coefficients[:, 0].numel())

    @property
    def basis(self) -> nn.Parameter:
        """B, (r, S, kH, kW), (r, S, kH, 1) or (r, S)."""
        weight = self.first.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def coefficients(self) -> nn.Parameter:
        """A, (T, r, 1, 1), (T, r, 1, kW) or (T, r)."""
        weight = self.last.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    @torch.no_grad()
    def fill(self, factors: Factors) -> None:
        """Overwrite both weights; the bias stays."""
        self.basis.copy_(factors.basis)
        self.coefficients.copy_(factors.coefficients.reshape(self.coefficients.shape))


def product(basis: Tensor, coefficients: Tensor) -> Tensor:
    """Multiply B and A to the layer's weight, (T, S, kH, kW) or (T, S)."""
    if basis.dim() == 2:
        return coefficients @ basis
    if coefficients.shape[3] == 1:
        return (coefficients.flatten(1) @ basis.flatten(1)).view(-1, *basis.shape[1:])
    rows = coefficients.squeeze(2).permute(0, 2, 1).reshape(-1, len(basis))  # (T kW, r)
    dense = (rows @ basis.flatten(1)).view(len(coefficients), -1, *basis.shape[1:3])
    return dense.permute(0, 2, 3, 1)


def put_block(model: nn.Module, layer: str, split: str = "channel") -> CompressedAwareBlock:
    """Replace a layer by an unfilled block of full rank, in place; the bias is taken over.

    Args:
        model: Changed.
        layer: Name of the layer.
        split: ``channel``; or ``spatial``, which kernels of more than one row and column take.

    Raises:
        UnsupportedLayer: The layer is grouped, depthwise, parametrized, hooked or no plain Conv2d
            or Linear.
        PlanError: There is no such layer.
    """
    module = check_decomposable(layer, submodule(model, layer))
    bias, shape = module.bias, module.weight.shape
    decision: Factorization = ChannelSVD(layer, min(module.weight.flatten(1).shape))
    if split == "spatial" and isinstance(module, nn.Conv2d) and min(module.kernel_size) > 1:
        outputs, inputs, height, width = shape
        decision = SpatialSVD(layer, min(inputs * height, outputs * width))
    decision.apply(model)
    pair = submodule(model, layer)
    # The class says what the pair is for; its layout stays the one that plans know.
    pair.__class__ = CompressedAwareBlock
    assert isinstance(pair, CompressedAwareBlock)
    pair.family = decision.kind
    # In a tuple, for it is no part of the block: only its geometry and shape are read.
    pair._whole = (_without_values(module),)
    if bias is not None and pair.last.bias is not None:
        with torch.no_grad():
            pair.last.bias.copy_(bias)
    return pair


def _without_values(module: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    if isinstance(module, nn.Conv2d):
        return conv_like(module).to("meta")
    return linear_like(module).to("meta")


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
