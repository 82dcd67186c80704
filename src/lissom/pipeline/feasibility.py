"""Can the budget be met at all? Asked before any work is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lissom.errors import BudgetError
from lissom.plan.budget import Budget, Limit, Meaning
from lissom.plan.cost import Cost

MEASURABLE = ("macs", "params")


@dataclass(frozen=True, slots=True)
class FeasibilityRow:
    """One limit of a budget.

    Attributes:
        quantity: ``macs`` or ``params``.
        smallest: The least that the method can reach.
        now: What the network has.
        asked: The limit.
        text: The limit as the user wrote it.
    """

    quantity: str
    smallest: int
    now: int
    asked: int
    text: str

    @property
    def feasible(self) -> bool:
        """Tell whether the limit can be reached."""
        return self.smallest <= self.asked


@dataclass(frozen=True, slots=True)
class Feasibility:
    """Smallest reachable, now and asked, for each limit.

    Attributes:
        method: Whose menu it is.
        rows: One per limit.
    """

    method: str
    rows: tuple[FeasibilityRow, ...]

    def check(self) -> None:
        """Refuse what can't be reached.

        Raises:
            BudgetError: Names the best reachable value of the first limit that is out of reach.
        """
        for row in self.rows:
            if not row.feasible:
                raise BudgetError(
                    f"budget: {row.quantity}={row.text} asks for {row.asked:,} of {row.now:,}; "
                    f"the smallest that {self.method} can reach is {row.smallest:,} "
                    f"({row.quantity}={row.smallest / row.now:.3f}). Allow more, "
                    "set round_to=1, or ignore fewer layers"
                )

    @property
    def table(self) -> str:
        """Give the table as text."""
        lines = [f"{'budget':<10}{'smallest':>14}{'now':>16}{'asked':>16}"]
        lines += [
            f"{row.quantity:<10}{row.smallest:>14,}{row.now:>16,}{row.asked:>16,}"
            for row in self.rows
        ]
        return "\n".join(lines)


def feasibility(method: str, budget: Budget, now: Cost, smallest: Cost) -> Feasibility:
    """Compare a budget with what a method can reach.

    Args:
        method: Name of the method.
        budget: What is asked.
        now: Cost of the original network.
        smallest: The least that the method can reach, per quantity.

    Raises:
        BudgetError: The budget limits nothing that this method can be held to.
    """
    given: Mapping[str, Mapping[str, object]] = budget.to_dict()
    for quantity in given:
        if quantity not in MEASURABLE:
            raise BudgetError(
                f"budget: a limit on {quantity} is not offered yet: {method} can be held to "
                f"{' and '.join(MEASURABLE)}; give macs=0.5 or params=0.5 instead"
            )
    limits = budget.limits(now)
    empty = next((name for name in limits if not getattr(now, name)), None)
    if empty is not None:
        raise BudgetError(
            f"budget: the network has no {empty} to limit; expected one with convolutions or "
            "linear layers"
        )
    rows = tuple(
        FeasibilityRow(
            quantity,
            getattr(smallest, quantity),
            getattr(now, quantity),
            limit,
            str(given[quantity]["text"]),
        )
        for quantity, limit in limits.items()
    )
    if not rows:
        raise BudgetError("the budget is empty; give macs=0.5, params=0.5, or both")
    return Feasibility(method, rows)


def stage_budgets(budget: Budget, original: Cost, stages: int) -> tuple[Budget, ...]:
    """Divide the way to a budget among stages: each leaves the same fraction of the one before.

    After stage k of n, original^(1 - k/n) * limit^(k/n) may remain; the last one meets the budget.

    Args:
        budget: What is asked of the whole run, relative to the original.
        original: Cost of the original network.
        stages: How many there are, at least 1.

    Returns:
        A budget in absolute numbers for each stage.
    """
    had = {"params": original.params, "macs": original.macs}
    result = []
    for stage in range(1, stages + 1):
        targets = {
            name: round(had[name] * (limit / had[name]) ** (stage / stages))
            for name, limit in budget.limits(original).items()
        }
        absolute = {
            name: Limit(Meaning.ABSOLUTE, float(target), f"{target}")
            for name, target in targets.items()
        }
        result.append(replace(budget, **absolute))
    return tuple(result)
