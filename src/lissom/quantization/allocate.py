"""Share bits among layers: least total harm, from each layer's own rate and distortion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Point:
    """What one step does to one layer.

    Attributes:
        step: s > 0.
        bits: That the levels take.
        harm: That they do, 0 or more, in a unit that all layers share.
    """

    step: float
    bits: float
    harm: float


def convex_hull(points: Sequence[Point]) -> tuple[int, ...]:
    """Give the points that some price of a bit makes the best: the lower convex hull.

    Args:
        points: At least one, in any order.

    Returns:
        Indices, bits falling, harm rising, and each further bit that is saved harms more.
    """
    found: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i].bits, points[i].harm, i)):
        if found and points[index].harm >= points[found[-1]].harm:
            continue
        while len(found) > 1 and _above(points[found[-2]], points[found[-1]], points[index]):
            found.pop()
        found.append(index)
    return tuple(reversed(found))


def _above(left: Point, middle: Point, right: Point) -> bool:
    """Tell whether ``middle`` is on or above the line between the other two."""
    return (middle.harm - left.harm) * (right.bits - left.bits) >= (right.harm - left.harm) * (
        middle.bits - left.bits
    )


def cheapest(points: Mapping[str, Sequence[Point]], bits: float) -> dict[str, int]:
    """Choose one point per layer: all hulls are walked down together, the mildest move first.

    Up to there no choice with as few bits harms less. What the last move saved too much is then
    spent: the replacement that fits and gains most, again and again.

    Args:
        points: Per layer, at least one.
        bits: What all together may take.

    Returns:
        Index per layer; the fewest bits there are where even those are more than ``bits``.

    Source:
        Shoham and Gersho, IEEE Trans. ASSP 36(9), 1988, doi 10.1109/29.90373.
    """
    hulls = {name: convex_hull(of) for name, of in points.items()}
    chosen = {name: hull[0] for name, hull in hulls.items()}
    used = sum(points[name][index].bits for name, index in chosen.items())
    moves = sorted(
        (_slope(points[name][before], points[name][after]), name, place, after)
        for name, hull in hulls.items()
        for place, (before, after) in enumerate(pairwise(hull))
    )
    for _slope_of, name, _place, after in moves:
        if used <= bits:
            break
        used += points[name][after].bits - points[name][chosen[name]].bits
        chosen[name] = after
    return _spent(points, chosen, bits)


def _slope(before: Point, after: Point) -> float:
    """Give the harm per bit saved."""
    return (after.harm - before.harm) / (before.bits - after.bits)


def _spent(
    points: Mapping[str, Sequence[Point]], chosen: dict[str, int], bits: float
) -> dict[str, int]:
    """Take the milder points that still fit."""
    chosen = dict(chosen)
    while True:
        left = bits - sum(points[name][index].bits for name, index in chosen.items())
        gains = [
            (of[chosen[name]].harm - other.harm, name, index)
            for name, of in points.items()
            for index, other in enumerate(of)
            if other.harm < of[chosen[name]].harm and other.bits - of[chosen[name]].bits <= left
        ]
        if not gains:
            return chosen
        _gain, name, index = max(gains)
        chosen[name] = index
