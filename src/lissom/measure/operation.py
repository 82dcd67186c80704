"""Convolutions and matrix products as a runtime sees them, whatever module they come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, order=True)
class Operation:
    """What decides how long a runtime takes for one weight layer.

    Attributes:
        inputs: Input channels, or features of a matrix product.
        outputs: Output channels.
        size: (H, W) of the input; for a matrix product (1, rows per sample).
        kernel: (kH, kW); (0, 0) for a matrix product.
        stride: Per direction.
        padding: Top, left, bottom, right.
        dilation: Per direction.
        groups: Convolution groups.
    """

    inputs: int
    outputs: int
    size: tuple[int, int]
    kernel: tuple[int, int] = (0, 0)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def is_product(self) -> bool:
        """Whether it is a matrix product rather than a convolution."""
        return self.kernel == (0, 0)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of its weight: (T, S / groups, kH, kW), or (T, S)."""
        if self.is_product:
            return self.outputs, self.inputs
        return self.outputs, self.inputs // self.groups, *self.kernel

    def input_shape(self, batch: int) -> tuple[int, ...]:
        """Give the shape of its input with ``batch`` samples."""
        if self.is_product:
            return batch * prod(self.size), self.inputs
        return batch, self.inputs, *self.size

    def to_dict(self) -> dict[str, Any]:
        """Give the fields, JSON-ready."""
        return asdict(self)


def operations_of(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Operation, ...]:
    """List the operations of one forward pass, in the order in which they run.

    Args:
        module: A network or a layer, on any device; ``meta`` computes nothing.
        inputs: Its inputs, on the same device, batch in front.

    Returns:
        One for every call of a convolution or linear layer; 1-D, 3-D and transposed convolutions
        are left out.
    """
    found: list[Operation] = []
    with _watched(module, found), torch.no_grad():
        module(*inputs)
    return tuple(found)


@contextmanager
def _watched(module: nn.Module, found: list[Operation]) -> Iterator[None]:
    def note(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        if isinstance(layer, nn.Conv2d):
            found.append(_convolution(layer, tuple(given[0].shape[-2:])))
        elif isinstance(layer, nn.Linear):
            rows = prod(given[0].shape[1:-1])
            found.append(Operation(layer.in_features, layer.out_features, (1, rows)))

    hooks = [part.register_forward_pre_hook(note) for part in module.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _convolution(layer: nn.Conv2d, size: tuple[int, ...]) -> Operation:
    height, width = size
    return Operation(
        layer.in_channels,
        layer.out_channels,
        (height, width),
        _pair(layer.kernel_size),
        _pair(layer.stride),
        _padding(layer),
        _pair(layer.dilation),
        layer.groups,
    )


def _padding(layer: nn.Conv2d) -> tuple[int, int, int, int]:
    """Give top, left, bottom, right; torch puts the odd one of ``same`` at the end."""
    if layer.padding == "valid":
        return 0, 0, 0, 0
    if isinstance(layer.padding, str):
        totals = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        top, left = (total // 2 for total in totals)
        return top, left, totals[0] - top, totals[1] - left
    top, left = layer.padding
    return top, left, top, left


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    first, second = values
    return first, second
