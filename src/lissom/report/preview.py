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


def layout(graph: ModelGraph, proposal: Proposal | None) -> RenderableType:
    """Give what rich prints.

    Args:
        graph: The original network.
        proposal: What the method decided; None if it learns that in training.
    """
    if proposal is None:
        return Text("The method decides while it trains: what it would do is not known before.")
    table = plain_table()
    table.add_column("layer", overflow="fold")
    table.add_column("group")
    table.add_column("MACs now", justify="right")
    for name, group in proposal.labels.items():
        table.add_row(name, group, figures.count(graph.layer(name).cost.macs))
    kinds = Counter(decision.kind for decision in proposal.plan.decisions)
    planned = ", ".join(f"{number} {kind}" for kind, number in kinds.items()) or "nothing"
    return Group(
        Text("Groups", style="bold"),
        table,
        Text(f"\nDecisions: {planned}."),
        Text(f"Predicted, not measured: {_both(graph.cost, proposal.predicted)}."),
    )


def _both(now: Cost, then: Cost) -> str:
    macs = figures.arrow(figures.count(now.macs), figures.count(then.macs))
    params = figures.arrow(figures.count(now.params), figures.count(then.params))
    return f"MACs {macs}, parameters {params}"
