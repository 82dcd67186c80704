"""What a run would do, as text; nothing in it has been measured on a new network."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.text import Text

from lissom.extension import Proposal
from lissom.graph.layers import ModelGraph
from lissom.plan.cost import Cost
from lissom.report import figures
from lissom.report.terminal import plain_table


def layout(
    graph: ModelGraph, proposal: Proposal | None, smallest: Cost | None = None
) -> RenderableType:
    """Give what rich prints.

    Args:
        graph: The original network.
        proposal: What the method decided; None if it learns that in training.
        smallest: The least that the method can reach, per quantity; None if unknown.
    """
    least = "" if smallest is None else _file(graph.cost, smallest)
    smallest_file = [Text(f"Smallest file, all weights zero: {least}.")] if least else []
    if proposal is None:
        told = "The method decides while it trains: what it would do is not known before."
        return Group(*smallest_file, Text(told))
    kinds = Counter(decision.kind for decision in proposal.plan.decisions)
    planned = ", ".join(f"{number} {kind}" for kind, number in kinds.items()) or "nothing"
    size = _file(graph.cost, proposal.predicted)
    return Group(
        *(_groups(graph, proposal) if proposal.labels else ()),
        Text(f"Decisions: {planned}."),
        Text(f"Predicted, not measured: {_both(graph.cost, proposal.predicted)}."),
        *([Text(f"Estimated file: {size}.")] if size else []),
        *smallest_file,
    )


def _groups(graph: ModelGraph, proposal: Proposal) -> tuple[RenderableType, ...]:
    table = plain_table()
    table.add_column("layer", overflow="fold")
    table.add_column("group")
    table.add_column("MACs now", justify="right")
    for name, group in proposal.labels.items():
        table.add_row(name, group, figures.count(graph.layer(name).cost.macs))
    return Text("Groups", style="bold"), table, Text()


def _file(now: Cost, then: Cost) -> str:
    """Write a packed file's bytes; nothing where parameters stay floats of 32 bits."""
    size = -(-then.bits // 8)
    if size >= then.float_bytes:
        return ""
    return f"{size:,} bytes ({figures.ratio(now.float_bytes, size)} smaller)"


def _both(now: Cost, then: Cost) -> str:
    macs = figures.arrow(figures.count(now.macs), figures.count(then.macs))
    params = figures.arrow(figures.count(now.params), figures.count(then.params))
    return f"MACs {macs}, parameters {params}"
