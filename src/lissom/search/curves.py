"""Harm as a function of how much is removed, from a few measured points."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HarmCurve:
    """A monotone curve through (removed fraction, harm) points, starting at (0, 0).

    Attributes:
        points: The measured points with harms made non-decreasing, in order of the fraction.
    """

    points: tuple[tuple[float, float], ...]

    @classmethod
    def through(cls, points: Iterable[tuple[float, float]]) -> HarmCurve:
        """Sort the points and pool neighbours that decrease (isotonic regression).

        Args:
            points: (removed fraction, harm) pairs, harms not negative; of several at the same
                fraction the mean counts.
        """
        at: dict[float, list[float]] = {}
        for removed, harm in points:
            at.setdefault(removed, []).append(harm)
        pools: list[tuple[float, list[float]]] = []  # (mean harm, fractions)
        for removed in sorted(at):
            mean, members = sum(at[removed]) / len(at[removed]), [removed]
            while pools and pools[-1][0] > mean:
                other, others = pools.pop()
                count = len(others) + len(members)
                mean = (mean * len(members) + other * len(others)) / count
                members = others + members
            pools.append((mean, members))
        return cls(tuple((removed, mean) for mean, members in pools for removed in members))

    def __call__(self, removed: float) -> float:
        """Give the harm at a removed fraction.

        Linear between the points and from (0, 0) to the first; beyond the last one harm grows as
        steeply, in the logarithm, as between the last two.
        """
        if removed <= 0 or not self.points:
            return 0.0
        points = ((0.0, 0.0), *self.points)
        if removed > points[-1][0]:
            return self._beyond(removed)
        after = max(bisect_left([p[0] for p in points], removed), 1)
        (x0, y0), (x1, y1) = points[after - 1], points[after]
        return y0 + (y1 - y0) * (removed - x0) / (x1 - x0)

    def _beyond(self, removed: float) -> float:
        last_x, last_y = self.points[-1]
        if last_y <= 0:
            return 0.0
        slope = 1 / last_x
        if len(self.points) > 1 and self.points[-2][1] > 0:
            before_x, before_y = self.points[-2]
            slope = max(slope, math.log(last_y / before_y) / (last_x - before_x))
        return last_y * math.exp(min(slope * (removed - last_x), 50.0))
