"""Search under a limit on latency: by the times of the layers, corrected by what networks take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import nn

from lissom.clock import Clock
from lissom.errors import BudgetError
from lissom.extension import ModelView
from lissom.plan.budget import Limit

_ATTEMPTS = 5
_CLOSE = 0.97  # of the limit: nearer than runs of the same network are to each other
_APART = 0.02  # share of the layers' time by which two networks have to differ to tell a slope
_AGAIN = (1 + _CLOSE) / 2  # of the limit: what is aimed at after a candidate has missed it

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Timed(Generic[C]):
    """A candidate, and what its network takes.

    Attributes:
        candidate: What was found.
        layers_ms: Sum over its weight layers, as priced.
        predicted_ms: Of the network, before it was built.
        measured_ms: Of the network, run in turn with the original.
        limit_ms: What was asked, by the original's time of that run.
    """

    candidate: C
    layers_ms: float
    predicted_ms: float
    measured_ms: float
    limit_ms: float

    @property
    def met(self) -> bool:
        """Whether the limit holds as measured."""
        return self.measured_ms <= self.limit_ms

    def to_dict(self) -> dict[str, float]:
        """Give the figures, JSON-ready."""
        return {
            "layers_ms": self.layers_ms,
            "predicted_ms": self.predicted_ms,
            "measured_ms": self.measured_ms,
            "limit_ms": self.limit_ms,
            "prediction_error": self.predicted_ms / self.measured_ms - 1,
        }


@dataclass(frozen=True, slots=True)
class _Line:
    """What networks take, by the sum of their layers: ``slope`` times it, and ``rest``."""

    slope: float
    rest: float = 0.0

    @classmethod
    def through(cls, first: tuple[float, float], second: tuple[float, float]) -> _Line:
        """Give the line through two networks, or that of all in proportion if it does not rise."""
        apart = first[0] - second[0]
        slope = (first[1] - second[1]) / apart if abs(apart) > _APART * first[0] else 0.0
        if slope <= 0:
            return cls.in_proportion(first, second)
        return cls(slope, second[1] - slope * second[0])

    @classmethod
    def in_proportion(cls, first: tuple[float, float], second: tuple[float, float]) -> _Line:
        """Give the line from nothing through the second network, or the first if that has none."""
        layers, network = second if second[0] else first
        return cls(network / layers)

    def times(self, factor: float) -> _Line:
        """Give the same in another unit of time."""
        return _Line(factor * self.slope, factor * self.rest)

    def network(self, layers: float) -> float:
        """Give what a network takes."""
        return self.slope * layers + self.rest

    def layers(self, network: float) -> float:
        """Give what its layers may take."""
        return (network - self.rest) / self.slope


@dataclass(frozen=True, slots=True)
class TimedSearch(Generic[C]):
    """Finds what keeps a limit on latency, as measured.

    A network takes more than the sum of its weight layers: additions, pooling, starting operators.
    At first that is taken to shrink with the layers: a busy machine, which slows whole networks but
    not the quick runs by which single layers are timed, then leaves room for layers all the same.
    From then on the line through the network that is there and the last that was measured tells
    what shrinks: these two are far enough apart for a slope. Where nothing is small enough by that
    line, all is taken to shrink once more; where it leads past a network that is known to miss the
    limit, halfway to it from one that is known to keep it is tried.

    Attributes:
        clock: Runs the networks.
        original: What fractions of the limit refer to.
        model: The network that is changed.
        layers_ms: Sum of the times of its weight layers.
        limit: What is asked.
    """

    clock: Clock
    original: nn.Module
    model: nn.Module
    layers_ms: float
    limit: Limit

    @classmethod
    def of(cls, view: ModelView, limit: Limit, nanoseconds: int) -> TimedSearch[C]:
        """Prepare the search for a view.

        Args:
            view: Has a clock.
            limit: What is asked.
            nanoseconds: Sum of the times of its weight layers.

        Raises:
            BudgetError: There is no clock, or no layer that it can time.
        """
        if view.clock is None:
            raise BudgetError(
                f"budget: latency={limit.text}: nothing can be timed here; run through compress(), "
                "or give the ModelView a clock"
            )
        if not nanoseconds:
            raise BudgetError(
                f"budget: latency={limit.text}: no layer of this network can be timed by itself; "
                "give macs or params instead"
            )
        original = view.model if view.original is None else view.original
        return cls(view.clock, original, view.model, nanoseconds / 1e6, limit)

    def run(
        self,
        solve: Callable[[int], C],
        layers: Callable[[C], int],
        build: Callable[[C], nn.Module],
    ) -> tuple[C, dict[str, Any]]:
        """Search, build, run, and search again with what was learned.

        Args:
            solve: Finds the best candidate whose weight layers take at most so many nanoseconds.
            layers: Gives the nanoseconds of a candidate's weight layers.
            build: Builds a candidate's network.

        Returns:
            The mildest candidate that keeps the limit, and what was measured, JSON-ready.

        Raises:
            BudgetError: ``solve`` finds nothing at first, or no candidate keeps the limit.
        """
        now_ms, original_ms = self.clock.milliseconds(self.model, self.original)
        lines, aim = [_Line(now_ms / self.layers_ms)], self.limit.resolve(original_ms)
        plain = self.layers_ms, now_ms / original_ms
        tried: list[Timed[C]] = []
        for _ in range(_ATTEMPTS):
            share = 1.0 if all(one.met for one in tried) else _AGAIN
            try:
                line, candidate = _first_found(solve, lines, share * aim, tried)
            except BudgetError:
                if not tried:
                    raise
                break
            layers_ms = layers(candidate) / 1e6
            new_ms, beside_ms = self.clock.milliseconds(build(candidate), self.original)
            predicted_ms, aim = line.network(layers_ms), self.limit.resolve(beside_ms)
            tried.append(Timed(candidate, layers_ms, predicted_ms, new_ms, aim))
            if _settled(tried):
                break
            # A machine that slows down slows the original, too.
            shares = plain, (layers_ms, new_ms / beside_ms)
            lines = [_Line.through(*shares).times(beside_ms)]
            # Where the last network was hardly faster, by what it is or by what ran beside it, the
            # line says that no network keeps the limit.
            lines.append(_Line.in_proportion(*shares).times(beside_ms))
        return self._best(tried, original_ms)

    def _best(self, tried: list[Timed[C]], original_ms: float) -> tuple[C, dict[str, Any]]:
        kept = [one for one in tried if one.met]
        if not kept:
            best = min(tried, key=lambda one: one.measured_ms / one.limit_ms)
            raise BudgetError(
                f"budget: latency={self.limit.text} is {best.limit_ms:.3g} ms; the nearest "
                f"of {len(tried)} networks that were built takes {best.measured_ms:.3g} ms (the "
                f"original {original_ms:.3g}). Allow more, or ignore fewer layers; if other work "
                "runs on this machine, stop it first"
            )
        best = max(kept, key=lambda one: one.layers_ms)
        facts = {
            "original_ms": original_ms,
            "limit": self.limit.text,
            "attempts": [one.to_dict() for one in tried],
            "chosen": next(place for place, one in enumerate(tried) if one is best),
        }
        return best.candidate, facts


def _first_found(
    solve: Callable[[int], C], lines: Sequence[_Line], most_ms: float, tried: Sequence[Timed[C]]
) -> tuple[_Line, C]:
    """Solve by the first line by which there is a candidate, and give both."""

    def solved(line: _Line) -> C:
        return solve(max(int(_between(tried, line.layers(most_ms)) * 1e6), 1))

    *others, last = lines
    for line in others:
        with suppress(BudgetError):
            return line, solved(line)
    return last, solved(last)


def _between(tried: Sequence[Timed[C]], layers_ms: float) -> float:
    """Give the layers' time; halfway from what kept the limit to what missed it if not between."""
    kept = max((one.layers_ms for one in tried if one.met), default=0.0)
    missed = min((one.layers_ms for one in tried if not one.met), default=0.0)
    if not 0 < kept < missed or kept < layers_ms < missed:
        return layers_ms
    return (kept + missed) / 2


def _settled(tried: list[Timed[C]]) -> bool:
    """Whether the limit is kept and used up, or the last search found what it had found before."""
    last = tried[-1]
    used = last.met and last.measured_ms >= _CLOSE * last.limit_ms
    return used or any(one.layers_ms == last.layers_ms for one in tried[:-1])
