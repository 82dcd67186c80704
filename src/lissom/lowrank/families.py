"""The families by name: everything that differs between one decomposition and another."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from lissom.lowrank import factorize, filter_cp
from lissom.lowrank.family import Family, Ranks
from lissom.lowrank.sparse_plus_family import SparsePlusFamily
from lissom.lowrank.tucker2_family import Tucker2Family
from lissom.plan.cost import Cost
from lissom.plan.low_rank import ChannelSVD, Factorization
from lissom.plan.predict import (
    LayerShape,
    channel_svd_cost,
    filter_cp_cost,
    spatial_svd_cost,
    tensor_train_cost,
)
from lissom.plan.separable import FilterCP, SpatialSVD, TensorTrain


class ChannelSVDFamily(Family):
    """kxk, 1x1; two linear layers for one. Rank: of the matrix (T, S K)."""

    name: ClassVar[str] = ChannelSVD.kind

    def gains(self, shape: LayerShape) -> bool:
        """Give true: every layer has such a matrix."""
        del shape
        return True

    def full_ranks(self, shape: LayerShape) -> Ranks:
        """Give min(T, S K)."""
        return (min(shape.out_channels, shape.in_channels * shape.kernel),)

    def cost(self, shape: LayerShape, ranks: Ranks) -> Cost:
        """Give the cost of both parts."""
        return channel_svd_cost(shape, *ranks)

    def decision(self, layer: str, ranks: Ranks) -> Factorization:
        """Give a ``ChannelSVD``."""
        return ChannelSVD(layer, *ranks)

    def factors(
        self, weight: Tensor, ranks: Ranks, covariance: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Factorize by ``factorize.channel_svd``."""
        last, first = factorize.channel_svd(weight, *ranks, covariance=covariance)
        pointwise = last.reshape(*last.shape, *(1,) * (weight.dim() - 2))
        return {"first.weight": first, "last.weight": pointwise}

    def compose(self, factors: Mapping[str, Tensor]) -> Tensor:
        """Multiply both factors."""
        return factorize.compose_svd(factors["last.weight"].flatten(1), factors["first.weight"])

    def unfoldings(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Give the matrix (T, S K)."""
        return (weight.flatten(1),)


class SpatialSVDFamily(Family):
    """kH x 1, 1 x kW. Rank: of the matrix (S kH, T kW)."""

    name: ClassVar[str] = SpatialSVD.kind

    def full_ranks(self, shape: LayerShape) -> Ranks:
        """Give min(S kH, T kW)."""
        height, width, _ = shape.halves
        return (min(shape.in_channels * height, shape.out_channels * width),)

    def cost(self, shape: LayerShape, ranks: Ranks) -> Cost:
        """Give the cost of both parts."""
        return spatial_svd_cost(shape, *ranks)

    def decision(self, layer: str, ranks: Ranks) -> Factorization:
        """Give a ``SpatialSVD``."""
        return SpatialSVD(layer, *ranks)

    def factors(
        self, weight: Tensor, ranks: Ranks, covariance: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Factorize by ``factorize.spatial_svd``."""
        last, first = factorize.spatial_svd(weight, *ranks, covariance=covariance)
        return {"first.weight": first[:, :, :, None], "last.weight": last[:, :, None, :]}

    def compose(self, factors: Mapping[str, Tensor]) -> Tensor:
        """Multiply both factors."""
        first, last = factors["first.weight"], factors["last.weight"]
        return torch.einsum("trj,rsi->tsij", last.squeeze(2), first.squeeze(3))

    def unfoldings(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Give the matrix (S kH, T kW)."""
        return (_across(weight),)


class FilterCPFamily(Family):
    """1x1, depthwise kH x 1, 1 x kW that sums per filter. Rank: products per filter."""

    name: ClassVar[str] = FilterCP.kind

    def full_ranks(self, shape: LayerShape) -> Ranks:
        """Give min(S kH, S kW, kH kW)."""
        height, width, _ = shape.halves
        return (filter_cp.full_rank(shape.in_channels, height, width),)

    def cost(self, shape: LayerShape, ranks: Ranks) -> Cost:
        """Give the cost of the three parts."""
        return filter_cp_cost(shape, *ranks)

    def decision(self, layer: str, ranks: Ranks) -> Factorization:
        """Give a ``FilterCP``."""
        return FilterCP(layer, *ranks)

    def factors(
        self, weight: Tensor, ranks: Ranks, covariance: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Factorize by ``filter_cp.filter_cp``."""
        first, core, last = filter_cp.filter_cp(weight, *ranks, covariance=covariance)
        return {
            "first.weight": first.flatten(0, 1)[:, :, None, None],
            "core.weight": core.flatten(0, 1)[:, None, :, None],
            "last.weight": last[:, :, None, :],
        }

    def compose(self, factors: Mapping[str, Tensor]) -> Tensor:
        """Multiply and sum the products of each filter."""
        last = factors["last.weight"].squeeze(2)  # (T, R, kW)
        first = factors["first.weight"].reshape(*last.shape[:2], -1)
        core = factors["core.weight"].reshape(*last.shape[:2], -1)
        return filter_cp.compose_filter_cp(first, core, last)

    def admissible(self, shape: LayerShape, round_to: int | str) -> tuple[Ranks, ...]:
        """List all: widths are multiples of the output channels, whose alignment they have."""
        del round_to
        return super().admissible(shape, 1)

    def relative(self, shape: LayerShape, fraction: float, round_to: int | str = 1) -> Ranks:
        """Give the nearest rank; free, for the same reason."""
        del round_to
        return super().relative(shape, fraction, 1)


class TensorTrainFamily(Family):
    """1x1, kH x 1, 1 x kW, 1x1. Ranks: input channels, (S kH, T kW), output channels."""

    name: ClassVar[str] = TensorTrain.kind

    def full_ranks(self, shape: LayerShape) -> Ranks:
        """Give (S, min(S kH, T kW), T)."""
        height, width, _ = shape.halves
        sides = shape.in_channels * height, shape.out_channels * width
        return shape.in_channels, min(sides), shape.out_channels

    def settle(self, shape: LayerShape, ranks: Ranks) -> Ranks:
        """Lower rank_middle to the smaller of rank_in kH and rank_out kW."""
        rank_in, rank_middle, rank_out = ranks
        height, width, _ = shape.halves
        return rank_in, min(rank_middle, rank_in * height, rank_out * width), rank_out

    def cost(self, shape: LayerShape, ranks: Ranks) -> Cost:
        """Give the cost of the four parts."""
        return tensor_train_cost(shape, *ranks)

    def decision(self, layer: str, ranks: Ranks) -> Factorization:
        """Give a ``TensorTrain``."""
        return TensorTrain(layer, *ranks)

    def factors(
        self, weight: Tensor, ranks: Ranks, covariance: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Factorize by ``factorize.tensor_train``."""
        rank_in, rank_middle, rank_out = ranks
        last, horizontal, vertical, first = factorize.tensor_train(
            weight, (rank_in, rank_middle, rank_out), covariance=covariance
        )
        return {
            "first.weight": first[:, :, None, None],
            "vertical.weight": vertical[:, :, :, None],
            "horizontal.weight": horizontal[:, :, None, :],
            "last.weight": last[:, :, None, None],
        }

    def compose(self, factors: Mapping[str, Tensor]) -> Tensor:
        """Multiply the four factors."""
        first, last = factors["first.weight"].flatten(1), factors["last.weight"].flatten(1)
        vertical, horizontal = factors["vertical.weight"], factors["horizontal.weight"]
        core = torch.einsum("cbj,bai->caij", horizontal.squeeze(2), vertical.squeeze(3))
        return factorize.compose_tucker2(last, core, first)

    def unfoldings(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Give the unfoldings along inputs, between the kernel's sides, and along outputs."""
        return weight.transpose(0, 1).flatten(1), _across(weight), weight.flatten(1)


def _across(weight: Tensor) -> Tensor:
    """Unfold (T, S, kH, kW) to (S kH, T kW)."""
    return weight.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)


BY_NAME: Mapping[str, Family] = MappingProxyType(
    {
        family.name: family
        for family in (
            Tucker2Family(),
            ChannelSVDFamily(),
            SpatialSVDFamily(),
            FilterCPFamily(),
            TensorTrainFamily(),
            SparsePlusFamily(),
        )
    }
)


def family_named(name: str) -> Family:
    """Give a family.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in BY_NAME:
        raise ValueError(f"family {name!r}: expected one of {', '.join(BY_NAME)}")
    return BY_NAME[name]
