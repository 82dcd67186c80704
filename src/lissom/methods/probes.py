"""What is tried on each unit to measure its sensitivity to each family at the same removed cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

from torch import Tensor

from lissom.extension import ModelView
from lissom.methods.importance import kept_at
from lissom.methods.menu import RankOption, at_removed, resolve
from lissom.methods.rank_rules import EQUAL, RankRule
from lissom.methods.sensitivities import Sensitivities
from lissom.methods.units import Unit
from lissom.methods.weights import WeightMath
from lissom.pruning.cut import admissible_counts
from lissom.search.curves import HarmCurve
from lissom.search.price import Configuration, Pricer
from lissom.sensitivity.agreement import agreement
from lissom.sensitivity.candidate import Candidate, Estimator, Harms

_COUNTS = 64  # of channels, looked at per group for the one nearest to a removed fraction


@dataclass(frozen=True, slots=True)
class Probe:
    """One measurement that is made.

    Attributes:
        unit: Name of the unit.
        family: ``prune`` or ``decompose``.
        layer: The layer that is decomposed, or "" where the unit is pruned.
        asked: Removed fraction that was aimed at.
        removed: What is removed: MACs anywhere in the network / MACs of the unit's producers for
            ``prune``, MACs of the layer / those it had for ``decompose``.
        error: Relative output error of the layer (0 where it is not defined).
        candidate: What to run.
    """

    unit: str
    family: str
    layer: str
    asked: float
    removed: float
    error: float
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Found:
    """What a probe came to.

    Attributes:
        probe: What was tried.
        harm: Its harm.
        error: Standard error of the harm.
    """

    probe: Probe
    harm: float
    error: float


@dataclass(frozen=True, slots=True)
class Probing:
    """Builds the probes of all units, measures them and draws the curves.

    Attributes:
        view: Network, data, task, cache.
        scores: Per unit the importance of its channels, higher = keep.
        families: Decompositions on offer.
        weights: Computes the changed weights.
        pricer: Tells what a cut removes.
        statistics: How the statistics behind the weights were taken, for the cache.
        rule: Tells the ranks that are tried.
        few: Shares of the channels that are left in further cuts, beyond what the fractions remove.
    """

    view: ModelView
    scores: Mapping[str, Tensor]
    families: Sequence[str]
    weights: WeightMath
    pricer: Pricer
    statistics: str = ""
    rule: RankRule = EQUAL
    few: Sequence[float] = (1 / 2, 1 / 4, 1 / 8)
    _removed: dict[tuple[str, tuple[int, ...]], float] = field(default_factory=dict)

    def measure(
        self,
        units: Sequence[Unit],
        fractions: Sequence[float],
        estimator: Estimator,
        others: Mapping[str, Estimator],
    ) -> Sensitivities:
        """Judge every unit in both families at every fraction.

        Args:
            units: The units.
            fractions: Removed fractions x.
            estimator: Tells the harms.
            others: By name, further ones to compare it with; those that would have to measure
                what the first one has measured cost nothing.
        """
        probes = [probe for unit in units for probe in self._probes(unit, fractions)]
        candidates = [probe.candidate for probe in probes]
        harms = estimator.harms(candidates)
        families = [probe.family for probe in probes]
        agreements = {
            name: agreement(families, harms.mean, other.harms(candidates).mean)
            for name, other in others.items()
        }
        return replace(self._sensitivities(units, probes, harms), agreement=agreements)

    def _sensitivities(
        self, units: Sequence[Unit], probes: Sequence[Probe], harms: Harms
    ) -> Sensitivities:
        measured = [Found(*one) for one in zip(probes, harms.mean, harms.error, strict=True)]
        curves = {
            unit.name: {
                family: HarmCurve.through(self._points(unit, family, measured))
                for family in unit.families
            }
            for unit in units
        }
        layer_curves = {
            layer: HarmCurve.through(
                (one.probe.error, one.harm, one.error)
                for one in measured
                if one.probe.layer == layer
            )
            for unit in units
            for layer in unit.layers
        }

        def prune_harm(unit: Unit, kept: tuple[int, ...]) -> float:
            return curves[unit.name]["prune"](self._removed_by(unit, kept))

        @cache  # factorizing is what the search would otherwise spend its time on
        def rank_harm(layer: str, option: RankOption) -> float:
            low_rank = resolve(option, self.pricer.shapes[layer], self.view.round_to)
            if low_rank is None:
                return 0.0
            return layer_curves[layer](self.weights.decomposition_error(layer, low_rank))

        forwards = {"naive": float(harms.forwards), "run": harms.forwards_run}
        return Sensitivities(curves, layer_curves, harms.noise, forwards, prune_harm, rank_harm)

    def _points(
        self, unit: Unit, family: str, measured: Sequence[Found]
    ) -> list[tuple[float, float, float]]:
        """Give the (removed fraction, harm, error) of a unit, one per fraction that was asked for.

        Layers of one unit are decomposed one at a time and their harms added, as the search adds
        them: all producers of a residual stream at once would harm more than their sum, and the
        unit would look worse than the many single units beside it whose harms are added, too.
        Their errors are added as well: all were measured on the same images.
        """
        own = [one for one in measured if (one.probe.unit, one.probe.family) == (unit.name, family)]
        total = max(unit.cost.macs, 1)
        points = []
        for asked in dict.fromkeys(one.probe.asked for one in own):
            parts = [one for one in own if one.probe.asked == asked]
            gone = sum(one.probe.removed * self._macs(unit, one.probe) for one in parts)
            harm, error = sum(one.harm for one in parts), sum(one.error for one in parts)
            points.append((gone / total, harm, error))
        return points

    def _macs(self, unit: Unit, probe: Probe) -> int:
        """Give the MACs that a probe's removed fraction refers to."""
        return self.view.graph.layer(probe.layer).cost.macs if probe.layer else unit.cost.macs

    def _probes(self, unit: Unit, fractions: Sequence[float]) -> list[Probe]:
        probes = self._prune_probes(unit, fractions) if unit.group is not None else []
        for layer in unit.layers:  # what a layer's factors have in common is kept for the next
            singles = (self._rank_probe(unit, layer, x) for x in dict.fromkeys(fractions))
            probes.extend(probe for probe in singles if probe is not None)
        return probes

    def _prune_probes(self, unit: Unit, fractions: Sequence[float]) -> list[Probe]:
        """Cut to the counts whose removed fractions come nearest to those asked, and far beyond.

        Channels take MACs from their readers, too, so that much more may go than the unit's own:
        what is beyond the fractions is tried at halves of the channels.
        """
        group = unit.group
        assert group is not None
        counts = [n for n in admissible_counts(group, 1) if n < group.channels]
        counts = counts[:: max(1, len(counts) // _COUNTS)]
        cuts = {n: kept_at(group, self.scores[unit.name], n) for n in counts}
        removed = {n: self._removed_by(unit, cuts[n]) for n in counts}
        chosen = (
            {min(counts, key=lambda n: abs(removed[n] - x)): x for x in dict.fromkeys(fractions)}
            if counts
            else {}
        )
        least = min(chosen, default=0)
        for share in self.few:
            n = min(counts, key=lambda n: abs(n - share * group.channels), default=least)
            if n < least:
                chosen[n] = removed[n]
        return [
            Probe(unit.name, "prune", "", x, removed[n], 0.0, self._cut_candidate(unit, cuts[n]))
            for n, x in sorted(chosen.items(), reverse=True)
        ]

    def _cut_candidate(self, unit: Unit, kept: tuple[int, ...]) -> Candidate:
        group = unit.group
        assert group is not None
        removed = self._removed_by(unit, kept)
        overrides = self.weights.pruned({group.name: kept})
        if group.exact and overrides:
            return Candidate(unit.name, "prune", removed, overrides, recipe=self._recipe(kept))
        configuration = Configuration({group.name: kept})
        rebuild = partial(self.weights.built, configuration)
        return Candidate(unit.name, "prune", removed, overrides, rebuild, self._recipe(kept))

    def _recipe(self, what: object) -> str:
        return f"{what} {self.weights.recipe} {self.statistics}"

    def _rank_probe(self, unit: Unit, layer: str, x: float) -> Probe | None:
        """Decompose one layer at a removed fraction, in the family that errs least."""
        best: Probe | None = None
        for family in self.families:
            within = partial(self.rule.within, layer)
            found = at_removed(self.pricer.shapes[layer], family, x, within)
            if found is None:
                continue
            low_rank, removed = found
            dense, error = self.weights.judged(layer, low_rank)
            if best is None or error < best.error:
                candidate = Candidate(
                    f"{unit.name}/{layer}",
                    "decompose",
                    removed,
                    {f"{layer}.weight": dense},
                    recipe=self._recipe(low_rank),
                )
                best = Probe(unit.name, "decompose", layer, x, removed, error, candidate)
        return best

    def _removed_by(self, unit: Unit, kept: tuple[int, ...]) -> float:
        key = (unit.name, kept)
        if key not in self._removed:
            plain = self.pricer.price(Configuration()).macs
            cut = self.pricer.price(Configuration({unit.name: kept})).macs
            self._removed[key] = (plain - cut) / max(unit.cost.macs, 1)
        return self._removed[key]
