"""The family of sums: some input channels read in full, the others through a low rank."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from lissom.lowrank.family import Family, Ranks
from lissom.lowrank.rank import Unit, price, relative_rank
from lissom.lowrank.sparse_plus import Split, best_split, predicted_splits, sparse_plus_svd
from lissom.plan.alignment import aligned_counts, step_for
from lissom.plan.cost import Cost
from lissom.plan.low_rank import Factorization
from lissom.plan.predict import LayerShape, sparse_plus_svd_cost
from lissom.plan.sparse_plus import SparsePlusSVD

_SHARE = 16  # of a width is the coarsest step of ``auto``
_TRIED = 24  # numbers of channels that the joint search looks at


class SparsePlusFamily(Family):
    """kxk on some channels, beside kxk and 1x1 on the others. Ranks: those channels, the rank.

    The full rank is that beside one channel; settled, full ranks leave one channel to L.
    """

    name: ClassVar[str] = SparsePlusSVD.kind

    def gains(self, shape: LayerShape) -> bool:
        """Whether there are channels to divide between both parts."""
        return shape.in_channels > 1

    def full_ranks(self, shape: LayerShape) -> Ranks:
        """Give (S - 1, min(T, (S - 1) K))."""
        others = shape.in_channels - 1
        return others, min(shape.out_channels, others * shape.kernel)

    def settle(self, shape: LayerShape, ranks: Ranks) -> Ranks:
        """Lower the rank to what the channels that S leaves to L admit."""
        channels, rank = ranks
        return channels, min(rank, (shape.in_channels - channels) * shape.kernel)

    def cost(self, shape: LayerShape, ranks: Ranks) -> Cost:
        """Give the cost of the three parts; taking channels out of the input costs none."""
        return sparse_plus_svd_cost(shape, *ranks)

    def decision(self, layer: str, ranks: Ranks) -> Factorization:
        """Give a ``SparsePlusSVD``."""
        return SparsePlusSVD(layer, *ranks)

    def factors(
        self, weight: Tensor, ranks: Ranks, covariance: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Split by ``sparse_plus.sparse_plus_svd``; ``order`` says which channels S reads."""
        split = sparse_plus_svd(weight, *ranks, covariance=covariance)
        pointwise = split.last.reshape(*split.last.shape, *(1,) * (weight.dim() - 2))
        return {
            "order": split.order,
            "sparse.weight": split.sparse,
            "first.weight": split.first,
            "last.weight": pointwise,
        }

    def compose(self, factors: Mapping[str, Tensor]) -> Tensor:
        """Add both parts."""
        last = factors["last.weight"].flatten(1)
        return Split(
            factors["order"], factors["sparse.weight"], last, factors["first.weight"]
        ).dense

    def admissible(self, shape: LayerShape, round_to: int | str) -> tuple[Ranks, ...]:
        """List the counts that are multiples of the step, and the full ones.

        Two parts share the layer, and each is narrower than it: ``auto`` takes no step of more than
        a sixteenth of the width, so that narrow layers keep a choice.
        """
        return tuple(
            aligned_counts(full, step)
            for full, step in zip(self.full_ranks(shape), self._steps(shape, round_to), strict=True)
        )

    def relative(self, shape: LayerShape, fraction: float, round_to: int | str = 1) -> Ranks:
        """Give the nearest ranks; as in the base class, in the steps of ``admissible``."""
        steps = self._steps(shape, round_to)
        full = zip(self.full_ranks(shape), steps, strict=True)
        return self.settle(shape, tuple(relative_rank(fraction, *one) for one in full))

    def within(
        self, shape: LayerShape, limit: int, unit: Unit, round_to: int | str = 1
    ) -> Ranks | None:
        """Give the largest ranks in proportion; as in the base class, None for one channel too."""
        return super().within(shape, limit, unit, round_to) if self.gains(shape) else None

    def best_within(
        self,
        shape: LayerShape,
        limit: int,
        unit: Unit,
        weight: Tensor,
        covariance: Tensor | None = None,
    ) -> Ranks | None:
        """Search both together; as in the base class."""
        frontier = self._frontier(shape, limit, unit)
        return best_split(weight, frontier, covariance=covariance) if frontier else None

    def predicted_within(
        self,
        shape: LayerShape,
        limits: Sequence[int],
        unit: Unit,
        weight: Tensor,
        covariance: Tensor | None = None,
    ) -> tuple[Ranks | None, ...]:
        """Predict both for each limit in one sweep over the channels; as in the base class."""
        frontiers = [self._frontier(shape, limit, unit) for limit in limits]
        possible = [frontier for frontier in frontiers if frontier]
        found = iter(predicted_splits(weight, possible, covariance=covariance))
        return tuple(next(found) if frontier else None for frontier in frontiers)

    def saves(self, shape: LayerShape, ranks: Ranks) -> bool:
        """Whether both parts exist and cost less than the layer; as in the base class."""
        return self.gains(shape) and super().saves(shape, ranks)

    def _frontier(self, shape: LayerShape, limit: int, unit: Unit) -> dict[int, int]:
        """Give numbers of channels, ascending, each with the largest rank that fits beside it."""
        most, full = self.full_ranks(shape)
        tried = sorted({max(1, round(most * part / _TRIED)) for part in range(1, _TRIED + 1)})
        frontier = {}
        for channels in tried if most else ():
            ranks = range(1, self.settle(shape, (channels, full))[1] + 1)
            found = bisect_right(ranks, limit, key=self._price(shape, channels, unit))
            if found:
                frontier[channels] = found
        return frontier

    def _price(self, shape: LayerShape, channels: int, unit: Unit) -> Callable[[int], int]:
        return lambda rank: price(self.cost(shape, (channels, rank)), unit)

    def _steps(self, shape: LayerShape, round_to: int | str) -> tuple[int, int]:
        widths = shape.in_channels, shape.out_channels
        if round_to != "auto":
            return step_for(widths[0], round_to), step_for(widths[1], round_to)
        inputs, outputs = (min(step_for(w, "auto"), max(1, w // _SHARE)) for w in widths)
        return inputs, outputs
