"""What was found about the units: harms as curves, and the harm of whatever is on the menu."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lissom.methods.menu import RankOption
from lissom.methods.units import Unit
from lissom.search.curves import HarmCurve


@dataclass(frozen=True, slots=True)
class HarmWeights:
    """What harms are multiplied by before they are added to those of decompositions.

    Attributes:
        prune: Those of pruning.
        drop: Those of dropping residual branches.
    """

    prune: float = 1.0
    drop: float = 1.0


@dataclass(frozen=True, slots=True)
class Sensitivities:
    """Measured harm of every unit by family, and of every layer by its output error.

    Attributes:
        curves: Per unit and family, harm over the removed fraction.
        layer_curves: Per layer, harm of its decomposition over its relative output error.
        noise: Typical standard error of a harm.
        forwards: Forward passes that the naive way would take, and that were run instead.
        prune_harm: Gives the harm of keeping certain channels of a unit.
        rank_harm: Gives the harm of a rank option of a layer.
        agreement: Per other estimator its rank correlation with these harms, by family and over
            ``all``; None where there is nothing to rank.
        drop_harms: Per residual branch that may go, by name, the harm of dropping it.
    """

    curves: Mapping[str, Mapping[str, HarmCurve]]
    layer_curves: Mapping[str, HarmCurve]
    noise: float
    forwards: Mapping[str, float]
    prune_harm: Callable[[Unit, tuple[int, ...]], float]
    rank_harm: Callable[[str, RankOption], float]
    agreement: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    drop_harms: Mapping[str, float] = field(default_factory=dict)

    def weighing(self, weights: HarmWeights) -> Sensitivities:
        """Give the same with the harms of pruning, and of dropping branches, multiplied."""
        prune = weights.prune
        drops = {name: weights.drop * harm for name, harm in self.drop_harms.items()}
        if prune == 1:
            return replace(self, drop_harms=drops)
        curves = {
            unit: {f: c.times(prune) if f == "prune" else c for f, c in families.items()}
            for unit, families in self.curves.items()
        }
        harm = self.prune_harm
        return replace(
            self,
            curves=curves,
            prune_harm=lambda *what: prune * harm(*what),
            drop_harms=drops,
        )

    @property
    def summary(self) -> str:
        """Say how many forward passes were saved."""
        naive, run = self.forwards["naive"], self.forwards["run"]
        if naive == 0:
            return "sensitivities: none had to be measured"
        return (
            f"sensitivities: {naive:,.0f} forward passes measured by running {run:,.1f} "
            f"({naive - run:,.0f} saved, {run / naive:.2f} of the naive cost)"
        )

    def by_layer(
        self, units: Sequence[Unit]
    ) -> dict[str, dict[str, tuple[tuple[float, float], ...]]]:
        """Give the points of the unit's curves for each of its layers."""
        return {
            layer: {family: curve.points for family, curve in self.curves[unit.name].items()}
            for unit in units
            for layer in unit.members
        }
