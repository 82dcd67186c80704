"""The family of Tucker-2: channels on both sides reduced, the kernel between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from lissom.lowrank import factorize
from lissom.lowrank.family import Family, Ranks
from lissom.lowrank.joint import Fits, best_tucker2_ranks, predicted_tucker2_ranks
from lissom.lowrank.rank import Unit, price
from lissom.plan.cost import Cost
from lissom.plan.low_rank import Factorization, Tucker2
from lissom.plan.predict import LayerShape, tucker2_cost


class Tucker2Family(Family):
    """1x1, kxk, 1x1. Ranks: input channels, output channels."""

    name: ClassVar[str] = Tucker2.kind

    def gains(self, shape: LayerShape) -> bool:
        """Whether there is a kernel: a 1x1 or a linear layer has a cheaper equal in two parts."""
        return shape.kernel > 1

    def full_ranks(self, shape: LayerShape) -> Ranks:
        """Give (S, T)."""
        return shape.in_channels, shape.out_channels

    def cost(self, shape: LayerShape, ranks: Ranks) -> Cost:
        """Give the cost of the three parts."""
        return tucker2_cost(shape, *ranks)

    def decision(self, layer: str, ranks: Ranks) -> Factorization:
        """Give a ``Tucker2``."""
        return Tucker2(layer, *ranks)

    def factors(
        self, weight: Tensor, ranks: Ranks, covariance: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Factorize by ``factorize.tucker2``."""
        rank_in, rank_out = ranks
        last, core, first = factorize.tucker2(weight, rank_out, rank_in, covariance=covariance)
        return {
            "first.weight": first[:, :, None, None],
            "core.weight": core,
            "last.weight": last[:, :, None, None],
        }

    def compose(self, factors: Mapping[str, Tensor]) -> Tensor:
        """Multiply the three factors."""
        first, last = factors["first.weight"].flatten(1), factors["last.weight"].flatten(1)
        return factorize.compose_tucker2(last, factors["core.weight"], first)

    def unfoldings(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Give the unfoldings along inputs and outputs."""
        return weight.transpose(0, 1).flatten(1), weight.flatten(1)

    def best_within(
        self,
        shape: LayerShape,
        limit: int,
        unit: Unit,
        weight: Tensor,
        covariance: Tensor | None = None,
    ) -> Ranks | None:
        """Search both ranks together; as in the base class."""
        fits = self._within(shape, limit, unit)
        return best_tucker2_ranks(weight, fits, covariance=covariance)

    def predicted_within(
        self,
        shape: LayerShape,
        limits: Sequence[int],
        unit: Unit,
        weight: Tensor,
        covariance: Tensor | None = None,
    ) -> tuple[Ranks | None, ...]:
        """Predict the errors of all pairs of ranks at once; as in the base class."""
        fits = [self._within(shape, limit, unit) for limit in limits]
        return predicted_tucker2_ranks(weight, fits, covariance=covariance)

    @staticmethod
    def _within(shape: LayerShape, limit: int, unit: Unit) -> Fits:
        return lambda rank_in, rank_out: (
            price(tucker2_cost(shape, rank_in, rank_out), unit) <= limit
        )
