"""What a family of decompositions is: ranks, cost, factors, and the decision that it becomes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from lissom.lowrank.rank import Unit, price, relative_rank
from lissom.plan.alignment import aligned_counts
from lissom.plan.cost import Cost
from lissom.plan.low_rank import Factorization
from lissom.plan.predict import LayerShape, dense_cost

Ranks = tuple[int, ...]


class Family(ABC):
    """One way to write a weight as a product of smaller ones, or as a sum with one.

    Ranks are tuples in the order of the decision's fields. ``lissom.lowrank.families`` lists the
    families by name.

    Attributes:
        name: Kind of the decision.
    """

    name: ClassVar[str]

    @abstractmethod
    def full_ranks(self, shape: LayerShape) -> Ranks:
        """Give the largest ranks; at them, settled, the factors stand for the weight itself."""

    @abstractmethod
    def cost(self, shape: LayerShape, ranks: Ranks) -> Cost:
        """Give what a layer of ``shape`` costs with these ranks, exactly."""

    @abstractmethod
    def decision(self, layer: str, ranks: Ranks) -> Factorization:
        """Give the decision that puts the factors in the place of ``layer``."""

    @abstractmethod
    def factors(
        self, weight: Tensor, ranks: Ranks, covariance: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Factorize a weight.

        Args:
            weight: ``(T, S, kH, kW)``, or ``(T, S)`` where the family does linear layers.
            ranks: 1 to the full ones.
            covariance: E[x x^T] of the layer's inputs, as in ``lissom.lowrank.factorize``; None for
                the weight's own error.

        Returns:
            The values of the decision's parts by their state-dict names (``first.weight``, ...).

        Raises:
            ValueError: A shape or rank does not fit, or a value is not finite.
        """

    @abstractmethod
    def compose(self, factors: Mapping[str, Tensor]) -> Tensor:
        """Give the dense weight that what ``factors`` gave stands for."""

    def gains(self, shape: LayerShape) -> bool:
        """Whether there is a kernel that this family can use better than a cheaper equal."""
        return shape.is_separable

    @property
    def has_unfoldings(self) -> bool:
        """Whether each rank is that of a matrix, which ``unfoldings`` gives."""
        return type(self).unfoldings is not Family.unfoldings

    def unfoldings(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Give, per rank, the matrix whose rank it is; in the order of the ranks.

        Raises:
            ValueError: The family's rank is no matrix rank.
        """
        raise ValueError(
            f"{self.name}: its rank is that of no matrix (weight {tuple(weight.shape)}); choose it "
            "by fraction or by cost"
        )

    def admissible(self, shape: LayerShape, round_to: int | str) -> tuple[Ranks, ...]:
        """List, per rank, the aligned values it may take, in ascending order."""
        return tuple(aligned_counts(full, round_to) for full in self.full_ranks(shape))

    def settle(self, shape: LayerShape, ranks: Ranks) -> Ranks:
        """Lower a rank that the others make larger than it can be."""
        del shape
        return ranks

    def relative(self, shape: LayerShape, fraction: float, round_to: int | str = 1) -> Ranks:
        """Give the aligned ranks that are nearest to ``fraction`` of the full ones.

        Args:
            shape: The layer.
            fraction: In (0, 1].
            round_to: Alignment of the ranks.

        Raises:
            ValueError: An argument is out of range.
        """
        full = self.full_ranks(shape)
        return self.settle(shape, tuple(relative_rank(fraction, rank, round_to) for rank in full))

    def within(
        self, shape: LayerShape, limit: int, unit: Unit, round_to: int | str = 1
    ) -> Ranks | None:
        """Give the largest ranks, in about equal proportion, that cost at most ``limit``.

        Args:
            shape: The layer.
            limit: The most that all parts may cost together.
            unit: ``macs`` or ``params``.
            round_to: Alignment of the ranks.

        Returns:
            The ranks, or None if even the smallest cost more.
        """
        steps = self.admissible(shape, round_to)
        fractions = sorted({rank / ranks[-1] for ranks in steps for rank in ranks})

        def at(fraction: float) -> Ranks:
            return self.settle(shape, tuple(_at_most(ranks, fraction) for ranks in steps))

        fits = bisect_right(
            fractions, limit, key=lambda fraction: price(self.cost(shape, at(fraction)), unit)
        )
        return at(fractions[fits - 1]) if fits else None

    def best_within(
        self,
        shape: LayerShape,
        limit: int,
        unit: Unit,
        weight: Tensor,
        covariance: Tensor | None = None,
    ) -> Ranks | None:
        """Give the free ranks that cost at most ``limit`` and err least on this weight.

        Families of one rank have no choice; those of several search them together where they can.

        Args:
            shape: The layer.
            limit: The most that all parts may cost together.
            unit: ``macs`` or ``params``.
            weight: The layer's weight.
            covariance: As for ``factors``.
        """
        del weight, covariance
        return self.within(shape, limit, unit)

    def predicted_within(
        self,
        shape: LayerShape,
        limits: Sequence[int],
        unit: Unit,
        weight: Tensor,
        covariance: Tensor | None = None,
    ) -> tuple[Ranks | None, ...] | None:
        """Give for each of several limits what ``best_within`` would, as far as can be predicted.

        What the limits have in common is done once, and nothing is factorized.

        Args:
            shape: The layer.
            limits: As ``limit`` of ``best_within``.
            unit: ``macs`` or ``params``.
            weight: The layer's weight.
            covariance: As for ``factors``.

        Returns:
            Ranks for each limit, or None: the family has one rank, or its errors can't be
            predicted.
        """
        del shape, limits, unit, weight, covariance
        return None

    def break_even(self, shape: LayerShape, unit: Unit, round_to: int | str = 1) -> Ranks | None:
        """Give the largest ranks that are cheaper than the whole layer; None if none are."""
        return self.within(shape, price(dense_cost(shape), unit) - 1, unit, round_to)

    def saves(self, shape: LayerShape, ranks: Ranks) -> bool:
        """Whether the parts cost less than the layer, in MACs and in parameters."""
        cost, dense = self.cost(shape, ranks), dense_cost(shape)
        return cost.macs < dense.macs and cost.params < dense.params


def _at_most(ranks: Sequence[int], fraction: float) -> int:
    """Give the largest admissible rank within ``fraction`` of the full one, else the smallest."""
    return ranks[max(0, bisect_right(ranks, fraction * ranks[-1] + 1e-9) - 1)]
