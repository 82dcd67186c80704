"""The decision that turns the parts of a decomposed layer back into the one layer they compute."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from lissom.errors import UnsupportedLayer
from lissom.plan.decision import Decision
from lissom.plan.fields import Fields
from lissom.plan.separable import are_halves, joined_halves
from lissom.plan.surgery import conv_like, linear_like, replace_module, submodule

_NAMES = (["first", "last"], ["first", "core", "last"])


@dataclass(frozen=True, slots=True)
class Merge(Decision):
    """Replace the parts that a decomposition left by the one layer of their product.

    Those of ``ChannelSVD``, ``Tucker2`` and ``SpatialSVD``. Structure only: the values that make
    the network the same are ``merge_values``'s, computed before this is applied. Kernel, stride,
    padding, dilation and padding mode are those of the one part that looks at more than a position,
    or of a vertical and a horizontal one together; there is a bias if any part has one.

    Attributes:
        layer: Name of the decomposed layer, which becomes that of the merged one.
    """

    kind: ClassVar[str] = "merge"
    layer: str

    def apply(self, model: nn.Module) -> None:
        """Put one layer in the place of the parts.

        Raises:
            PlanError: There is no such layer.
            UnsupportedLayer: It is no sequence of linear parts whose product is one layer.
        """
        product = _product(model, self.layer)
        inputs, outputs = _sides(product.parts[0])[0], _sides(product.parts[-1])[1]
        biases = [part.bias for part in product.parts if part.bias is not None]
        window = product.parts[product.windows[-1]]
        new: nn.Conv2d | nn.Linear
        if isinstance(window, nn.Conv2d):
            sides = {"in_channels": inputs, "out_channels": outputs, "bias": bool(biases)}
            new = conv_like(window, **sides, **_geometry(product))
        else:
            new = linear_like(window, in_features=inputs, out_features=outputs, bias=bool(biases))
        new.weight.requires_grad_(any(part.weight.requires_grad for part in product.parts))
        if new.bias is not None:
            new.bias.requires_grad_(any(bias.requires_grad for bias in biases))
        replace_module(model, self.layer, new.train(product.training))

    @property
    def target(self) -> str:
        """Name of the layer."""
        return self.layer

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values."""
        return {"layer": self.layer}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Rebuild from ``to_dict``'s output.

        Raises:
            PlanError: A field is missing, unknown or of the wrong type.
        """
        reader = Fields(cls.kind, fields)
        decision = cls(reader.text("layer"))
        reader.finish()
        return decision


def merge_values(model: nn.Module, layer: str) -> dict[str, Tensor]:
    """Compute the weight, and the bias if there is one, that a layer has after ``Merge``.

    The product of the parts, in double precision; ``model`` is not changed.

    Args:
        model: The network before the merge.
        layer: Name of the decomposed layer.

    Returns:
        The tensors by their state-dict names, of the parts' type.

    Raises:
        PlanError: There is no such layer.
        UnsupportedLayer: As ``Merge.apply``.
    """
    parts = _product(model, layer).parts
    weight, bias = _kernel(parts[0]), _bias(parts[0])
    for part in parts[1:]:
        kernel, own = _kernel(part), _bias(part)
        if bias is not None:
            # A constant input: every position of the window sees the same value.
            passed = kernel.sum((2, 3)) @ bias
            bias = passed if own is None else passed + own
        else:
            bias = own
        # Of both kernels one is 1 high and one is 1 wide: products of the sizes are the sizes.
        both = torch.einsum("omxy,mipq->oixpyq", kernel, weight)
        weight = both.flatten(4, 5).flatten(2, 3)  # (out, in, kH, kW)
    like = parts[0].weight
    values = {f"{layer}.weight": weight if like.ndim == 4 else weight.flatten(1)}
    if bias is not None:
        values[f"{layer}.bias"] = bias
    return {name: value.to(like.dtype) for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class _Product:
    parts: list[nn.Conv2d | nn.Linear]
    windows: tuple[int, ...]  # the parts whose stride, padding, ... the product has
    training: bool


def _geometry(product: _Product) -> dict[str, Any]:
    """Give the attributes of a vertical and a horizontal part together; none for a single one."""
    both = [product.parts[index] for index in product.windows]
    if len(both) < 2:
        return {}
    vertical, horizontal = both
    assert isinstance(vertical, nn.Conv2d)
    assert isinstance(horizontal, nn.Conv2d)
    return joined_halves(vertical, horizontal)


def _product(model: nn.Module, layer: str) -> _Product:
    module = submodule(model, layer)
    named = dict(module.named_children())
    if type(module) is not nn.Sequential or list(named) not in _NAMES:
        found = f"{type(module).__qualname__}({', '.join(named)})"
        raise UnsupportedLayer(
            f"{layer}: merging needs a Sequential of first and last, or first, core and last, as "
            f"channel_svd, spatial_svd and tucker2 leave it, got {found}; decompose it before, or "
            "drop this decision"
        )
    _check_unaltered(layer, [module, *named.values()])
    parts = _linear_parts(layer, named)
    for (name, before), (later, after) in pairwise(parts.items()):
        if _sides(before)[1] != _sides(after)[0]:
            raise UnsupportedLayer(
                f"{layer}.{later}: expected {_sides(before)[1]} inputs, the outputs of {name}, got "
                f"{_sides(after)[0]}; cut both sides with one decision"
            )
    windows = _windows(layer, parts)
    for window in windows:
        _check_biases(layer, dict(list(parts.items())[: window + 1]))
    return _Product(list(parts.values()), windows, module.training)


def _check_unaltered(layer: str, modules: list[nn.Module]) -> None:
    if any(is_parametrized(m) or m._forward_hooks or m._forward_pre_hooks for m in modules):
        raise UnsupportedLayer(
            f"{layer}: merging would lose a parametrization or the forward hooks of a part; remove "
            "them, or leave the layer decomposed"
        )


def _linear_parts(layer: str, named: dict[str, nn.Module]) -> dict[str, nn.Conv2d | nn.Linear]:
    if {type(part) for part in named.values()} not in ({nn.Conv2d}, {nn.Linear}):
        found = ", ".join(type(part).__qualname__ for part in named.values())
        raise UnsupportedLayer(
            f"{layer}: merging needs parts that are all torch.nn.Conv2d or all torch.nn.Linear "
            f"themselves, got {found}; leave the layer decomposed"
        )
    for name, part in named.items():
        if isinstance(part, nn.Conv2d) and part.groups != 1:
            raise UnsupportedLayer(
                f"{layer}.{name}: merging needs groups=1, got groups={part.groups}; leave the "
                "layer decomposed"
            )
    return {n: part for n, part in named.items() if isinstance(part, (nn.Conv2d, nn.Linear))}


def _windows(layer: str, parts: dict[str, nn.Conv2d | nn.Linear]) -> tuple[int, ...]:
    """Find the parts that are more than a matrix at each position; if none, where one would be."""
    windows = [index for index, part in enumerate(parts.values()) if not _is_pointwise(part)]
    found = [part for index, part in enumerate(parts.values()) if index in windows]
    if len(windows) > 2 or (len(windows) == 2 and not are_halves(*found)):
        names = " and ".join(list(parts)[index] for index in windows)
        raise UnsupportedLayer(
            f"{layer}: merging needs at most one part that is not 1x1 with stride 1 and without "
            f"padding, or a vertical and then a horizontal one, got {names}; leave the layer "
            "decomposed"
        )
    return tuple(windows) or (len(parts) - 2,)


def _check_biases(layer: str, parts: dict[str, nn.Conv2d | nn.Linear]) -> None:
    """Refuse a bias before zero padding: the border would not see it."""
    *before, (last, window) = parts.items()
    if not isinstance(window, nn.Conv2d) or window.padding_mode != "zeros" or not _pads(window):
        return
    for name, part in before:
        if part.bias is not None:
            raise UnsupportedLayer(
                f"{layer}.{name}: merging needs no bias before the zero padding of {last}, got "
                "one, which the padded border does not see; move it behind, or leave the layer "
                "decomposed"
            )


def _is_pointwise(part: nn.Conv2d | nn.Linear) -> bool:
    if isinstance(part, nn.Linear):
        return True
    return part.kernel_size == (1, 1) and part.stride == (1, 1) and not _pads(part)


def _pads(conv: nn.Conv2d) -> bool:
    if isinstance(conv.padding, str):
        return conv.padding == "same" and conv.kernel_size != (1, 1)
    return any(conv.padding)


def _sides(part: nn.Conv2d | nn.Linear) -> tuple[int, int]:
    """Give the number of inputs and outputs."""
    if isinstance(part, nn.Linear):
        return part.in_features, part.out_features
    return part.in_channels, part.out_channels


def _kernel(part: nn.Conv2d | nn.Linear) -> Tensor:
    weight = part.weight.detach().double()
    return weight if weight.ndim == 4 else weight[:, :, None, None]


def _bias(part: nn.Conv2d | nn.Linear) -> Tensor | None:
    return None if part.bias is None else part.bias.detach().double()
