"""One row of the report per layer: what became of it, in numbers and in words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from lissom.extension import Proposal
from lissom.graph.layers import LayerSpec, ModelGraph
from lissom.plan.cost import Cost
from lissom.plan.decision import Decision
from lissom.plan.drop_residual import DropResidual
from lissom.plan.keep_channels import KeepChannels
from lissom.plan.low_rank import ChannelSVD, Factorization
from lissom.plan.merge import Merge
from lissom.plan.predict import BITS_PER_PARAMETER
from lissom.plan.quantize import Quantize
from lissom.plan.sparse_plus import SparsePlusSVD
from lissom.report.report import LayerRow, LayerState

_DROPPED = "dropped with its residual branch"
_FAMILIES = frozenset({"prune", "decompose", "both"})


@dataclass(frozen=True, slots=True)
class _Factors:
    decision: Factorization | None = None
    merged: bool = False  # back into one layer


def layer_rows(
    original: ModelGraph,
    compressed: ModelGraph,
    proposals: Sequence[Proposal],
    weights: Mapping[str, int],
) -> list[LayerRow]:
    """Give one row per layer of the original, with what became of it.

    Args:
        original: What the original network is made of.
        compressed: What the new one is made of, measured on itself.
        proposals: What each step decided, in order; units and sensitivities are the first's.
        weights: Values in the weight of each layer of the new one.
    """
    first = proposals[0]
    after = _by_original(original, compressed)
    # The plan may begin with decisions of earlier runs, which made what is the original here.
    decisions = [one for proposal in proposals for one in proposal.plan.decisions]
    cut, factors = _cut_layers(decisions), _factors(decisions)
    levels = {one.layer: one for one in decisions if isinstance(one, Quantize)}
    units = {
        layer: unit["name"] for unit in first.evidence.get("units", ()) for layer in unit["layers"]
    }
    dropped = _dropped(original, decisions)
    groups = _groups(original, proposals)
    rows = []
    for spec in original.layers:
        of_layer = factors.get(spec.name) or factors.get(_parent(spec.name), _Factors())
        parts = after.get(spec.name, [])
        rows.append(
            LayerRow(
                name=spec.name,
                kind=spec.kind,
                before=_state([spec], _Factors()),
                after=_quantized(_state(parts, of_layer), parts, levels, weights),
                unit=units.get(spec.name, ""),
                group=groups.get(spec.name, "") if spec.cost.macs else "",
                decision=_DROPPED
                if spec.name in dropped
                else _decision_text(spec, parts, of_layer, cut, levels),
                sensitivities=first.sensitivities.get(spec.name, {}),
            )
        )
    return rows


def _by_original(original: ModelGraph, compressed: ModelGraph) -> dict[str, list[LayerSpec]]:
    """Give, per layer of the original, the layers that stand in its place."""
    names = [layer.name for layer in original.layers]
    found: dict[str, list[LayerSpec]] = {}
    for layer in compressed.layers:
        name = _origin(layer.name, names)
        if name not in names:  # merged from layers of the original: in the place of the first
            name = next((one for one in names if _parent(one) == layer.name), name)
        found.setdefault(name, []).append(layer)
    return found


def _groups(original: ModelGraph, proposals: Sequence[Proposal]) -> dict[str, str]:
    """Give each layer's group: what all steps together did to it and its parts."""
    names = [layer.name for layer in original.layers]
    found: dict[str, list[str]] = {}
    for proposal in proposals:
        for name, label in proposal.labels.items():
            found.setdefault(_origin(name, names), []).append(label)
    return {name: _joined(labels) for name, labels in found.items()}


def _joined(labels: Sequence[str]) -> str:
    done = [label for label in labels if label not in ("", "keep")]
    if not done:
        return "keep" if "keep" in labels else ""
    if "drop" in done:
        return "drop"
    return "both" if set(done) > {done[0]} and set(done) <= _FAMILIES else done[0]


def _origin(name: str, names: Collection[str]) -> str:
    """Give the layer of the original that ``name`` is or is a part of."""
    while name not in names and "." in name:
        name = _parent(name)
    return name


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _state(parts: Sequence[LayerSpec], factors: _Factors) -> LayerState:
    cost = sum((part.cost for part in parts), Cost())
    ranks: tuple[int | None, int | None] = (None, None)
    decision = None if factors.merged else factors.decision
    if decision is not None:
        both = len(decision.ranks) > 1 and not isinstance(decision, SparsePlusSVD)
        ranks = (decision.ranks[0] if both else None, decision.ranks[-1])
    if not parts or not parts[0].cost.macs or not parts[0].input_shape:
        return LayerState(cost, None, None, *ranks)
    axis = -1 if parts[0].kind == "linear" else 0
    inputs = sum(part.input_shape[axis] for part in _readers(parts, decision))
    outputs = parts[-1].output_shape[axis]
    return LayerState(cost, inputs, outputs, *ranks)


def _readers(parts: Sequence[LayerSpec], decision: Factorization | None) -> list[LayerSpec]:
    """Give the parts that share the layer's input channels: the first, or those of a sum."""
    if not isinstance(decision, SparsePlusSVD):
        return [parts[0]]
    sides = (f"{decision.layer}.{side}" for side in ("sparse", "first"))
    return [next(part for part in parts if part.name.startswith(side)) for side in sides]


def _quantized(
    state: LayerState,
    parts: Sequence[LayerSpec],
    levels: Mapping[str, Quantize],
    weights: Mapping[str, int],
) -> LayerState:
    """Add bits and density of the parts that are quantized."""
    found = [levels[part.name] for part in parts if part.name in levels]
    if not found:
        return state
    nonzero = sum(one.nonzero for one in found)
    count = sum(weights[one.layer] for one in found)
    cost = state.cost
    bits = cost.bits - BITS_PER_PARAMETER * count + sum(one.bits * one.nonzero for one in found)
    return replace(
        state,
        cost=replace(cost, bits=bits),
        weight_bits=max(one.bits for one in found),
        density=nonzero / count,
    )


def _decision_text(
    spec: LayerSpec,
    parts: Sequence[LayerSpec],
    factors: _Factors,
    cut: Collection[str],
    levels: Mapping[str, Quantize],
) -> str:
    words = []
    if parts and spec.cost.macs and spec.name in cut:
        before, after = _state([spec], _Factors()), _state(parts, _Factors())
        words += [
            f"{side} channels {old}→{new}"
            for side, old, new in (
                ("input", before.in_channels, after.in_channels),
                ("output", before.out_channels, after.out_channels),
            )
            if old != new
        ]
    elif spec.name in cut:
        words.append("cut with the layers around it")
    if factors.decision is not None:
        words.append(_low_rank_text(spec, factors.decision, factors))
    elif factors.merged:
        words.append("merged into one layer")
    bits = [str(levels[part.name].bits) for part in parts if part.name in levels]
    if bits:
        words.append(f"quantized to {'/'.join(bits)} bits")
    return ", ".join(words)


def _low_rank_text(spec: LayerSpec, decision: Factorization, factors: _Factors) -> str:
    words = f"{decision.kind} {'/'.join(map(str, decision.ranks))}"
    # The cost of a layer that runs at several sizes does not tell the sizes of its matrix.
    if isinstance(decision, ChannelSVD) and factors.merged and spec.calls == 1:
        words += f" of {_full_rank(spec)}"
    return f"{words}, merged into one layer" if factors.merged else words


def _full_rank(spec: LayerSpec) -> int:
    """Give the smaller side of the weight as a matrix (out, in * kH * kW)."""
    outputs = spec.output_shape[-1 if spec.kind == "linear" else 0]
    return min(outputs, spec.cost.macs // prod(spec.output_shape))


def _factors(decisions: Iterable[Decision]) -> dict[str, _Factors]:
    """Give, per decomposed layer, the last decomposition and whether it was merged after."""
    found: dict[str, _Factors] = {}
    for decision in decisions:
        if isinstance(decision, Factorization):
            found[decision.layer] = _Factors(decision)
        elif isinstance(decision, Merge):
            found[decision.layer] = replace(found.get(decision.layer, _Factors()), merged=True)
    return found


def _dropped(original: ModelGraph, decisions: Iterable[Decision]) -> set[str]:
    """Name the layers of the original that went with a residual branch."""
    names = [layer.name for layer in original.layers]
    return {
        _origin(layer, names)
        for one in decisions
        if isinstance(one, DropResidual)
        for layer in (*one.layers, one.last)
    }


def _cut_layers(decisions: Iterable[Decision]) -> set[str]:
    """Name the layers of which a tensor was cut."""
    return {
        _parent(name)
        for decision in decisions
        if isinstance(decision, KeepChannels)
        for axis_cut in decision.cuts
        for name, _ in axis_cut.axes
    }
