"""Pick one option per item: least total harm under several limits, prices that do not add."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Choice = tuple[int, ...]
Price = Callable[[Choice], tuple[float, ...]]

_BISECTIONS = 48
_REWEIGHTS = 12
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """What is to be solved.

    Attributes:
        harms: Per item the harm of each option, mild ones first; option 0 leaves the item as it is
            and harms 0.
        price: Gives what a whole choice costs, one number per limit. Pruning one layer makes the
            next cheaper, so prices are asked for choices, never added up.
        limits: What must not be exceeded, in the same units.
    """

    harms: Sequence[Sequence[float]]
    price: Price
    limits: tuple[float, ...]

    def fits(self, choice: Choice) -> bool:
        """Tell whether a choice is within every limit."""
        return all(p <= limit for p, limit in zip(self.price(choice), self.limits, strict=True))

    def harm(self, choice: Choice) -> float:
        """Give the summed harm of a choice."""
        return sum(harms[i] for harms, i in zip(self.harms, choice, strict=True))


def solve(problem: Problem) -> Choice | None:
    """Minimise the summed harm within the limits.

    Each item takes ``argmin harm + nu * cost`` with costs linearised around the choice so far;
    ``nu`` is bisected against the true price. Linearise again at the solution and repeat, then
    spend what is left.

    Args:
        problem: Items, prices and limits.

    Returns:
        One option index per item, or None if no choice that this search can see fits; never one
        of infinite harm.

    Source:
        Everett, "Generalized Lagrange multiplier method", Operations Research 11, 1963.
    """
    start: Choice = (0,) * len(problem.harms)
    if problem.fits(start):
        return start
    end = tuple(len(harms) - 1 for harms in problem.harms)
    best = fill(problem, end) if problem.fits(end) else None
    current = start
    for _ in range(_ROUNDS):
        found = _with_costs(problem, _marginal_costs(problem, current))
        if found is None and current == start:
            # Where much must go, prices around the untouched network mislead; those around the
            # strongest options show what is left to save there.
            found = _with_costs(problem, _marginal_costs(problem, end))
        if found is None:
            break
        found = fill(problem, found)
        best = _milder(problem, best, found)
        if found == current:
            break
        current = found
    return None if best is None or math.isinf(problem.harm(best)) else best


def fill(problem: Problem, choice: Choice) -> Choice:
    """Spend what a fitting choice leaves, the milder option that gains most first."""
    moves = True
    while moves:
        gains = sorted(
            (
                (harms[option] - harms[choice[item]], item, option)
                for item, harms in enumerate(problem.harms)
                for option in range(len(harms))
                if harms[option] < harms[choice[item]]
            ),
        )
        moves = False
        for _gain, item, option in gains:
            changed = _replaced(choice, item, option)
            if problem.fits(changed):
                choice, moves = changed, True
                break
    return choice


def _with_costs(problem: Problem, costs: Sequence[Sequence[tuple[float, ...]]]) -> Choice | None:
    """Search the multipliers: their common size by bisection, their proportions by re-weighting."""
    weights = [1.0] * len(problem.limits)
    best: Choice | None = None
    for _ in range(_REWEIGHTS if len(weights) > 1 else 1):
        choice = _bisect(problem, costs, weights)
        if problem.fits(choice):
            best = _milder(problem, best, choice)
        # The limit that binds gets more weight, one with slack gets less.
        used = [p / limit for p, limit in zip(problem.price(choice), problem.limits, strict=True)]
        weights = [w * math.exp(8 * (u - max(used))) for w, u in zip(weights, used, strict=True)]
    return best


def _bisect(
    problem: Problem, costs: Sequence[Sequence[tuple[float, ...]]], weights: Sequence[float]
) -> Choice:
    """Give the mildest choice that fits or, where none does, the cheapest."""
    scaled = [
        [
            sum(w * c / limit for w, c, limit in zip(weights, cost, problem.limits, strict=True))
            for cost in options
        ]
        for options in costs
    ]

    def choose(nu: float) -> Choice:
        return tuple(
            min(range(len(harms)), key=lambda o: (harms[o] + nu * cost[o], harms[o]))
            for harms, cost in zip(problem.harms, scaled, strict=True)
        )

    low, high = -12.0, 12.0  # of log10 nu: harm per whole budget
    best = choose(10.0**high)
    if not problem.fits(best):
        return best
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        choice = choose(10.0**middle)
        if problem.fits(choice):
            best, high = choice, middle
        else:
            low = middle
    return best


def _marginal_costs(problem: Problem, around: Choice) -> list[list[tuple[float, ...]]]:
    """Give the price of each option of each item while all other items stay at ``around``."""
    return [
        [problem.price(_replaced(around, item, option)) for option in range(len(harms))]
        for item, harms in enumerate(problem.harms)
    ]


def _milder(problem: Problem, one: Choice | None, other: Choice) -> Choice:
    return other if one is None or problem.harm(other) < problem.harm(one) else one


def _replaced(choice: Choice, item: int, option: int) -> Choice:
    return (*choice[:item], option, *choice[item + 1 :])
