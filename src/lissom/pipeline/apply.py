"""From a proposal to the network that it describes, which must be as small as was asked."""

from __future__ import annotations

from torch import nn

from lissom.errors import BudgetError
from lissom.extension import Method, Proposal
from lissom.graph.layers import ModelGraph
from lissom.packed.network import packed_network, stored_state
from lissom.packed.writer import PackedFile
from lissom.plan.budget import Budget
from lissom.plan.build import apply_values, build
from lissom.plan.plan import Plan
from lissom.plan.quantize import Quantize


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


def packed_file(network: nn.Module, plan: Plan, limit: int | None) -> PackedFile | None:
    """Give the packed file of a network of levels; refuse one that is larger than was asked for.

    Args:
        network: The finished network.
        plan: All decisions that led to it.
        limit: The most bytes that the file may have; None where that was not asked.

    Returns:
        None where nothing is quantized and nothing was asked: the file would hardly be smaller.

    Raises:
        BudgetError: The file has more bytes than ``limit``.
    """
    quantized = any(isinstance(decision, Quantize) for decision in plan.decisions)
    if limit is None and not quantized:
        return None
    packed = packed_network(stored_state(network), plan)
    found = len(packed.content)
    if limit is not None and found > limit:
        raise BudgetError(
            f"the file of the network that was decided on has {found:,} bytes, above the budget of "
            f"{limit:,}; this is a defect of the method: please report it with the network and the "
            "recipe"
        )
    return packed
