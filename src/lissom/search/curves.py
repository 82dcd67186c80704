"""Harm as a function of how much is removed, from a few measured points."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True, slots=True)
class HarmCurve:
    """A monotone curve through (removed fraction, harm) points, starting at (0, 0).

    Attributes:
        points: The measured points with harms made non-decreasing, in order of the fraction.
        errors: Standard error of the harm at each point; empty where none are known.
    """

    points: tuple[tuple[float, float], ...]
    errors: tuple[float, ...] = ()

    @classmethod
    def through(cls, points: Iterable[Sequence[float]]) -> HarmCurve:
        """Sort the points and pool neighbours that decrease (isotonic regression).

        Points that are pooled were measured on the same images, so that their errors go together:
        the mean of the errors is that of the mean.

        Args:
            points: (removed fraction, harm) or (removed fraction, harm, standard error), harms not
                negative; of several at the same fraction the mean counts.
        """
        at: dict[float, list[tuple[float, float]]] = {}
        for removed, harm, *error in points:
            at.setdefault(removed, []).append((harm, error[0] if error else 0.0))
        pools: list[list[tuple[float, float, float]]] = []
        for removed in sorted(at):
            harms, errors = zip(*at[removed], strict=True)
            pool = [(removed, fmean(harms), fmean(errors))]
            while pools and _mean(pools[-1], 1) > _mean(pool, 1):
                pool = pools.pop() + pool
            pools.append(pool)
        level = [(x, _mean(pool, 1), _mean(pool, 2)) for pool in pools for x, _, _ in pool]
        return cls(tuple((x, harm) for x, harm, _ in level), tuple(error for _, _, error in level))

    def __call__(self, removed: float) -> float:
        """Give the harm at a removed fraction.

        Linear between the points and from (0, 0) to the first; beyond the last one harm grows as
        steeply, in the logarithm, as between the last two.
        """
        if removed <= 0 or not self.points:
            return 0.0
        if removed > self.points[-1][0]:
            return self._beyond(removed)
        return _between(removed, ((0.0, 0.0), *self.points))

    def error(self, removed: float) -> float:
        """Give the standard error of the harm at a removed fraction.

        Linear as the harm is; beyond the last point it stays the same share of the harm.
        """
        if removed <= 0 or not self.errors:
            return 0.0
        last_x, last_y = self.points[-1]
        if removed > last_x:
            return self.errors[-1] * self._beyond(removed) / last_y if last_y > 0 else 0.0
        known = ((x, error) for (x, _), error in zip(self.points, self.errors, strict=True))
        return _between(removed, ((0.0, 0.0), *known))

    def times(self, factor: float) -> HarmCurve:
        """Give the curve with all harms, and their errors, multiplied."""
        points = tuple((x, factor * harm) for x, harm in self.points)
        return HarmCurve(points, tuple(factor * error for error in self.errors))

    def _beyond(self, removed: float) -> float:
        last_x, last_y = self.points[-1]
        if last_y <= 0:
            return 0.0
        slope = 1 / last_x
        if len(self.points) > 1 and self.points[-2][1] > 0:
            before_x, before_y = self.points[-2]
            slope = max(slope, math.log(last_y / before_y) / (last_x - before_x))
        return last_y * math.exp(min(slope * (removed - last_x), 50.0))


def _mean(pool: Sequence[tuple[float, float, float]], place: int) -> float:
    return fmean(point[place] for point in pool)


def _between(removed: float, points: Sequence[tuple[float, float]]) -> float:
    after = max(bisect_left([x for x, _ in points], removed), 1)
    (x0, y0), (x1, y1) = points[after - 1], points[after]
    return y0 + (y1 - y0) * (removed - x0) / (x1 - x0)
