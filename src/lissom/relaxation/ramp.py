"""When a relaxation is steered to its budget."""

from __future__ import annotations

from dataclasses import dataclass

from lissom.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Ramp:
    """When what happens, in shares of the training.

    Attributes:
        start: The target cost begins to fall.
        end: The target cost has reached the budget.
        cut: One threshold brings the cost to the budget exactly; what is left trains on.
        every: Steps between two looks at the cost; short trainings look more often.
    """

    start: float = 0.1
    end: float = 0.55
    cut: float = 0.6
    every: int = 50

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= self.cut < 1:
            raise RecipeError(
                f"ramp_start={self.start}, ramp_end={self.end}, cut_at={self.cut}: expected "
                "0 <= ramp_start <= ramp_end <= cut_at < 1 (shares of the training)"
            )
        if self.every < 1:
            raise RecipeError(f"steer_every={self.every}: expected at least 1 step")

    def target(self, progress: float, remaining: float) -> float:
        """Give the cost that is aimed at, as a fraction of the original's."""
        if progress >= self.end:
            return remaining
        share = (progress - self.start) / (self.end - self.start)
        return 1 - (1 - remaining) * min(max(share, 0.0), 1.0)
