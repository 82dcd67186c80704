"""What a layer will cost after a decision: exact, from shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Self

from torch import nn

from lissom.errors import UnsupportedLayer
from lissom.plan.cost import Cost

BITS_PER_PARAMETER = 32


@dataclass(frozen=True, slots=True)
class LayerShape:
    """The sizes that decide what a convolution or linear layer costs.

    Attributes:
        out_channels: T, outputs of a linear layer.
        in_channels: S, inputs of a linear layer.
        kernel: Kernel positions per input channel: kH * kW, 1 for a linear layer.
        input_positions: Positions at which the input is given: H * W, 1 for a linear layer on
            vectors.
        output_positions: Positions at which the output is computed: H' * W'. Not derivable from
            the input for odd sizes and strides, hence stored.
        bias: Whether there is a bias.
        groups: Convolution groups.
        calls: How often one forward pass runs the layer.
    """

    out_channels: int
    in_channels: int
    kernel: int
    input_positions: int
    output_positions: int
    bias: bool
    groups: int = 1
    calls: int = 1

    @classmethod
    def of(
        cls,
        layer: nn.Module,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        calls: int = 1,
    ) -> Self:
        """Read the sizes off a layer and the shapes it was seen with.

        Args:
            layer: A Conv2d or Linear.
            input_shape: Without batch: (S, H, W), or (..., S) for a linear layer.
            output_shape: Without batch.
            calls: How often one forward pass runs it.

        Raises:
            UnsupportedLayer: It is something else.
        """
        if isinstance(layer, nn.Conv2d):
            positions = prod(input_shape[1:]), prod(output_shape[1:])
            kernel, groups = prod(layer.kernel_size), layer.groups
            sides = layer.out_channels, layer.in_channels
        elif isinstance(layer, nn.Linear):
            positions = prod(input_shape[:-1]), prod(output_shape[:-1])
            kernel, groups = 1, 1
            sides = layer.out_features, layer.in_features
        else:
            raise UnsupportedLayer(
                f"{type(layer).__qualname__}: costs are predicted for Conv2d and Linear only; "
                "exclude it"
            )
        return cls(*sides, kernel, *positions, layer.bias is not None, groups, calls)


def dense_cost(shape: LayerShape) -> Cost:
    """Give the cost of the layer as it stands (or with other channel counts put in).

    Args:
        shape: The layer; in_channels over all convolution groups.
    """
    weights = shape.out_channels * (shape.in_channels // shape.groups) * shape.kernel
    return _cost(shape, weights, weights * shape.output_positions)


def tucker2_cost(shape: LayerShape, rank_in: int, rank_out: int) -> Cost:
    """Give the cost after ``Tucker2``: 1x1 at the input's size, core and 1x1 at the output's.

    Args:
        shape: The layer before.
        rank_in: Channels between ``first`` and ``core``.
        rank_out: Channels between ``core`` and ``last``.
    """
    first = rank_in * shape.in_channels
    core = rank_out * rank_in * shape.kernel
    last = shape.out_channels * rank_out
    macs = first * shape.input_positions + (core + last) * shape.output_positions
    return _cost(shape, first + core + last, macs)


def channel_svd_cost(shape: LayerShape, rank: int) -> Cost:
    """Give the cost after ``ChannelSVD``: both layers work at the output's size.

    Args:
        shape: The layer before.
        rank: Channels between ``first`` and ``last``.
    """
    weights = rank * (shape.in_channels * shape.kernel + shape.out_channels)
    return _cost(shape, weights, weights * shape.output_positions)


def _cost(shape: LayerShape, weights: int, macs: int) -> Cost:
    params = weights + shape.out_channels * shape.bias
    return Cost(params, macs * shape.calls, params * BITS_PER_PARAMETER)
