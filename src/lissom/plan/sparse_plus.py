"""The decision that splits a layer into a structured-sparse and a low-rank one, side by side."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lissom.errors import PlanError
from lissom.plan.low_rank import POINTWISE, Factorization, check_decomposable, check_rank
from lissom.plan.surgery import conv_like, linear_like, replace_module, submodule


class SparsePlusLowRank(nn.Module):
    """S x + L x: some input channels go through a whole layer, the others through two thin ones.

    Later decisions may replace each of the parts; what it needs to know of them it keeps itself.

    Attributes:
        order: Input channels, those of ``sparse`` first; (S,) int64, a buffer: values, not
            structure.
        sparse: Over the first channels of the order, without bias.
        first: Over the others, to few channels, without bias.
        last: From those to the outputs, 1x1 or linear, with the bias.
    """

    order: Tensor
    sparse: nn.Module
    first: nn.Module
    last: nn.Module

    def __init__(self, parts: Mapping[str, nn.Module], order: Tensor, channels: int) -> None:
        """Put the parts together.

        Args:
            parts: ``sparse``, ``first`` and ``last``.
            order: Of the input channels.
            channels: How many of them ``sparse`` reads.
        """
        super().__init__()
        self.register_buffer("order", order)
        self._channels = channels
        self._axis = -1 if isinstance(parts["sparse"], nn.Linear) else 1
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, inputs: Tensor) -> Tensor:
        """Add both paths; channels are axis 1 of images, the last one of vectors."""
        whole = inputs.index_select(self._axis, self.order[: self._channels])
        others = inputs.index_select(self._axis, self.order[self._channels :])
        total: Tensor = self.sparse(whole) + self.last(self.first(others))
        return total


@dataclass(frozen=True, slots=True)
class SparsePlusSVD(Factorization):
    """Replace a layer by W = S + L: S reads some input channels alone, L, of low rank, the others.

    S is ``sparse``, k x k; L is ``first``, k x k, and ``last``, 1 x 1 with the bias. Stride,
    padding, dilation and padding mode go to ``sparse`` and ``first``. Which channels S reads is a
    value: the buffer ``order``. With all inputs but one in S, and full rank for that one, the
    function is the layer's.

    Attributes:
        layer: Name of the convolution or linear layer.
        channels: Input channels of S, 1 to all but one.
        rank: Channels between ``first`` and ``last``, 1 to min(T, (S - channels) kH kW).

    Source:
        Yu, Liu, Wang and Tao, On compressing deep models by low rank and sparse decomposition,
        CVPR 2017 (the sum; theirs is sparse by entry).
    """

    kind: ClassVar[str] = "sparse_plus_svd"
    channels: int
    rank: int

    def apply(self, model: nn.Module) -> None:
        """Put the two paths in the layer's place.

        Raises:
            PlanError: There is no such layer, or a number exceeds what it admits.
            UnsupportedLayer: The layer is neither a plain convolution with ``groups=1`` nor a plain
                Linear.
        """
        module = check_decomposable(self.layer, submodule(model, self.layer))
        order = torch.arange(module.weight.shape[1], device=module.weight.device)
        both = SparsePlusLowRank(self.parts(module), order, self.channels)
        replace_module(model, self.layer, both.train(module.training))

    def parts(self, module: nn.Conv2d | nn.Linear) -> OrderedDict[str, nn.Module]:
        """Build ``sparse``, ``first`` and ``last``; as in the base class."""
        outputs, inputs = module.weight.shape[:2]
        if inputs == 1:
            raise PlanError(
                f"{self.layer}: has one input channel, expected at least two to split; the plan "
                "belongs to another network"
            )
        check_rank(self.layer, "channels", self.channels, inputs - 1)
        others = inputs - self.channels
        check_rank(
            self.layer, "rank", self.rank, min(outputs, others * module.weight[0, 0].numel())
        )
        if isinstance(module, nn.Conv2d):
            return OrderedDict(
                sparse=conv_like(module, in_channels=self.channels, bias=False),
                first=conv_like(module, in_channels=others, out_channels=self.rank, bias=False),
                last=conv_like(module, in_channels=self.rank, **POINTWISE),
            )
        return OrderedDict(
            sparse=linear_like(module, in_features=self.channels, bias=False),
            first=linear_like(module, in_features=others, out_features=self.rank, bias=False),
            last=linear_like(module, in_features=self.rank),
        )
