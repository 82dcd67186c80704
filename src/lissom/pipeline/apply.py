"""From a proposal to the network that it describes, which must be as small as was asked."""

from __future__ import annotations

from torch import nn

from lissom.errors import BudgetError
from lissom.extension import Method, Proposal
from lissom.graph.layers import ModelGraph
from lissom.plan.budget import Budget
from lissom.plan.build import apply_values, build


def applied(model: nn.Module, proposal: Proposal) -> nn.Module:
    """Give the network that a proposal describes; ``model`` is not changed."""
    network = build(model, proposal.plan)
    apply_values(network, {**network.state_dict(), **proposal.values})
    return network.eval()


def check_counts(method: Method, target: Budget, original: ModelGraph, now: ModelGraph) -> None:
    """Refuse, before any training, a network that is larger than what was asked for.

    Args:
        method: What decided on it.
        target: What the stage was asked for.
        original: The network that the run started from.
        now: The new one, measured on itself.

    Raises:
        BudgetError: It has more MACs or parameters than the budget allows.
    """
    if not target.met(original.cost, now.cost):
        raise BudgetError(
            f"the network that {method.name} decided on was measured at {now.cost.macs:,} MACs and "
            f"{now.cost.params:,} parameters, above the budget {target}; this is a defect of the "
            "method: please report it with the network and the recipe"
        )
