"""What is tried on a network, what it harms, and who can tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from lissom.sensitivity.cache import content_hash


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way of compressing one unit.

    Attributes:
        unit: Name of the unit.
        family: ``prune`` or ``decompose``.
        removed: MACs removed anywhere / MACs of the unit's producers.
        overrides: Dense weights, by state-dict name, under which the network computes what it would
            compute if the candidate were taken.
        rebuild: For what overrides can't imitate (operators that compute over channels): gives the
            changed network itself, which is then run whole.
        recipe: What determines the overrides, given the network and the calibration data; the cache
            then finds the harm again although the last bits of the weights depend on the number of
            threads. "": the weights themselves are the key.
    """

    unit: str
    family: str
    removed: float
    overrides: Mapping[str, Tensor]
    rebuild: Callable[[], nn.Module] | None = None
    recipe: str = ""

    @property
    def key(self) -> str:
        """Name for the cache: the unit, the family, and what determines the changed weights."""
        what = self.recipe or content_hash(self.overrides)
        return f"{self.unit}|{self.family}|{self.removed:.6f}|{what}"


@dataclass(frozen=True, slots=True)
class Harms:
    """What was found.

    Attributes:
        mean: Harm per candidate, in the task's distance (nats per sample for classification), in
            order.
        error: Standard error of each mean over the calibration batches (0 with less than 16
            samples in a single one).
        images: Samples that each candidate was judged on.
        forwards: Whole forward passes that the naive way would have taken, references included.
        forwards_run: What was run instead, in whole forward passes weighted by MACs.
    """

    mean: tuple[float, ...]
    error: tuple[float, ...]
    images: int
    forwards: int
    forwards_run: float

    @property
    def noise(self) -> float:
        """Median standard error of the candidates; never 0, so that it can stand in a log."""
        ordered = sorted(self.error)
        return max(ordered[len(ordered) // 2] if ordered else 0.0, 1e-7)


class Estimator(Protocol):
    """Tells what candidates harm."""

    def harms(self, candidates: Sequence[Candidate]) -> Harms:
        """Give the harm of every candidate, in order."""


def standard_error(values: Sequence[float]) -> float:
    """Give the standard error of the mean; 0 with a single value."""
    count = len(values)
    if count < 2:
        return 0.0
    mean = sum(values) / count
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (count * (count - 1)))
