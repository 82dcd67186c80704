"""What a method is, and how one from another package is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from lissom.errors import RecipeError
from lissom.graph.layers import ModelGraph
from lissom.plan.budget import Budget
from lissom.plan.cost import Cost
from lissom.plan.plan import Plan
from lissom.task import Data, Task


@dataclass(frozen=True, slots=True)
class ModelView:
    """Everything that a method may look at.

    Attributes:
        model: A private copy in eval mode; a method must not change it.
        graph: What it is made of.
        example_inputs: Inputs of batch 1.
        task: Gives inputs, loss and distance.
        data: A method reads ``calibration`` and ``held_out``, never ``test``.
        ignore: Layers whose output channels and rank stay as they are.
        round_to: Alignment of channels and ranks: ``auto``, or an integer (1 = free).
        cache: Folder for results that outlive the run (sensitivities), or None.
        seed: For anything drawn at random.
        say: Takes one line of text for the user.
    """

    model: nn.Module
    graph: ModelGraph
    example_inputs: tuple[Tensor, ...]
    task: Task
    data: Data
    ignore: frozenset[str] = frozenset()
    round_to: int | str = "auto"
    cache: Path | None = None
    seed: int = 0
    say: Callable[[str], None] = lambda _line: None


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a method decided.

    Attributes:
        plan: Structure.
        values: State-dict entries of the new network that are not slices of the old one's.
        predicted: Cost that the new network should have.
        labels: Per layer the group that it was put in (``prune``, ``decompose``, ``both``,
            ``keep``), or "" for a layer without a choice of its own.
        sensitivities: Per layer and family the measured (removed fraction, harm) points.
        evidence: Anything else for the report, JSON-ready.
    """

    plan: Plan
    values: Mapping[str, Tensor]
    predicted: Cost
    labels: Mapping[str, str] = field(default_factory=dict)
    sensitivities: Mapping[str, Mapping[str, tuple[tuple[float, float], ...]]] = field(
        default_factory=dict
    )
    evidence: Mapping[str, Any] = field(default_factory=dict)


class Method(Protocol):
    """A method that selects: it looks at a network and decides.

    Attributes:
        name: What ``--method`` calls it.
    """

    name: str

    def smallest(self, view: ModelView) -> Cost:
        """Give the smallest cost on the menu, per unit of cost, without any measurement."""

    def plan(self, view: ModelView, budget: Budget) -> Proposal:
        """Decide.

        Raises:
            BudgetError: Nothing on the menu meets the budget.
        """


def find_method(name: str, built_in: Mapping[str, type]) -> type:
    """Give the method class called ``name``, built-in or a ``lissom.methods`` entry point.

    Raises:
        RecipeError: No such method.
    """
    if name in built_in:
        return built_in[name]
    installed = entry_points(group="lissom.methods")
    for point in installed:
        if point.name == name:
            return point.load()
    known = ", ".join(sorted({*built_in, *installed.names}))
    raise RecipeError(f"method: {name!r} is not known; choose one of {known}")
