"""Stages that finish a network: what may come before them, and what they leave as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lissom.errors import BudgetError
from lissom.extension import Method, ModelView, limits_of
from lissom.plan.budget import Budget, Limit
from lissom.train.processes import Processes

EXAMPLES = {
    "macs": "macs=0.5",
    "params": "params=0.5",
    "size": "size=25x",
    "latency": "latency=0.5",
    "max_drop": "max_drop=1.0",
}
"""Of a budget, by quantity."""


def held_by(method: Method | type) -> frozenset[str]:
    """Give the quantities of a budget that a method can be held to."""
    return limits_of(method) & EXAMPLES.keys()


def check_last(methods: Sequence[Method]) -> None:
    """Refuse stages whose work a later one would undo.

    Raises:
        BudgetError: Names both.
    """
    *before, last = methods
    for method in before:
        if finishes(method):
            raise BudgetError(
                f"stages: {method.name} decides how the network of the stages before it is "
                "written, and what follows would change that network; put it last"
            )
        if finishes(last) and "size" in held_by(method) and not _keeps_levels(last):
            raise BudgetError(
                f"stages: {last.name} with weight_bits or reduce_range would round the levels that "
                f"{method.name} has chosen for the size of the file; leave both out (--bits "
                "activations=8): then they stay, and compute in int8"
            )
        if "size" in held_by(method) and method not in writers_of(methods):
            raise BudgetError(
                f"stages: what comes after {method.name} changes the values that make the file "
                f"small; put {method.name} last, or right before int8"
            )
    tuning = getattr(last, "tuning", ())
    if tuning and keeps(methods):
        raise BudgetError(
            f"stages: {', '.join(tuning)} of {last.name} would have no effect after "
            f"{before[-1].name}, whose levels are final, so that nothing is tuned; leave it out"
        )


def keeps(methods: Sequence[Method]) -> bool:
    """Tell whether the last method keeps the levels that the one before it chooses."""
    *before, _last = writers_of(methods)
    return any("size" in held_by(one) for one in before)


def facing(view: ModelView, after: Sequence[Method], budget: Budget) -> ModelView:
    """Give a view with what is limited, and, where the file's bytes are, with later decisions.

    Args:
        view: Of the network that a stage starts from.
        after: The methods of the stages after it.
        budget: Of the stage.
    """
    view = replace(view, limited=frozenset(budget.to_dict()))
    foreseeing = [one.foreseen for one in after if hasattr(one, "foreseen")]
    if budget.size is None or not foreseeing:
        return view
    plans = Processes.here().from_first(lambda: [one(view) for one in foreseeing])
    return replace(view, later=sum(plans[1:], plans[0]))


def check_time(view: ModelView, methods: Sequence[Method], limit: Limit | None) -> None:
    """Refuse a limit on latency that the finished network will miss, before anything is trained.

    Only where no stage before the last changes what takes time: else nobody knows yet.

    Args:
        view: Of the network that the run starts from.
        methods: One per stage.
        limit: On latency; None: nothing is asked.

    Raises:
        BudgetError: The network takes longer than that as the last stage will write it.
    """
    *before, last = methods
    check = getattr(last, "check_time", None)
    if limit is None or check is None or not before:
        return
    if not any({"macs", "params", "latency"} & held_by(method) for method in before):
        Processes.here().from_first(lambda: check(view, limit))


def writers_of(methods: Sequence[Method]) -> Sequence[Method]:
    """Give the methods after which nothing changes the values of the weights."""
    last = methods[-1]
    return methods[-2:] if finishes(last) and _keeps_levels(last) else (last,)


def _keeps_levels(method: Method) -> bool:
    return getattr(method, "keeps_levels", False)


def finishes(method: Method) -> bool:
    """Tell whether a method decides how the network of those before it is written."""
    return getattr(method, "finishes", False)
