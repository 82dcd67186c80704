"""Can the budget be met at all? Asked before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lissom.errors import BudgetError
from lissom.extension import Method, limits_of
from lissom.methods.catalog import METHODS
from lissom.plan.budget import Budget, Limit, Meaning
from lissom.plan.cost import Cost

_EXAMPLES = {
    "macs": "macs=0.5",
    "params": "params=0.5",
    "size": "size=25x",
    "latency": "latency=0.5",
    "max_drop": "max_drop=1.0",
}
_MEASURED = ("latency", "max_drop")  # what only the run can tell, and one stage alone answers for


@dataclass(frozen=True, slots=True)
class FeasibilityRow:
    """One limit of a budget.

    Attributes:
        quantity: ``macs``, ``params``, ``size`` (bytes), ``latency`` (milliseconds, or a fraction
            of the original's) or ``max_drop`` (points).
        smallest: The least that a method can reach at once; None where only the run will tell.
        now: What the network has; of ``size`` its parameters as float32, of what only the run can
            tell None.
        asked: The limit.
        text: The limit as the user wrote it.
    """

    quantity: str
    smallest: int | None
    now: int | None
    asked: float
    text: str

    @property
    def feasible(self) -> bool:
        """Tell whether nothing speaks against the limit."""
        return self.smallest is None or self.smallest <= self.asked


@dataclass(frozen=True, slots=True)
class Feasibility:
    """Smallest reachable, now and asked, for each limit.

    Attributes:
        method: Whose menu it is; of several stages, the names of those that were asked.
        rows: One per limit.
        smallest: The least that the first stage can reach, per quantity, limited or not.
    """

    method: str
    rows: tuple[FeasibilityRow, ...]
    smallest: Cost

    def check(self) -> None:
        """Refuse what can't be reached.

        Raises:
            BudgetError: Names the best reachable value of the first limit that is out of reach.
        """
        for row in self.rows:
            if row.smallest is None or row.feasible:
                continue
            counted = row.quantity != "size"
            raise BudgetError(
                f"budget: {row.quantity}={row.text} asks for {row.asked:,} of {row.now:,}; "
                f"the smallest that {self.method} can reach is {row.smallest:,} "
                f"({row.quantity}={row.smallest / (row.now or 1):.3f}). Allow more, "
                + ("set round_to=1, " if counted else "")
                + "or ignore fewer layers"
            )

    @property
    def table(self) -> str:
        """Give the table as text."""
        lines = [f"{'budget':<10}{'smallest':>14}{'now':>16}{'asked':>16}"]
        lines += [
            f"{row.quantity:<10}{_text(row.smallest):>14}{_text(row.now):>16}{_text(row.asked):>16}"
            for row in self.rows
        ]
        return "\n".join(lines)


def feasibility(
    methods: Sequence[Method], budget: Budget, now: Cost, smallest: Callable[[Method], Cost]
) -> Feasibility:
    """Compare a budget with what the stages can reach.

    Of a quantity that the first stage can be held to, every stage that can is asked for the least
    that it reaches at once, and the best answer counts.

    Args:
        methods: One per stage.
        budget: What is asked.
        now: Cost of the original network.
        smallest: Gives the least that a method can reach on that network, per quantity.

    Raises:
        BudgetError: A limit is on something that no stage can be held to, or a stage can be held to
            none of them.
    """
    _check_held(methods, budget)
    given = budget.to_dict()
    asked, had = _amounts(budget, now), _of(now)
    empty = next((name for name in asked if not had[name]), None)
    if empty is not None:
        raise BudgetError(
            f"budget: the network has no {empty} to limit; expected one with convolutions or "
            "linear layers"
        )
    # What a later stage alone can be held to depends on what the earlier ones leave.
    known = _held(methods[0]) & asked.keys()
    first, *others = methods
    costs = [(first, smallest(first))]
    costs += [(method, smallest(method)) for method in others if known & _held(method)]
    least = {
        name: min(_least(cost)[name] for method, cost in costs if name in _held(method))
        for name in known
    }
    rows = [
        FeasibilityRow(name, least.get(name), had[name], limit, str(given[name]["text"]))
        for name, limit in asked.items()
    ]
    measured = {name: getattr(budget, name) for name in _MEASURED}
    rows += [
        FeasibilityRow(name, None, None, limit.value, limit.text)
        for name, limit in measured.items()
        if limit is not None
    ]
    names = " or ".join(dict.fromkeys(method.name for method, _ in costs))
    return Feasibility(names, tuple(rows), costs[0][1])


def stage_budgets(budget: Budget, original: Cost, methods: Sequence[Method]) -> tuple[Budget, ...]:
    """Divide the way to a budget among stages: each leaves the same fraction of the one before.

    A stage is given the limits that it can be held to. After stage k of the n that share a
    quantity, original^(1 - k/n) * limit^(k/n) may remain; the last one meets the limit. The last
    stage that can be held to ``latency`` or ``max_drop`` has all of it; so has one that chooses
    levels which the last one keeps.

    Args:
        budget: What is asked of the whole run, relative to the original.
        original: Cost of the original network.
        methods: One per stage.

    Returns:
        A budget in absolute numbers for each stage.
    """
    had = _of(original)
    targets: list[dict[str, Limit]] = [{} for _ in methods]
    for name, limit in _amounts(budget, original).items():
        sharing = [one for one, method in enumerate(methods) if name in _held(method)]
        for step, stage in enumerate(sharing, start=1):
            value = round(had[name] * (limit / had[name]) ** (step / len(sharing)))
            text = f"{value}B" if name == "size" else f"{value}"
            targets[stage][name] = Limit(Meaning.ABSOLUTE, float(value), text)
    for name in _MEASURED:
        able = [one for one, method in enumerate(methods) if name in _held(method)]
        limit = getattr(budget, name)
        writers = [one for one in able if one >= len(methods) - len(_writers(methods))]
        for stage in writers or able[-1:]:
            if limit is not None:
                targets[stage][name] = limit
    return tuple(Budget(**target) for target in targets)


def _held(method: Method | type) -> frozenset[str]:
    return limits_of(method) & _EXAMPLES.keys()


def _check_held(methods: Sequence[Method], budget: Budget) -> None:
    given = budget.to_dict()
    if not given:
        raise BudgetError(
            "the budget is empty; give macs=0.5, params=0.5, size=25x, latency=0.5 or max_drop=1.0"
        )
    for quantity in given:
        if not any(quantity in _held(method) for method in methods):
            raise _not_held(quantity, methods)
    _check_last(methods)
    if "size" in given and not any("size" in _held(one) for one in _writers(methods)):
        last = next(one.name for one in reversed(methods) if "size" in _held(one))
        raise BudgetError(
            f"budget: what comes after {last} changes the values that make the file small; for a "
            f"limit on size put {last} last"
        )
    for method in methods:
        after_others = _finishes(method) and len(methods) > 1
        if not _held(method) & given.keys() and not after_others:
            raise BudgetError(
                f"budget: {budget} limits nothing that {method.name} can be held to; give "
                f"{_examples(method)}, too, or leave {method.name} out"
            )


def _check_last(methods: Sequence[Method]) -> None:
    """Refuse stages around one that finishes the network."""
    *before, last = methods
    for method in before:
        if _finishes(method):
            raise BudgetError(
                f"stages: {method.name} decides how the network of the stages before it is "
                "written, and what follows would change that network; put it last"
            )
        if _finishes(last) and "size" in _held(method) and not _keeps_levels(last):
            raise BudgetError(
                f"stages: {last.name} with weight_bits would round the levels that {method.name} "
                "has chosen for the size of the file; leave weight_bits out (--bits "
                "activations=8): then they stay, and compute in int8"
            )


def _writers(methods: Sequence[Method]) -> Sequence[Method]:
    """Give the methods after which nothing changes the values of the weights."""
    last = methods[-1]
    return methods[-2:] if _finishes(last) and _keeps_levels(last) else (last,)


def _keeps_levels(method: Method) -> bool:
    return getattr(method, "keeps_levels", False)


def _finishes(method: Method) -> bool:
    return getattr(method, "finishes", False)


def _not_held(quantity: str, methods: Sequence[Method]) -> BudgetError:
    able = sorted(name for name, method in METHODS.items() if quantity in _held(method))
    means = [f"{one.name} can be held to {_listed(sorted(_held(one)))}" for one in methods]
    others = (
        f"{_listed(able)} can: for example --method {able[0]} --budget {_EXAMPLES[quantity]}"
        if able
        else f"no method can be held to {quantity}; give {_examples(methods[0])} instead"
    )
    return BudgetError(
        f"budget: a limit on {quantity} is not offered here: {', '.join(means)}; {others}"
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _examples(method: Method) -> str:
    return " or ".join(_EXAMPLES[name] for name in sorted(_held(method)))


def _amounts(budget: Budget, original: Cost) -> dict[str, int]:
    """Give the limits on what is counted, in absolute numbers."""
    size = budget.bytes_limit(original)
    return budget.limits(original) | ({} if size is None else {"size": size})


def _of(cost: Cost) -> dict[str, int]:
    return {"params": cost.params, "macs": cost.macs, "size": cost.float_bytes}


def _least(cost: Cost) -> dict[str, int]:
    return _of(cost) | {"size": -(-cost.bits // 8)}


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:,}"
