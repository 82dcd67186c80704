"""What HMC says of its decision: labels of layers, and what they rest on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lissom.graph.branches import Branch
from lissom.graph.layers import ModelGraph
from lissom.methods.sensitivities import Sensitivities
from lissom.methods.solving import Solution
from lissom.methods.space import KEEP
from lissom.methods.units import Unit
from lissom.search.price import Configuration, Pricer


def layer_labels(
    graph: ModelGraph, units: Sequence[Unit], labels: Mapping[str, str]
) -> dict[str, str]:
    """Give each layer its unit's label; "" to layers that only follow others (norms, say)."""
    mine = {layer: labels[unit.name] for unit in units for layer in unit.members}
    alone = {layer.name: KEEP if layer.cost.macs else "" for layer in graph.layers}
    return {name: mine.get(name, label) for name, label in alone.items()}


def evidence_of(solution: Solution, sensitivities: Sensitivities) -> dict[str, object]:
    """Give what the whole decision rests on, JSON-ready."""
    low, high = (border if math.isfinite(border) else None for border in solution.borders)
    return {
        "borders": {"decompose_below": low, "prune_above": high},
        "widened": list(solution.widened),
        "harm": solution.harm,
        "agreement": sensitivities.agreement,
        "noise": sensitivities.noise,
        "forwards": sensitivities.forwards,
    }


def branch_rows(
    branches: Sequence[Branch], harms: Mapping[str, float], pricer: Pricer, taken: Configuration
) -> list[dict[str, object]]:
    """Give a row for each residual branch that could go, in the order they were judged in.

    Args:
        branches: All of them.
        harms: By name, in that order; JSON knows no infinity: null for one that breaks the network.
        pricer: Tells what each saves alone.
        taken: What was decided.
    """
    by_name = {branch.name: branch for branch in branches}
    plain, rows = pricer.price(Configuration()), list[dict[str, object]]()
    for name, harm in harms.items():
        branch = by_name[name]
        saved = plain - pricer.price(Configuration(dropped=(branch,)))
        rows.append(
            {
                "name": name,
                "layers": list(branch.layers),
                "harm": harm if math.isfinite(harm) else None,
                "saves": {
                    "params": saved.params,
                    "macs": saved.macs,
                    "ms": saved.nanoseconds / 1e6,
                },
                "dropped": branch in taken.dropped,
            }
        )
    return rows


def unit_rows(
    units: Sequence[Unit], measured: Solution, solution: Solution, sensitivities: Sensitivities
) -> list[dict[str, object]]:
    """Give a row for each unit, JSON-ready.

    Args:
        units: The units.
        measured: The solution under the labels that the sensitivities gave.
        solution: The one that was taken; of a control it is another.
        sensitivities: With their errors.
    """
    rows: list[dict[str, object]] = []
    for unit in units:
        difference = solution.difference.get(unit.name)
        curves = sensitivities.curves[unit.name]
        rows.append(
            {
                "name": unit.name,
                "layers": list(unit.members),
                "label": solution.groups[unit.name],
                "asked": solution.asked[unit.name],
                "measured": measured.asked[unit.name],
                "difference": None if difference is None else difference.value,
                "difference_error": None if difference is None else difference.error,
                "curves": {family: curve.points for family, curve in curves.items()},
                "errors": {family: curve.errors for family, curve in curves.items()},
            }
        )
    return rows
