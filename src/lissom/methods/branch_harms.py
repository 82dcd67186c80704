"""What it harms to drop residual branches: measured on whole networks, one after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from lissom.extension import ModelView
from lissom.graph.branches import Branch, residual_branches
from lissom.progress import meter
from lissom.search.price import Configuration, Pricer

_AGAIN = 3  # branches that are measured anew after each drop
_LEAST = 1e-9  # harm of the branch that saves most


def droppable(view: ModelView) -> tuple[Branch, ...]:
    """Find the branches of a network that may go: none with an ignored layer.

    Args:
        view: The network.
    """
    found = residual_branches(view.model, view.example_inputs)
    return tuple(branch for branch in found if not view.ignore.intersection(branch.layers))


def savings(branches: Sequence[Branch], pricer: Pricer) -> dict[str, int]:
    """Give what dropping each branch saves: nanoseconds if the pricer has a clock, else MACs."""

    def cost(*dropped: Branch) -> int:
        price = pricer.price(Configuration(dropped=dropped))
        return price.nanoseconds or price.macs

    return {branch.name: cost() - cost(branch) for branch in branches}


def drop_harms(
    branches: Sequence[Branch], saved: Mapping[str, int], harm: Callable[[Configuration], float]
) -> dict[str, float]:
    """Judge branches on a way that drops ever more of them, the least harm per saving first.

    Harms of several branches do not add. So a branch gets the harm that it adds to those before it
    on the way, at no lower a price per saving than theirs: a search that adds such harms begins at
    the start of the way, and the sum over any first part of it is what was measured together, or
    more. After each drop the three that looked best are measured anew. No branch is free.

    Args:
        branches: To be judged.
        saved: By name, what dropping a branch saves.
        harm: Measures networks; infinite for one that is broken.

    Returns:
        Harm by the branch's name, in the order of the way.

    Source:
        Minoux, Optimization Techniques, 1978 (lazy greedy).
    """
    harms: dict[str, float] = {}
    # Of what harms nothing a search would drop all, whatever the limit.
    steepest = _LEAST / max([1, *saved.values()])
    with meter("residual branches", len(branches)) as bar:
        for name, added in _way(branches, saved, harm):
            saving = max(saved[name], 1)
            steepest = max(steepest, added / saving)
            harms[name] = steepest * saving
            bar.advance()
    return harms


def dropped_labels(branches: Collection[Branch]) -> dict[str, str]:
    """Give the label of the layers in branches that went."""
    return {layer: "drop" for branch in branches for layer in branch.layers}


def _way(
    branches: Sequence[Branch], saved: Mapping[str, int], harm: Callable[[Configuration], float]
) -> Iterator[tuple[str, float]]:
    """Yield the branches in the order in which they go, with the harm that each adds."""
    left = {branch.name: branch for branch in branches}
    added: dict[str, float] = {}
    gone: list[Branch] = []
    reached = harm(Configuration()) if branches else 0.0  # of batch norms that are taken anew

    def price(name: str) -> float:
        return added.get(name, 0.0) / max(saved[name], 1)

    while left:
        nearest = sorted(left, key=price)[: _AGAIN if added else None]
        for name in nearest:
            together = harm(Configuration(dropped=(*gone, left[name])))
            fine = math.isfinite(together) and math.isfinite(reached)
            added[name] = max(together - reached, 0.0) if fine else math.inf
        taken = min(nearest, key=price)
        gone.append(left.pop(taken))
        reached += added[taken]
        yield taken, added[taken]
