"""HMC's grouping: which unit is pruned, decomposed, both or kept, by its sensitivity to each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from lissom.methods.units import Unit
from lissom.search.curves import HarmCurve

Curves = Mapping[str, HarmCurve]  # by family


@dataclass(frozen=True, slots=True)
class Rule:
    """How differences of sensitivity become labels.

    Attributes:
        variant: ``hmc`` (all four groups), ``nahc`` (``both`` stays empty) or ``ahc`` (all in
            ``both``).
        tau: Half width of ``both`` in nats of log harm; None: a quarter of the median |difference|.
        keep_above: A unit whose smaller mean harm per MAC exceeds this many times the median
            unit's is kept.
    """

    variant: str
    tau: float | None
    keep_above: float


def differences(
    units: Sequence[Unit],
    curves: Mapping[str, Curves],
    fractions: Mapping[str, Sequence[float]],
    noise: float,
) -> dict[str, float]:
    """Give d = mean_x [log(S_decompose + eps) - log(S_prune + eps)] of units with both families.

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
        own = curves[unit.name]
        logs = [
            math.log(own["decompose"](x) + noise) - math.log(own["prune"](x) + noise)
            for x in fractions[unit.name]
        ]
        result[unit.name] = sum(logs) / len(logs)
    return result


def labels_of(
    units: Sequence[Unit],
    difference: Mapping[str, float],
    harm: Mapping[str, float],
    rule: Rule,
) -> dict[str, str]:
    """Put every unit in ``prune``, ``decompose``, ``both`` or ``keep``.

    d > tau: prune; d < -tau: decompose; |d| <= tau: both; a unit that harms too much either way:
    keep. A unit that only one family can do gets that one.

    Args:
        units: The units.
        difference: From ``differences``.
        harm: Per unit the smaller of its two mean harms, per MAC of its producers: units differ in
            size, and the same fraction of a large one saves more.
        rule: Variant and thresholds.
    """
    tau = threshold(difference, rule)
    typical = median(harm.values()) if harm else 0.0
    labels = {}
    for unit in units:
        too_harmful = harm.get(unit.name, 0.0) > rule.keep_above * typical
        if not unit.families or (too_harmful and rule.variant != "ahc"):
            labels[unit.name] = "keep"
        elif len(unit.families) == 1:
            labels[unit.name] = unit.families[0]
        elif rule.variant == "ahc" or abs(difference[unit.name]) <= tau:
            labels[unit.name] = "both"
        else:
            labels[unit.name] = "prune" if difference[unit.name] > 0 else "decompose"
    return labels


def threshold(difference: Mapping[str, float], rule: Rule) -> float:
    """Give tau: negative for ``nahc``, so that no unit falls within it."""
    if rule.variant == "nahc":
        return -1.0
    if rule.tau is not None:
        return rule.tau
    return 0.25 * median(abs(d) for d in difference.values()) if difference else 0.0
