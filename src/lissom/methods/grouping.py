"""HMC's grouping: which unit is pruned, decomposed, both or kept, by its sensitivity to each."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from statistics import fmean, median

from lissom.lowrank.families import BY_NAME
from lissom.methods.menu import FAMILIES
from lissom.methods.units import Unit
from lissom.plan.sparse_plus import SparsePlusSVD
from lissom.search.curves import HarmCurve

Curves = Mapping[str, HarmCurve]  # by family

SUM = "ahc_sum"
VARIANTS = ("hmc", "nahc", "ahc", SUM)
ALONE = ("prune_only", "decompose_only")  # to compare with
RULES = ("tau", "three_means")
GROUPS = ("measured", "random", "inverted")
_OTHER = {"prune": "decompose", "decompose": "prune"}


@dataclass(frozen=True, slots=True)
class Rule:
    """How differences of sensitivity become labels.

    Attributes:
        variant: ``hmc`` (all four groups), ``nahc`` (``both`` stays empty), ``ahc`` (all in
            ``both``) or ``ahc_sum`` (all in ``decompose``); what only one family can do gets that
            one.
        tau: Half width of ``both`` in nats of log harm; None: a quarter of the median |difference|.
        keep_above: A unit whose smaller mean harm per MAC exceeds this many times the median
            unit's is kept.
        name: ``tau``, or ``three_means``: the borders lie between the clusters of the differences.
        standard_errors: A difference of at most so many of its standard errors is noise, and its
            unit goes to ``both``.
    """

    variant: str
    tau: float | None
    keep_above: float
    name: str = "tau"
    standard_errors: float = 0.0


@dataclass(frozen=True, slots=True)
class Difference:
    """How much more decomposing a unit harms than pruning it.

    Attributes:
        value: d, in nats of log harm; above 0 pruning harms less.
        error: Standard error of d over the calibration batches.
    """

    value: float
    error: float = 0.0


def restricted(units: Sequence[Unit], variant: str) -> tuple[Unit, ...]:
    """Give the units with what a variant may do to them; without it a unit is left out."""
    if variant == "prune_only":
        units = [replace(unit, layers=()) for unit in units]
    if variant in ("decompose_only", SUM):
        units = [replace(unit, group=None) for unit in units]
    return tuple(unit for unit in units if unit.families)


def decompositions(variant: str) -> tuple[str, ...]:
    """Name the decompositions that a variant offers by itself; ``ahc_sum`` is one of them alone."""
    return (SparsePlusSVD.kind,) if variant == SUM else FAMILIES


def choosable(variant: str) -> tuple[str, ...]:
    """Name the decompositions that a variant can be asked to offer."""
    others = tuple(name for name in BY_NAME if name != SparsePlusSVD.kind)
    return decompositions(variant) if variant == SUM else others


def differences(
    units: Sequence[Unit],
    curves: Mapping[str, Curves],
    fractions: Mapping[str, Sequence[float]],
    noise: float,
) -> dict[str, Difference]:
    """Give d = mean_x [log(S_decompose + eps) - log(S_prune + eps)] of units with both families.

    Its error follows from those of the curves to first order; the errors at different x go
    together, since all x are measured on the same images, those of the families do not.

    Args:
        units: The units.
        curves: Per unit and family its harm curve.
        fractions: Per unit the removed fractions x to average over.
        noise: eps, the batch noise.
    """
    result = {}
    for unit in units:
        if len(unit.families) < 2:
            continue
        decompose, prune = (curves[unit.name][family] for family in ("decompose", "prune"))
        values, errors = [], []
        for x in fractions[unit.name]:
            values.append(math.log(decompose(x) + noise) - math.log(prune(x) + noise))
            relative = (one.error(x) / (one(x) + noise) for one in (decompose, prune))
            errors.append(math.hypot(*relative))
        result[unit.name] = Difference(fmean(values), fmean(errors))
    return result


def labels_of(
    units: Sequence[Unit],
    difference: Mapping[str, Difference],
    harm: Mapping[str, float],
    rule: Rule,
) -> dict[str, str]:
    """Put every unit in ``prune``, ``decompose``, ``both`` or ``keep``.

    Above the borders: prune; below: decompose; between them, or where the difference is within its
    noise: both; a unit that harms too much either way: keep. A unit that only one family can do
    gets that one.

    Args:
        units: The units.
        difference: From ``differences``.
        harm: Per unit the smaller of its two mean harms, per MAC of its producers: units differ in
            size, and the same fraction of a large one saves more.
        rule: Variant and thresholds.
    """
    low, high = borders([d.value for d in difference.values()], rule)
    typical = median(harm.values()) if harm else 0.0
    labels = {}
    for unit in units:
        too_harmful = harm.get(unit.name, 0.0) > rule.keep_above * typical
        if not unit.families or (too_harmful and rule.variant != "ahc"):
            labels[unit.name] = "keep"
        elif len(unit.families) == 1:
            labels[unit.name] = unit.families[0]
        else:
            labels[unit.name] = _label(difference[unit.name], (low, high), rule)
    return labels


def _label(d: Difference, limits: tuple[float, float], rule: Rule) -> str:
    if rule.variant == "nahc":
        return "prune" if d.value > 0 else "decompose"
    doubtful = abs(d.value) <= rule.standard_errors * d.error
    if rule.variant == "ahc" or doubtful or limits[0] <= d.value <= limits[1]:
        return "both"
    return "prune" if d.value > limits[1] else "decompose"


def borders(differences: Sequence[float], rule: Rule) -> tuple[float, float]:
    """Give the least and the greatest difference of a unit in ``both``.

    With ``three_means`` the cluster that lies nearest to 0 is ``both``, and the borders lie halfway
    to its neighbours; a side without a neighbour has its border at infinity. A cluster keeps the
    sign of its mean: where pruning is better everywhere, none is decomposed.

    Args:
        differences: d of all units with both families.
        rule: Name, and tau.
    """
    if rule.name == "three_means":
        means = [fmean(cluster) for cluster in three_means(differences)]
        if not means:
            return 0.0, 0.0
        middle = min(range(len(means)), key=lambda i: abs(means[i]))
        outer = [-math.inf, *means, math.inf]
        return (outer[middle] + means[middle]) / 2, (means[middle] + outer[middle + 2]) / 2
    tau = rule.tau
    if tau is None:
        tau = 0.25 * median(abs(d) for d in differences) if differences else 0.0
    return -tau, tau


def three_means(values: Sequence[float]) -> tuple[tuple[float, ...], ...]:
    """Cluster numbers around three means, with the least sum of squared distances there is.

    All ways of cutting the sorted numbers are compared, so that no start has to be chosen.

    Args:
        values: Any numbers.

    Returns:
        At most three clusters, ascending; fewer where there are fewer different values.
    """
    ordered = sorted(values)
    starts = [i for i in range(len(ordered)) if i == 0 or ordered[i] != ordered[i - 1]]
    if len(starts) <= 3:
        cuts = [*starts, len(ordered)]
    else:
        spread = _spread_of(ordered)
        first, second = min(
            ((i, j) for place, i in enumerate(starts[1:], 1) for j in starts[place + 1 :]),
            key=lambda cut: spread(0, cut[0]) + spread(*cut) + spread(cut[1], len(ordered)),
        )
        cuts = [0, first, second, len(ordered)]
    return tuple(tuple(ordered[a:b]) for a, b in pairwise(cuts))


def _spread_of(ordered: Sequence[float]) -> Callable[[int, int], float]:
    """Give the sum of squared distances from the mean of any stretch of sorted numbers."""
    centre = fmean(ordered)  # small sums of squares would drown in those of a far mean
    sums = [0.0, *accumulate(v - centre for v in ordered)]
    squares = [0.0, *accumulate((v - centre) ** 2 for v in ordered)]

    def spread(start: int, end: int) -> float:
        return squares[end] - squares[start] - (sums[end] - sums[start]) ** 2 / (end - start)

    return spread


def control_labels(
    units: Sequence[Unit], labels: Mapping[str, str], groups: str, seed: int
) -> dict[str, str]:
    """Give the labels of a control: as many of each, but not where the sensitivities put them.

    Only units of one layer that both families can do take part; the others keep theirs: a residual
    stream holds so much of the network that the label which it is dealt decides all.

    Args:
        units: The units.
        labels: As grouped by sensitivity.
        groups: ``random``: dealt out anew; ``inverted``: prune and decompose change places;
            ``measured``: as they are.
        seed: For ``random``.
    """
    free = [u.name for u in units if len(u.families) == 2 and len(u.members) == 1]
    dealt = [labels[name] for name in free]
    if groups == "random":
        random.Random(seed).shuffle(dealt)
    if groups == "inverted":
        dealt = [_OTHER.get(label, label) for label in dealt]
    return {**labels, **dict(zip(free, dealt, strict=True))}
