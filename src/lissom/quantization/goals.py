"""What a quantized network is steered to: bytes of its file, or the quality that it may lose."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from lissom.errors import RecipeError
from lissom.quantization.trim import Trimmable, trimmed

_AIM = 1.005  # of the limit: trimming does the rest, where it harms least
_FASTEST, _BACK = 0.85, 1.1  # the size that is aimed at, from one judgement to the next
_LEAST_ALLOWED, _EXTREME = 1e-6, 10.0  # so that nothing is divided by 0, nor overflows
_REACH = 0.15  # of its log, where nothing is lost

Measure = Callable[[Mapping[str, Tensor]], float]


@dataclass(frozen=True, slots=True)
class Phases:
    """When what happens, in shares of the training.

    Attributes:
        start: The size that is aimed at begins to fall.
        end: It has reached a goal in bytes.
        hold: Levels are trimmed to the goal and held; scales, norms and biases train on.
        every: Steps between two looks at the code lengths; short trainings look more often.
        weigh: Times that the real file is weighed until levels are held, and the quality judged.
    """

    start: float = 0.02
    end: float = 0.5
    hold: float = 0.85
    every: int = 50
    weigh: int = 40

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= self.hold < 1:
            raise RecipeError(
                f"phases start={self.start}, end={self.end}, hold={self.hold}: expected "
                "0 <= start < end <= hold < 1"
            )
        for name in ("every", "weigh"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}={getattr(self, name)}: expected at least 1")

    def turn(self, progress: float) -> int:
        """Give the number of the weighing that is due."""
        return int(progress / self.hold * self.weigh)


class Goal(Protocol):
    """Says how many bytes the file should have.

    Attributes:
        trims: Whether ``levels`` makes levels cheaper where the file is too large: it can take
            some away, but not add any.
    """

    trims: bool

    def aim(self, progress: float, size: float) -> float:
        """Give the size to be at now.

        Args:
            progress: Share of the training that is done; rises from call to call.
            size: Bytes now.
        """

    def levels(self, tensors: Mapping[str, Trimmable], size: Measure) -> dict[str, Tensor]:
        """Give the levels to hold.

        Args:
            tensors: As they were trained.
            size: Bytes of the file with given levels.
        """

    def numbers(self) -> list[float]:
        """Give what a resumed training needs."""

    def restore(self, numbers: list[float]) -> None:
        """Continue from ``numbers``'s output."""


class FileBytes:
    """The size falls to a number of bytes, by equal factors in equal times."""

    trims = True

    def __init__(self, limit: int, phases: Phases) -> None:
        """Set the goal.

        Args:
            limit: Bytes.
            phases: When.
        """
        self._limit, self._phases, self._first = limit, phases, 0.0

    def aim(self, progress: float, size: float) -> float:
        """Give the size to be at now."""
        phases = self._phases
        self._first = self._first or size
        last = min(_AIM * self._limit, self._first)  # what is small enough stays
        share = (progress - phases.start) / (phases.end - phases.start)
        return self._first * (last / self._first) ** min(max(share, 0.0), 1.0)

    def levels(self, tensors: Mapping[str, Trimmable], size: Measure) -> dict[str, Tensor]:
        """Trim until the file fits."""
        return trimmed(tensors, self._limit, size)

    def numbers(self) -> list[float]:
        """Give the size at the start."""
        return [self._first]

    def restore(self, numbers: list[float]) -> None:
        """Continue from ``numbers``'s output."""
        (self._first,) = numbers


class MostDrop:
    """The size falls while the network, as it is, loses less than it may, and rises where not.

    Each time the quality is judged, the size that is aimed at is multiplied by exp(0.15 (drop /
    allowed - 1)), between 0.85 and 1.1: one training looks for the smallest file by itself. What
    the training wins back after levels are held is left to who hardens the network.
    """

    trims = False

    def __init__(self, allowed: float, drop: Callable[[], float], phases: Phases) -> None:
        """Set the goal.

        Args:
            allowed: Most that may be lost.
            drop: Gives what is lost now, in the same units.
            phases: When.
        """
        self._allowed, self._drop, self._phases = allowed, drop, phases
        self._turn, self._aim = -1.0, 0.0

    def aim(self, progress: float, size: float) -> float:
        """Give the size to be at now."""
        turn = self._phases.turn(progress)
        self._aim = self._aim or size
        if progress >= self._phases.start and turn > self._turn:
            excess = self._drop() / max(self._allowed, _LEAST_ALLOWED) - 1
            factor = math.exp(_REACH * min(max(excess, -_EXTREME), _EXTREME))
            self._aim = max(self._aim * min(max(factor, _FASTEST), _BACK), 1.0)
            self._turn = turn
        return self._aim

    def levels(
        self,
        tensors: Mapping[str, Trimmable],
        size: Measure,  # noqa: ARG002  (the protocol's)
    ) -> dict[str, Tensor]:
        """Give the levels as they were trained."""
        return {name: tensor.levels for name, tensor in tensors.items()}

    def numbers(self) -> list[float]:
        """Give the last judgement's turn and size."""
        return [self._turn, self._aim]

    def restore(self, numbers: list[float]) -> None:
        """Continue from ``numbers``'s output."""
        self._turn, self._aim = numbers
