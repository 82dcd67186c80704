"""Rules for the ranks on offer: in proportion, together, by energy, or above the noise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from lissom.lowrank.family import Family, Ranks
from lissom.lowrank.rank import energy_rank
from lissom.lowrank.rules import evbmf_ranks, spectra
from lissom.methods.menu import Fractions, equal_fractions, within_equal
from lissom.methods.weights import WeightMath
from lissom.plan.predict import LayerShape

RANK_RULES = ("relative", "joint", "energy", "evbmf")
# Halving the energy that is lost takes two steps: from 1/200 of it up to all but one direction.
_LOST = tuple(2 ** (-step / 2) for step in range(15, 0, -1))


class RankRule(Protocol):
    """Which ranks of a layer are tried."""

    def grid(self, layer: str, family: Family, shape: LayerShape) -> Iterable[Fractions]:
        """Give the relative ranks on offer, in any order; some may save nothing.

        Args:
            layer: Name of the layer.
            family: How it is decomposed.
            shape: The layer as it stands.
        """

    def within(self, layer: str, family: Family, shape: LayerShape, limit: int) -> Ranks | None:
        """Give the free ranks that are tried within a number of MACs; None if none are.

        Args:
            layer: Name of the layer.
            family: How it is decomposed.
            shape: The layer as it stands.
            limit: The most that all parts may cost together.
        """


class Relative:
    """The same fraction of all full ranks."""

    def grid(self, layer: str, family: Family, shape: LayerShape) -> Iterable[Fractions]:
        """Give sixteenths, or finer steps where a family breaks even early."""
        del layer
        return equal_fractions(family, shape)

    def within(self, layer: str, family: Family, shape: LayerShape, limit: int) -> Ranks | None:
        """Give the largest ranks in about equal proportion."""
        del layer
        return within_equal(family, shape, limit)


EQUAL = Relative()


@dataclass(frozen=True, slots=True)
class Joint(Relative):
    """For each cost that ``Relative`` offers, the ranks that are predicted to err least.

    Families with nothing to predict (of one rank, above all) get ``Relative``.

    Attributes:
        weights: The weights, and what their errors are judged by.
    """

    weights: WeightMath

    def grid(self, layer: str, family: Family, shape: LayerShape) -> Iterable[Fractions]:
        """Give the best for each cost, and the cheapest in proportion, for budgets that need it."""
        equal = equal_fractions(family, shape)
        limits = [family.cost(shape, family.relative(shape, one[0])).macs for one in equal]
        found = self._predicted(layer, family, shape, limits)
        if found is None:
            return equal
        ranks = dict.fromkeys(one for one in found if one is not None)
        return (equal[-1], *(_fractions(family, shape, one) for one in ranks))

    def within(self, layer: str, family: Family, shape: LayerShape, limit: int) -> Ranks | None:
        """Give the ranks that are predicted to err least."""
        found = self._predicted(layer, family, shape, [limit])
        return within_equal(family, shape, limit) if found is None else found[0]

    def _predicted(
        self, layer: str, family: Family, shape: LayerShape, limits: list[int]
    ) -> tuple[Ranks | None, ...] | None:
        weight, covariance = self.weights.weight(layer), self.weights.whitening(layer)
        return family.predicted_within(shape, limits, "macs", weight, covariance)


@dataclass(frozen=True, slots=True)
class Energy(Relative):
    """Per rank, the smallest at which its unfolding loses at most a share of the output's energy.

    Families whose rank is that of no matrix get ``Relative``.

    Attributes:
        weights: The weights, and what their energies are judged by.
    """

    weights: WeightMath

    def grid(self, layer: str, family: Family, shape: LayerShape) -> Iterable[Fractions]:
        """Give the ranks for shares from 1/200 on, and rank 1, whatever the energies."""
        if not family.has_unfoldings:
            return equal_fractions(family, shape)
        weight, covariance = self.weights.weight(layer), self.weights.whitening(layer)
        energies = spectra(family, weight, covariance)
        found = [tuple(energy_rank(one, 1 - lost) for one in energies) for lost in _LOST]
        found.append((1,) * len(energies))
        settled = dict.fromkeys(family.settle(shape, ranks) for ranks in found)
        return [_fractions(family, shape, ranks) for ranks in settled]


@dataclass(frozen=True, slots=True)
class Evbmf(Relative):
    """The ranks that stand out of the noise of the weight: the search decides only where.

    Families whose rank is that of no matrix are not on offer.

    Attributes:
        weights: The weights.
    """

    weights: WeightMath

    def grid(self, layer: str, family: Family, shape: LayerShape) -> Iterable[Fractions]:
        """Give the one choice that there is."""
        if not family.has_unfoldings:
            return ()
        ranks = evbmf_ranks(family, shape, self.weights.weight(layer))
        return (_fractions(family, shape, ranks),)


def rank_rule(name: str, weights: WeightMath) -> RankRule:
    """Give a rule.

    Args:
        name: One of ``RANK_RULES``.
        weights: The weights, and what errors are judged by.
    """
    if name == "joint":
        return Joint(weights)
    if name == "energy":
        return Energy(weights)
    return Evbmf(weights) if name == "evbmf" else EQUAL


def unmeasured_rule(name: str, weights: WeightMath) -> RankRule:
    """Give a rule whose cheapest ranks are on a rule's menu too, whatever the covariances.

    Args:
        name: One of ``RANK_RULES``.
        weights: The weights alone, without covariances.
    """
    return rank_rule("relative" if name == "joint" else name, weights)


def _fractions(family: Family, shape: LayerShape, ranks: Ranks) -> Fractions:
    full = family.full_ranks(shape)
    return tuple(rank / most for rank, most in zip(ranks, full, strict=True))
