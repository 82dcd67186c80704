"""Can the budget be met at all? Asked before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from lissom.errors import BudgetError
from lissom.extension import Method, ModelView
from lissom.methods.catalog import METHODS
from lissom.pipeline.finishing import EXAMPLES, check_last, facing, finishes, held_by, writers_of
from lissom.plan.budget import Budget, Limit, Meaning
from lissom.plan.cost import Cost

_BEFORE = 0.9  # of a limit on quality that two stages keep, for the first
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
    methods: Sequence[Method], budget: Budget, now: Cost, smallest: Callable[[int], Cost]
) -> Feasibility:
    """Compare a budget with what the stages can reach.

    Of a quantity that the first stage can be held to, every stage that can is asked for the least
    that it reaches at once, and the best answer counts.

    Args:
        methods: One per stage.
        budget: What is asked.
        now: Cost of the original network.
        smallest: Gives the least that a stage can reach on that network, per quantity, by its
            number.

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
    known = held_by(methods[0]) & asked.keys()
    costs = [
        (method, smallest(stage))
        for stage, method in enumerate(methods)
        if stage == 0 or known & held_by(method)
    ]
    least = {
        name: min(_least(cost)[name] for method, cost in costs if name in held_by(method))
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


def reach(methods: Sequence[Method], budget: Budget, view: ModelView) -> Callable[[int], Cost]:
    """Give what tells the least that a stage can reach at once, by its number.

    Args:
        methods: One per stage.
        budget: What is asked of the whole run: what a stage may do depends on its own part of it.
        view: Of the original network.
    """

    def smallest(stage: int) -> Cost:
        target = stage_budgets(budget, view.graph.cost, methods)[stage]
        return methods[stage].smallest(facing(view, methods[stage + 1 :], target))

    return smallest


def stage_budgets(budget: Budget, original: Cost, methods: Sequence[Method]) -> tuple[Budget, ...]:
    """Divide the way to a budget among stages: each leaves the same fraction of the one before.

    A stage is given the limits that it can be held to. After stage k of the n that share a
    quantity, original^(1 - k/n) * limit^(k/n) may remain; the last one meets the limit. The last
    stage that can be held to ``max_drop`` has all of it; one before it that chooses the levels
    which it keeps has nine tenths, so that something is left for its rounding. All of ``latency``
    has the last stage that changes structure, and one that finishes the network behind it.

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
        sharing = [one for one, method in enumerate(methods) if name in held_by(method)]
        for step, stage in enumerate(sharing, start=1):
            value = round(had[name] * (limit / had[name]) ** (step / len(sharing)))
            text = f"{value}B" if name == "size" else f"{value}"
            targets[stage][name] = Limit(Meaning.ABSOLUTE, float(value), text)
    for stage, drop in _drops(budget, methods):
        targets[stage]["max_drop"] = drop
    if budget.latency is not None:
        for stage in _timed(methods):
            targets[stage]["latency"] = budget.latency
    return tuple(Budget(**target) for target in targets)


def _drops(budget: Budget, methods: Sequence[Method]) -> Iterator[tuple[int, Limit]]:
    """Give the limits on quality, by stage."""
    limit = budget.max_drop
    if limit is None:
        return
    able = _able("max_drop", methods)
    writing = [one for one in able if one >= len(methods) - len(writers_of(methods))]
    for stage in writing or able[-1:]:
        yield stage, limit if stage == able[-1] else _less(limit)


def _timed(methods: Sequence[Method]) -> Iterator[int]:
    """Give the stages that are held to the whole limit on latency."""
    able = _able("latency", methods)
    yield from [stage for stage in able if not finishes(methods[stage])][-1:]
    yield from (stage for stage in able if finishes(methods[stage]))


def _able(quantity: str, methods: Sequence[Method]) -> list[int]:
    return [place for place, method in enumerate(methods) if quantity in held_by(method)]


def _less(limit: Limit) -> Limit:
    value = _BEFORE * limit.value
    return replace(limit, value=value, text=f"{value:.6g}")


def _check_held(methods: Sequence[Method], budget: Budget) -> None:
    given = budget.to_dict()
    if not given:
        raise BudgetError(
            "the budget is empty; give macs=0.5, params=0.5, size=25x, latency=0.5 or max_drop=1.0"
        )
    for quantity in given:
        if not any(quantity in held_by(method) for method in methods):
            raise _not_held(quantity, methods)
    check_last(methods)
    for method in methods:
        after_others = finishes(method) and len(methods) > 1
        if not held_by(method) & given.keys() and not after_others:
            raise BudgetError(
                f"budget: {budget} limits nothing that {method.name} can be held to; give "
                f"{_examples(method)}, too, or leave {method.name} out"
            )


def _not_held(quantity: str, methods: Sequence[Method]) -> BudgetError:
    able = sorted(name for name, method in METHODS.items() if quantity in held_by(method))
    means = [f"{one.name} can be held to {_listed(sorted(held_by(one)))}" for one in methods]
    others = (
        f"{_listed(able)} can: for example --method {able[0]} --budget {EXAMPLES[quantity]}"
        if able
        else f"no method can be held to {quantity}; give {_examples(methods[0])} instead"
    )
    return BudgetError(
        f"budget: a limit on {quantity} is not offered here: {', '.join(means)}; {others}"
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _examples(method: Method) -> str:
    return " or ".join(EXAMPLES[name] for name in sorted(held_by(method)))


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
