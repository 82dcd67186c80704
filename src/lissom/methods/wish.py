"""What a budget asks of a quantizer."""

from __future__ import annotations

import math

from torch import nn

from lissom.errors import BudgetError
from lissom.extension import ModelView
from lissom.plan.budget import Budget
from lissom.train.evaluate import evaluate


class Wish:
    """What a budget asks of a quantizer: bytes of the file, or quality that may be lost.

    Attributes:
        limit: Most bytes, or None.
        allowed: Most points; infinite where none are named.
    """

    def __init__(self, view: ModelView, limit: int | None, allowed: float) -> None:
        """Take the wish, and the view that says how much is lost."""
        self.limit, self.allowed = limit, allowed
        self._view = view
        self._original = view.model if view.original is None else view.original
        self._before: float | None = None

    @classmethod
    def of(cls, budget: Budget, view: ModelView) -> Wish:
        """Read a budget.

        Raises:
            BudgetError: It limits neither.
        """
        limit, drop = budget.bytes_limit(view.graph.cost), budget.max_drop
        if limit is None and drop is None:
            raise BudgetError(
                "ajc is held to the size of the file or to the quality that may be lost: give "
                "size=25x, size=40kB or max_drop=1.0"
            )
        return cls(view, limit, math.inf if drop is None else drop.value)

    def drop(self, model: nn.Module) -> float:
        """Give what is lost on held-out data in points, below 0 for a gain.

        Hundredths of a fraction, else the metric's unit.

        Args:
            model: Where it is, it stays; its modes, too.
        """
        if self._before is None:
            self._before = self._score(self._original)
        return self._view.task.metric.points_lost(self._before, self._score(model))

    def _score(self, model: nn.Module) -> float:
        view = self._view
        return evaluate(model, view.data.held_out, view.task, device=view.device)
