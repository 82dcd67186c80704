"""What it harms to drop residual branches: measured on whole networks, one after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

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


def cost_by(pricer: Pricer) -> Callable[[Configuration], int]:
    """Give what counts networks' cost: nanoseconds if the pricer has a clock, else MACs."""
    if pricer.price(Configuration()).nanoseconds:
        return lambda configuration: pricer.price(configuration).nanoseconds
    return lambda configuration: pricer.price(configuration).macs


def drop_harms(
    branches: Sequence[Branch],
    cost: Callable[[Configuration], int],
    harm: Callable[[Configuration], float],
) -> dict[str, float]:
    """Judge branches on a way that drops ever more of them, the least harm per saving first.

    Harms of several branches do not add. So a branch gets the harm that it adds to those before it
    on the way, at no lower a price per saving than theirs: a search under this one limit that adds
    such harms begins at the start of the way, and the sum over any first part of it is what was
    measured together, or more, beyond what batch norms taken anew harm. After each drop the three
    that looked best are measured anew. No branch is free.

    Of branches within one another the outermost that goes stands for all, and that sum counts it
    alone: it has the harm of those within it that went before, and what it adds. One within a
    branch that went adds nothing there; it has the harm that it does alone, or the price that the
    way had reached, whichever is more.

    Args:
        branches: To be judged.
        cost: Gives a network's cost, as ``cost_by``.
        harm: Measures networks; infinite for one that is broken.

    Returns:
        Harm by the branch's name, in the order of the way.

    Source:
        Minoux, Optimization Techniques, 1978 (lazy greedy).
    """
    harms: dict[str, float] = {}
    plain = cost(Configuration())
    alone = [plain - cost(Configuration(dropped=(branch,))) for branch in branches]
    # Of what harms nothing a search would drop all, whatever the limit.
    steepest = _LEAST / max([1, *alone])
    gone: list[Branch] = []
    with meter("residual branches", len(branches)) as bar:
        for branch, step, first in _way(branches, cost, harm):
            if any(_within(branch, other) for other in gone):
                harms[branch.name] = max(steepest * first.saved, first.added)
            else:
                steepest = max(steepest, step.price)
                inner = sum(harms[other.name] for other in _outermost(gone, branch))
                harms[branch.name] = inner + steepest * step.saved
            gone.append(branch)
            bar.advance()
    return harms


def dropped_labels(branches: Collection[Branch]) -> dict[str, str]:
    """Give the label of the layers in branches that went."""
    return {layer: "drop" for branch in branches for layer in branch.layers}


@dataclass(frozen=True, slots=True)
class _Step:
    """What dropping one branch more adds to the harm, and saves: at least 1."""

    added: float
    saved: int

    @property
    def price(self) -> float:
        return self.added / self.saved


def _within(branch: Branch, other: Branch) -> bool:
    return set(branch.layers) < set(other.layers)


def _outermost(branches: Sequence[Branch], around: Branch) -> list[Branch]:
    """List the branches within ``around`` that lie in no other one of these."""
    inner = [branch for branch in branches if _within(branch, around)]
    return [branch for branch in inner if not any(_within(branch, other) for other in inner)]


def _way(
    branches: Sequence[Branch],
    cost: Callable[[Configuration], int],
    harm: Callable[[Configuration], float],
) -> Iterator[tuple[Branch, _Step, _Step]]:
    """Yield the branches in the order in which they go, those that break the network last.

    With each come its step, and the one that it would have been at the start.
    """
    left = {branch.name: branch for branch in branches}
    gone: tuple[Branch, ...] = ()
    reached = harm(Configuration()) if branches else 0.0  # of batch norms that are taken anew

    def step(branch: Branch) -> _Step:
        before, after = Configuration(dropped=gone), Configuration(dropped=(*gone, branch))
        together = harm(after)
        fine = math.isfinite(together) and math.isfinite(reached)
        added = max(together - reached, 0.0) if fine else math.inf
        return _Step(added, max(cost(before) - cost(after), 1))

    steps: dict[str, _Step] = {}

    def price(name: str) -> float:
        return steps[name].price if name in steps else 0.0

    first: dict[str, _Step] = {}
    while left:
        nearest = sorted(left, key=price)[: _AGAIN if steps else None]
        steps |= {name: step(left[name]) for name in nearest}
        first = first or dict(steps)
        taken = min(nearest, key=price)
        if math.isfinite(price(taken)):
            gone = (*gone, left.pop(taken))
            reached += steps[taken].added
            yield gone[-1], steps[taken], first[taken]
        elif all(math.isinf(price(name)) for name in left):
            yield from ((branch, steps[name], first[name]) for name, branch in left.items())
            return
