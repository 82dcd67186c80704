"""The steps of a run: its stages, and the iterations of those that go their way in several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lissom.errors import BudgetError, RecipeError
from lissom.extension import COUNTS, Method, ModelView, Proposal, limits_of
from lissom.pipeline.feasibility import feasibility, stage_budgets
from lissom.pipeline.finishing import facing, keeps
from lissom.plan.budget import Budget, Limit, Meaning
from lissom.plan.cost import Cost
from lissom.recipe.iterations import brief_epochs, check_iterations
from lissom.report.measured import StepRow


@dataclass(frozen=True, slots=True)
class Iterated:
    """A method that goes its way in several iterations, with a brief recovery between them.

    Each iteration decides anew, on the network that the one before left and its recovery improved,
    and goes the same fraction of the way that is left.

    Attributes:
        method: What decides; not one that trains in order to do so.
        iterations: How many.
        iteration_epochs: Of the recovery after each but the last, which has all of the run's; None:
            a tenth of those, rounded up.

    Raises:
        RecipeError: A number means nothing, or the method can't be iterated.
    """

    method: Method
    iterations: int = 1
    iteration_epochs: int | None = None

    def __post_init__(self) -> None:
        check_iterations(self.iterations, self.iteration_epochs)
        if self.iterations == 1:
            return
        asked, name = f"iterations={self.iterations}", self.method.name
        if getattr(self.method, "trains", False):
            raise RecipeError(
                f"{asked}: {name} goes its way in a training of its own, step by step already; "
                "drop iterations"
            )
        if not limits_of(self.method) & COUNTS:
            raise RecipeError(
                f"{asked}: the way in several iterations is one to fewer MACs or parameters, and "
                f"{name} can't be held to those; drop iterations"
            )


@dataclass(frozen=True, slots=True)
class Step:
    """One decision and the recovery after it: a stage, or one of its iterations.

    Attributes:
        stage: Number of the stage, from 0.
        method: What decides.
        target: Of the whole stage, in absolute numbers.
        epochs: Of the recovery.
        iteration: From 1.
        iterations: Of the stage.
    """

    stage: int
    method: Method
    target: Budget
    epochs: int
    iteration: int = 1
    iterations: int = 1

    @property
    def title(self) -> str:
        """Name the step: ``hmc``, or ``hmc, iteration 2 of 3``."""
        number = f", iteration {self.iteration} of {self.iterations}" if self.iterations > 1 else ""
        return f"{self.method.name}{number}"

    def budget(self, found: Cost) -> Budget:
        """Give what may remain after the step.

        With n iterations left, this one included, found^(1 - 1/n) * target^(1/n) of MACs and
        parameters; the last one meets the target as a whole.

        Args:
            found: Cost of the network that the step starts from.
        """
        left = self.iterations - self.iteration + 1
        if left == 1:
            return self.target
        had = {"params": found.params, "macs": found.macs}
        return Budget(
            **{
                name: _absolute(max(limit, round(had[name] * (limit / had[name]) ** (1 / left))))
                for name, limit in self.target.limits(found).items()
            }
        )

    def facing(self, steps: Sequence[Step], view: ModelView) -> ModelView:
        """Give a view with what this step is held to, and with later decisions.

        Args:
            steps: Of the run.
            view: Of the network that this one starts from.
        """
        after = [one.method for one in steps if one.stage > self.stage]
        return facing(view, after, self.budget(view.graph.cost))

    def check(self, now: Cost, smallest: Cost) -> None:
        """Refuse what can't be reached in this step, before anything is measured for it.

        Args:
            now: Cost of the network that it starts from.
            smallest: The least that its method can reach there, per quantity.

        Raises:
            BudgetError: Names the step and the best reachable value.
        """
        try:
            feasibility([self.method], self.budget(now), now, lambda _stage: smallest).check()
        except BudgetError as error:
            raise BudgetError(f"{self.title}: {error}") from None

    def proposed(self, view: ModelView) -> Proposal:
        """Let the method decide.

        Args:
            view: Of the network that this step starts from.

        Raises:
            BudgetError: Nothing meets the budget.
        """
        return self.method.plan(view, self.budget(view.graph.cost))

    def row(self, asked: Budget) -> StepRow:
        """Give what is known of the step beforehand.

        Args:
            asked: Its budget.
        """
        given = asked.to_dict()
        fraction = Meaning.REMAINING.value
        return StepRow(
            stage=self.stage,
            method=self.method.name,
            iteration=self.iteration,
            iterations=self.iterations,
            asked={
                name: limit["text" if limit["meaning"] == fraction else "value"]
                for name, limit in given.items()
            },
            epochs=self.epochs,
        )


def iterated(asked: Method | Iterated) -> Iterated:
    """Give a stage as it was asked for, or of a method that goes its way at once."""
    return asked if isinstance(asked, Iterated) else Iterated(asked)


def steps_of(
    stages: Sequence[Iterated], budget: Budget, original: Cost, epochs: int
) -> tuple[Step, ...]:
    """Give the steps of a run, in order.

    Args:
        stages: As asked for.
        budget: What is asked of the whole run, relative to the original.
        original: Cost of the original network.
        epochs: Of a whole recovery.

    Raises:
        BudgetError: A stage in several iterations has neither MACs nor parameters to go by.
    """
    targets = stage_budgets(budget, original, [stage.method for stage in stages])
    steps: list[Step] = []
    for number, (stage, target) in enumerate(zip(stages, targets, strict=True)):
        count = stage.iterations
        if count > 1 and not COUNTS & target.to_dict().keys():
            raise BudgetError(
                f"budget: {budget} has neither MACs nor parameters, which the {count} iterations "
                f"of {stage.method.name} go by; give macs=0.5, too, or drop iterations"
            )
        brief = brief_epochs(stage.iteration_epochs, epochs)
        untuned = number == len(stages) - 1 and keeps([stage.method for stage in stages])
        whole = 0 if untuned else getattr(stage.method, "epochs", int)(epochs)
        steps += [
            Step(number, stage.method, target, brief if one < count else whole, one, count)
            for one in range(1, count + 1)
        ]
    return tuple(steps)


def check_first(steps: Sequence[Step], view: ModelView, smallest: Cost) -> None:
    """Refuse a run whose first step of several can't be taken.

    Args:
        steps: Of the run.
        view: Of the original network.
        smallest: The least that the first stage can reach at once.

    Raises:
        BudgetError: Names the step and the best reachable value.
    """
    if len(steps) == 1:
        return
    first, now = steps[0], view.graph.cost
    # What is limited may decide what can be done at all, and the last iteration has more limits.
    if first.budget(now).to_dict().keys() != first.target.to_dict().keys():
        smallest = first.method.smallest(first.facing(steps, view))
    first.check(now, smallest)


def foreseen(steps: Sequence[Step], original: Cost) -> tuple[StepRow, ...]:
    """Give what each step will be asked for if those before it come out as asked.

    Args:
        steps: Of a run.
        original: Cost of the original network.
    """
    rows: list[StepRow] = []
    params, macs = original.params, original.macs
    for step in steps:
        asked = step.budget(Cost(params, macs))
        limits = asked.limits(Cost(params, macs))
        params = min(params, limits.get("params", params))
        macs = min(macs, limits.get("macs", macs))
        rows.append(step.row(asked))
    return tuple(rows)


def _absolute(value: int) -> Limit:
    return Limit(Meaning.ABSOLUTE, float(value), f"{value}")
