"""What lissom could do to each layer of a network, as values and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lissom.graph.layers import LayerSpec, ModelGraph, Refusal
from lissom.plan.cost import Cost
from lissom.report import figures
from lissom.report.encoding import plain
from lissom.report.terminal import plain_table

ACTIONS = ("prune", "decompose", "quantize")


@dataclass(frozen=True, slots=True)
class Finding:
    """One layer and what is offered for it.

    Attributes:
        layer: The facts.
        refused: Per action that is not offered the refusal.
    """

    layer: LayerSpec
    refused: dict[str, Refusal]

    @property
    def has_matrix(self) -> bool:
        """Tell whether the layer is a convolution or linear, the kinds that methods work on."""
        return self.is_convolution or self.layer.kind == "linear"

    @property
    def is_convolution(self) -> bool:
        """Tell whether the layer is a convolution of any kind."""
        return self.layer.kind.startswith("conv")


@dataclass(frozen=True, slots=True)
class Inspection:
    """All layers of a network.

    Attributes:
        source: Where the network comes from.
        findings: One per layer, in execution order.
        shares: Per action, and for ``prune or decompose``, the share of the convolutions' MACs that
            lie in layers for which it is offered; empty for a network without convolutions.
        cost: Of the whole network.
        groups: Number of channel groups that can be cut, and of those that can't.
        notes: Remarks on the whole network.
    """

    source: str
    findings: tuple[Finding, ...]
    shares: dict[str, float]
    cost: Cost
    groups: tuple[int, int]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Give everything in JSON types."""
        return {
            "source": self.source,
            "params": self.cost.params,
            "macs": self.cost.macs,
            "convolution_mac_shares": plain(self.shares),
            "groups": {"prunable": self.groups[0], "frozen": self.groups[1]},
            "layers": [_finding_to_dict(finding) for finding in self.findings],
            "notes": list(self.notes),
        }


def inspection(source: str, graph: ModelGraph) -> Inspection:
    """Sort what ``graph`` says by layer.

    Args:
        source: Name of the network, for the heading.
        graph: As captured.
    """
    refused: dict[str, dict[str, Refusal]] = {}
    for refusal in graph.refusals:
        refused.setdefault(refusal.layer, {})[refusal.action] = refusal
    findings = tuple(Finding(layer, refused.get(layer.name, {})) for layer in graph.layers)
    frozen = sum(group.frozen_because is not None for group in graph.groups)
    return Inspection(
        source=source,
        findings=findings,
        shares=_shares(findings),
        cost=graph.cost,
        groups=(len(graph.groups) - frozen, frozen),
        notes=graph.notes,
    )


def layout(found: Inspection) -> RenderableType:
    """Give what rich prints."""
    parts: list[RenderableType] = [Text(found.source, style="bold"), _layers(found)]
    for action in ACTIONS:
        why = _refusals(found.findings, action)
        if why is not None:
            parts += [Text(f"\nNot offered: {action}", style="bold"), why]
    return Group(*parts, Text(), Text(_summary(found)))


def _shares(findings: Iterable[Finding]) -> dict[str, float]:
    convolutions = [finding for finding in findings if finding.is_convolution]
    total = sum(finding.layer.cost.macs for finding in convolutions)
    if not total:
        return {}
    offered = {
        action: sum(one.layer.cost.macs for one in convolutions if action not in one.refused)
        for action in ACTIONS
    }
    either = sum(
        one.layer.cost.macs
        for one in convolutions
        if not {"prune", "decompose"} <= set(one.refused)
    )
    return {name: macs / total for name, macs in (offered | {"prune or decompose": either}).items()}


def _finding_to_dict(finding: Finding) -> dict[str, Any]:
    offers = {
        action: {"offered": True}
        if refusal is None
        else {
            "offered": False,
            "reason": refusal.reason,
            "where": refusal.where,
            "remedy": refusal.remedy,
        }
        for action in ACTIONS
        for refusal in (finding.refused.get(action),)
    }
    layer = plain(finding.layer)
    cost = layer.pop("cost")
    return layer | {"params": cost["params"], "macs": cost["macs"]} | offers


def _layers(found: Inspection) -> Table:
    table = plain_table()
    table.add_column("layer", overflow="fold", max_width=36)
    table.add_column("kind")
    for name in ("input", "output", "params", "MACs"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("prune", "decomp.", "quant."):
        table.add_column(name, no_wrap=True)
    for finding in found.findings:
        layer = finding.layer
        table.add_row(
            layer.name,
            layer.kind,
            *(_shape(shape) for shape in (layer.input_shape, layer.output_shape)),
            figures.count(layer.cost.params),
            figures.count(layer.cost.macs),
            *(_mark(finding, action) for action in ACTIONS),
        )
    table.add_section()
    total = (figures.count(found.cost.params), figures.count(found.cost.macs))
    table.add_row("network", "", "", "", *total, "", "", "", style="bold")
    return table


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape) or figures.NONE


def _mark(finding: Finding, action: str) -> Text:
    if action not in finding.refused:
        return Text("yes", style="green")
    return Text("no" if finding.has_matrix else figures.NONE, style="dim")


def _refusals(findings: Iterable[Finding], action: str) -> Table | None:
    reasons: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        if action in finding.refused:
            refusal = finding.refused[action]
            reasons.setdefault((refusal.reason, refusal.remedy), []).append(finding)
    if not reasons:
        return None
    table = plain_table()
    table.add_column("layers", overflow="fold", max_width=40)
    table.add_column("why, and what to change", overflow="fold")
    for (reason, remedy), members in reasons.items():
        places = Counter(one.refused[action].where for one in members if one.refused[action].where)
        where = f" (at {', '.join(places)})" if places else ""
        why = f"{reason}{where}" + (f". {remedy[:1].upper()}{remedy[1:]}" if remedy else "")
        table.add_row(_named(members), why)
    return table


def _named(members: Sequence[Finding]) -> str:
    """Name the layers; only count those whose kind no method works on (the table has them all)."""
    kinds = Counter(one.layer.kind for one in members if not one.has_matrix)
    names = [one.layer.name for one in members if one.has_matrix]
    return ", ".join([*names, *(f"{number} x {kind}" for kind, number in kinds.items())])


def _summary(found: Inspection) -> str:
    lines = [f"{found.groups[0]} channel groups can be cut, {found.groups[1]} cannot."]
    if found.shares:
        parts = ", ".join(f"{name} {100 * share:.1f} %" for name, share in found.shares.items())
        lines.append(f"Of the convolutions' MACs: {parts}.")
    return "\n".join([*lines, *(f"Note: {note}" for note in found.notes)])
