"""What a method is, and how one from another package is found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lissom.clock import Clock
from lissom.errors import RecipeError
from lissom.graph.layers import ModelGraph
from lissom.plan.budget import Budget
from lissom.plan.cost import Cost
from lissom.plan.plan import Plan
from lissom.task import Data, Task


@dataclass(frozen=True, slots=True)
class StepState:
    """Where a training is, right after an optimizer step.

    Attributes:
        learning_rate: That the step was made with.
        step: From 0.
        steps: Of the whole training.
        optimizer: That made the step; who rescales a parameter rescales its momenta there.
    """

    learning_rate: float
    step: int
    steps: int
    optimizer: torch.optim.Optimizer

    @property
    def progress(self) -> float:
        """Share of the training that is done, in (0, 1]."""
        return (self.step + 1) / self.steps


class Companion(Protocol):
    """What takes part in every step of a training: relaxations and the steering of their budget.

    The training loop calls it; a loop of the user's own calls the same methods at the same places.
    Nothing in ``penalty`` and ``after_step`` may make a GPU wait (no ``.item()``).
    """

    def without_decay(self) -> Iterable[nn.Parameter]:
        """Give the parameters that weight decay must leave alone, besides norms and biases."""

    def learns(self) -> Iterable[nn.Parameter]:
        """Give the parameters that it steps itself, which the loop's optimizer leaves alone.

        ``after_step`` finds their gradients, and clears them.
        """

    def penalty(self) -> Tensor | None:
        """Give a scalar to be added to the loss of the coming step, or None."""

    def after_step(self, step: StepState) -> bool:
        """Edit stored tensors after an optimizer step (proximal step, gauge, annealing).

        Returns:
            Whether the function jumped, so that averages of the weights over time start anew.
        """

    def after_average(self) -> None:
        """Restore what averaging the weights over time broke (exact zeros)."""

    def status(self) -> str:
        """Give one phrase for the progress line; called every few dozen steps."""

    def scalars(self) -> Mapping[str, float]:
        """Give the values that the history and the logs keep of each epoch."""

    def state_dict(self) -> dict[str, Tensor]:
        """Give everything but the network's own tensors that an exact resume needs."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state_dict``'s output."""


class Trainer(Protocol):
    """How a method trains: with the run's settings, teacher and checkpoint."""

    def __call__(
        self, model: nn.Module, companion: Companion, *, rate_factor: float = 1.0
    ) -> Mapping[str, Any]:
        """Train a network in place.

        Args:
            model: The network.
            companion: Takes part in every step.
            rate_factor: Multiplies the run's learning rate, 0.004 where none is set.

        Returns:
            The history, JSON-ready.
        """


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
        train: For a method that learns; None in a preview.
        score: Gives the task's metric on the test set; for the report alone, never for a choice.
        recalibrate: Takes the statistics of batch norms anew, in place, as recovery does; gives
            what was tried, JSON-ready, None where there was nothing to do. None in a preview.
        original: The network that the whole run starts from, against which losses are counted;
            None: ``model`` is it.
        base: Plan that led to the network: together with a proposal's, the plan of the file to be.
            None where it is not known.
        clock: Tells times; None: there is none.
        allow_slower: Whether to decide what the clock does not pay for, where that saves something
            else.
        device: Where networks are judged on held-out data; as in ``TrainSettings``.
        later: Stand-ins for decisions of later stages, for who counts the file's bytes, or None.
        limited: Quantities that the budget limits: what may be done at all can depend on them.
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
    train: Trainer | None = None
    score: Callable[[nn.Module], float] | None = None
    recalibrate: Callable[[nn.Module], Mapping[str, Any] | None] | None = None
    original: nn.Module | None = None
    base: Plan | None = None
    clock: Clock | None = None
    allow_slower: bool = False
    device: str = "cpu"
    later: Plan | None = None
    limited: frozenset[str] = frozenset()


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
        training: History of the training that the method did itself, or None. Recovery then only
            recalibrates.
        settled: Whether every value is as it must stay: neither recovery nor recalibration follows.
        above: Why the network is above the budget, for a method that aims at none, or that finds
            out when others have trained; "" where it is within.
    """

    plan: Plan
    values: Mapping[str, Tensor]
    predicted: Cost
    labels: Mapping[str, str] = field(default_factory=dict)
    sensitivities: Mapping[str, Mapping[str, tuple[tuple[float, float], ...]]] = field(
        default_factory=dict
    )
    evidence: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] | None = None
    settled: bool = False
    above: str = ""


class Method(Protocol):
    """A method: it looks at a network, may train a relaxed copy of it, and decides.

    Attributes:
        name: What ``--method`` calls it.
        trains: Whether ``plan`` trains; a preview then stops at the feasibility table.
        limits: Quantities of a budget that it can be held to; ``limits_of`` reads them, also where
            a method has none.
        finishes: Optional, True for a method that decides how the network of those before it is
            written: it comes last, and needs no limit of its own after them.
        in_int8: Optional, True for a method after which the network runs in int8: those before it
            are then timed in int8.
        keeps_levels: Optional, True for one that finishes and leaves levels of weights as they are.
        tuning: Optional, options that were set and have no effect where it keeps levels.
        foreseen: Optional, takes a view, gives a plan of as many bytes as its decisions to come.
        check_time: Optional, takes a view and a limit on latency, raises ``BudgetError`` where the
            view's network misses it as this method writes it: asked before the stages before it.
        from_scratch: Optional, True for a method that starts without trained weights: there is then
            nothing to distil from unless a teacher is given.
        epochs: Optional, takes the run's epochs and gives those of this method's training, where
            it does with fewer.
    """

    name: str
    trains: bool
    limits: frozenset[str]

    def smallest(self, view: ModelView) -> Cost:
        """Give the smallest cost on the menu, per unit of cost, without any measurement."""

    def plan(self, view: ModelView, budget: Budget) -> Proposal:
        """Decide.

        Raises:
            BudgetError: Nothing on the menu meets the budget.
        """


COUNTS = frozenset({"macs", "params"})
"""What a method can be held to unless it says otherwise."""


def limits_of(method: Method | type) -> frozenset[str]:
    """Give the quantities of a budget that a method can be held to."""
    return frozenset(getattr(method, "limits", COUNTS))


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
