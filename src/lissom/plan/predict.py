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
        kernel_height: kH; None where it is not known, and separable kernels can't be priced then.
        middle_positions: H' * W, positions after a vertical pass alone; None as above.
    """

    out_channels: int
    in_channels: int
    kernel: int
    input_positions: int
    output_positions: int
    bias: bool
    groups: int = 1
    calls: int = 1
    kernel_height: int | None = None
    middle_positions: int | None = None

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
            height, middle = layer.kernel_size[0], output_shape[-2] * input_shape[-1]
        elif isinstance(layer, nn.Linear):
            positions = prod(input_shape[:-1]), prod(output_shape[:-1])
            kernel, groups = 1, 1
            sides = layer.out_features, layer.in_features
            height, middle = 1, positions[1]
        else:
            raise UnsupportedLayer(
                f"{type(layer).__qualname__}: costs are predicted for Conv2d and Linear only; "
                "exclude it"
            )
        bias = layer.bias is not None
        return cls(*sides, kernel, *positions, bias, groups, calls, height, middle)

    @property
    def halves(self) -> tuple[int, int, int]:
        """Give kH, kW and the positions between a vertical and a horizontal pass.

        Raises:
            ValueError: They are not known.
        """
        if self.kernel_height is None or self.middle_positions is None:
            raise ValueError(
                "kernel_height and middle_positions are not known; read the shape off the layer "
                "with LayerShape.of"
            )
        return self.kernel_height, self.kernel // self.kernel_height, self.middle_positions

    @property
    def is_separable(self) -> bool:
        """Whether there is a kernel of more than one row and column, of known sizes."""
        known = self.kernel_height is not None and self.middle_positions is not None
        return known and self.kernel > (self.kernel_height or 1) > 1


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
    return _chain(shape, (first, shape.input_positions), (core + last, shape.output_positions))


def channel_svd_cost(shape: LayerShape, rank: int) -> Cost:
    """Give the cost after ``ChannelSVD``: both layers work at the output's size.

    Args:
        shape: The layer before.
        rank: Channels between ``first`` and ``last``.
    """
    weights = rank * (shape.in_channels * shape.kernel + shape.out_channels)
    return _chain(shape, (weights, shape.output_positions))


def spatial_svd_cost(shape: LayerShape, rank: int) -> Cost:
    """Give the cost after ``SpatialSVD``: ``first`` at output rows times input columns.

    Args:
        shape: The layer before.
        rank: Channels between ``first`` and ``last``.

    Raises:
        ValueError: The kernel's sides are not known.
    """
    height, width, middle = shape.halves
    first, last = rank * shape.in_channels * height, shape.out_channels * rank * width
    return _chain(shape, (first, middle), (last, shape.output_positions))


def filter_cp_cost(shape: LayerShape, rank: int) -> Cost:
    """Give the cost after ``FilterCP``: 1x1 at the input's size, then one pass per direction.

    Args:
        shape: The layer before.
        rank: Products per filter.

    Raises:
        ValueError: The kernel's sides are not known.
    """
    height, width, middle = shape.halves
    channels = rank * shape.out_channels
    return _chain(
        shape,
        (channels * shape.in_channels, shape.input_positions),
        (channels * height, middle),
        (channels * width, shape.output_positions),
    )


def tensor_train_cost(shape: LayerShape, rank_in: int, rank_middle: int, rank_out: int) -> Cost:
    """Give the cost after ``TensorTrain``: its parts one after another.

    Args:
        shape: The layer before.
        rank_in: Channels between ``first`` and ``vertical``.
        rank_middle: Channels between ``vertical`` and ``horizontal``.
        rank_out: Channels between ``horizontal`` and ``last``.

    Raises:
        ValueError: The kernel's sides are not known.
    """
    height, width, middle = shape.halves
    across = rank_out * (rank_middle * width + shape.out_channels)
    return _chain(
        shape,
        (rank_in * shape.in_channels, shape.input_positions),
        (rank_middle * rank_in * height, middle),
        (across, shape.output_positions),
    )


def sparse_plus_svd_cost(shape: LayerShape, channels: int, rank: int) -> Cost:
    """Give the cost after ``SparsePlusSVD``: all three parts work at the output's size.

    Args:
        shape: The layer before.
        channels: Input channels of ``sparse``.
        rank: Channels between ``first`` and ``last``.
    """
    sparse = shape.out_channels * channels * shape.kernel
    first = rank * (shape.in_channels - channels) * shape.kernel
    weights = sparse + first + shape.out_channels * rank
    return _chain(shape, (weights, shape.output_positions))


def _chain(shape: LayerShape, *parts: tuple[int, int]) -> Cost:
    """Add up parts given as (weights, positions at which each weight multiplies once)."""
    weights = sum(count for count, _ in parts)
    return _cost(shape, weights, sum(count * positions for count, positions in parts))


def _cost(shape: LayerShape, weights: int, macs: int) -> Cost:
    params = weights + shape.out_channels * shape.bias
    return Cost(params, macs * shape.calls, params * BITS_PER_PARAMETER)
