"""The decision that takes a batch normalization into the layer before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lissom.errors import UnsupportedLayer
from lissom.plan.decision import Decision
from lissom.plan.fields import Fields
from lissom.plan.surgery import replace_module, submodule

# A subclass may do more (an activation, say), which the identity would lose.
_PLAIN_NORMS = frozenset({nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm})


@dataclass(frozen=True, slots=True)
class FoldBatchNorm(Decision):
    """Give a layer a bias and replace the normalization behind it by the identity.

    Structure only: the values that make the network the same in eval mode are ``fold_values``'s,
    computed before this is applied.

    Attributes:
        layer: Name of the convolution or linear layer.
        norm: Name of the batch normalization, which must be the layer's only reader.
    """

    kind: ClassVar[str] = "fold_batch_norm"
    layer: str
    norm: str

    def apply(self, model: nn.Module) -> None:
        """Rebuild the layer with a bias and remove the normalization.

        Raises:
            PlanError: A layer is missing.
            UnsupportedLayer: The layers are of other classes, or the normalization keeps no
                running statistics.
        """
        layer, norm = _pair(model, self.layer, self.norm)
        if layer.bias is None:
            weight = layer.weight
            zeros = weight.new_zeros(_outputs(layer))
            layer.bias = nn.Parameter(zeros, requires_grad=weight.requires_grad)
        replace_module(model, self.norm, nn.Identity().train(norm.training))

    @property
    def target(self) -> str:
        """Name of the layer."""
        return self.layer

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values."""
        return {"layer": self.layer, "norm": self.norm}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Rebuild from ``to_dict``'s output.

        Raises:
            PlanError: A field is missing, unknown or of the wrong type.
        """
        reader = Fields(cls.kind, fields)
        decision = cls(reader.text("layer"), reader.text("norm"))
        reader.finish()
        return decision


def fold_values(model: nn.Module, layer: str, norm: str) -> dict[str, Tensor]:
    """Compute the weight and bias that a layer has after ``FoldBatchNorm``.

    With s = gamma / sqrt(var + eps): W' = s W along the output channels, b' = beta + s (b - mean).
    Computed in double precision; ``model`` is not changed.

    Args:
        model: The network before the fold.
        layer: Name of the convolution or linear layer.
        norm: Name of the batch normalization behind it.

    Returns:
        The two tensors by their state-dict names, of the layer's type.

    Raises:
        PlanError: A layer is missing.
        UnsupportedLayer: As ``FoldBatchNorm.apply``.
    """
    module, batch_norm = _pair(model, layer, norm)
    mean, variance = batch_norm.running_mean, batch_norm.running_var
    if mean is None or variance is None:
        raise _no_statistics(norm)
    weight = module.weight.detach()
    mean, variance = mean.double(), variance.double()
    scale = (variance + batch_norm.eps).rsqrt()
    if batch_norm.weight is not None:
        scale = scale * batch_norm.weight.detach().double()
    bias = torch.zeros_like(mean) if module.bias is None else module.bias.detach().double()
    bias = (bias - mean) * scale
    if batch_norm.bias is not None:
        bias = bias + batch_norm.bias.detach().double()
    return {
        f"{layer}.weight": _scale_outputs(module, weight.double(), scale).to(weight.dtype),
        f"{layer}.bias": bias.to(weight.dtype),
    }


def _pair(model: nn.Module, layer: str, norm: str) -> tuple[_ConvNd | nn.Linear, _BatchNorm]:
    module, batch_norm = submodule(model, layer), submodule(model, norm)
    if not isinstance(module, (_ConvNd, nn.Linear)) or "weight" not in module._parameters:
        raise UnsupportedLayer(
            f"{layer}: folding needs a convolution or a linear layer with a weight of its own, got "
            f"{type(module).__qualname__}; leave {norm} as it is"
        )
    if not isinstance(batch_norm, _BatchNorm) or type(batch_norm) not in _PLAIN_NORMS:
        raise UnsupportedLayer(
            f"{norm}: folding into {layer} needs one of torch's own batch normalizations, got "
            f"{type(batch_norm).__qualname__}; leave it as it is"
        )
    if batch_norm.running_mean is None:
        raise _no_statistics(norm)
    return module, batch_norm


def _no_statistics(norm: str) -> UnsupportedLayer:
    return UnsupportedLayer(
        f"{norm}: folding needs running statistics, got track_running_stats=False; leave it as it "
        "is"
    )


def _outputs(layer: _ConvNd | nn.Linear) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _scale_outputs(layer: _ConvNd | nn.Linear, weight: Tensor, scale: Tensor) -> Tensor:
    if not isinstance(layer, _ConvNd) or not layer.transposed:
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    # A transposed weight is (in, out / groups, ...): the rows of group j make j's own outputs.
    own = scale.reshape(layer.groups, 1, -1)  # (groups, 1, out / groups)
    rows = own.expand(-1, weight.shape[0] // layer.groups, -1).reshape(weight.shape[:2])
    return weight * rows.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
