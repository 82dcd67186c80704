"""Make levels cheaper until the file fits: towards zero only, where it harms least."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lissom.quantization.rate import code_lengths, magnitude_counts

_TRIES = 40
_CLOSE = 0.998  # of the limit: near enough
_FINE = 1.02  # between two prices: what changes there changes at once
_LOOKS, _REFINEMENTS = 12, 3  # of the price that is bearable


@dataclass(frozen=True, slots=True)
class Trimmable:
    """A tensor whose levels may become cheaper.

    Attributes:
        weight: w, what the levels stand for.
        levels: q, int32, the same shape.
        step: s > 0, a scalar.
        curvature: What a squared error costs, broadcastable; only ratios between tensors matter.
    """

    weight: Tensor
    levels: Tensor
    step: Tensor
    curvature: Tensor


def cheaper(tensor: Trimmable, lengths: Tensor, price: float) -> Tensor:
    """Give argmin over 0 <= k <= |q| of h (|w| - s k)^2 + mu l(k), with the sign of q.

    Args:
        tensor: h, w, q, s.
        lengths: l, bits of a magnitude with its sign, at least (max |q| + 1,).
        price: mu; 0 changes nothing.

    Returns:
        Levels, int32; ties keep the larger magnitude.
    """
    size = tensor.weight.abs().double()
    now = tensor.levels.abs()
    curvature, step = tensor.curvature.double(), tensor.step.double()
    prices = price * lengths.double()

    def cost(level: Tensor | int) -> Tensor:
        return curvature * (size - step * level).square()

    best = cost(now) + prices[now.to(torch.int64)]
    chosen = now.clone()
    for level in range(int(now.max()) if now.numel() else 0):
        mine = cost(level) + prices[level]
        better = (mine < best) & (level < now)
        best, chosen = torch.where(better, mine, best), chosen.masked_fill(better, level)
    return chosen * tensor.levels.sign()


def trimmed(
    tensors: Mapping[str, Trimmable], limit: float, measure: Callable[[Mapping[str, Tensor]], float]
) -> dict[str, Tensor]:
    """Make levels cheaper until ``measure`` gives at most ``limit``, with one price for all.

    Args:
        tensors: By name.
        limit: In the units of ``measure``.
        measure: Size of given levels; falls, on the whole, as they become cheaper.

    Returns:
        The levels; unchanged where they fit. Where even zeros exceed the limit, zeros.
    """
    now = {name: tensor.levels for name, tensor in tensors.items()}
    if measure(now) <= limit:
        return now
    zeros = {name: torch.zeros_like(levels) for name, levels in now.items()}
    if measure(zeros) > limit:
        return zeros
    tables = {name: _lengths(levels) for name, levels in now.items()}

    def at(price: float) -> dict[str, Tensor]:
        return {name: cheaper(one, tables[name], price) for name, one in tensors.items()}

    first = _first_price(tensors)
    prices = [first * 4**power for power in range(_TRIES)]
    high = next((price for price in prices if measure(at(price)) <= limit), math.inf)
    if high == math.inf:
        return zeros
    found, low = at(high), 0.0 if high == first else high / 4
    above = at(low) if low else now
    while high > max(_FINE * low, first / 4**_TRIES):
        middle = math.sqrt(low * high) if low else high / 4
        attempt = at(middle)
        size = measure(attempt)
        if size > limit:
            above, low = attempt, middle
            continue
        found, high = attempt, middle
        if size >= _CLOSE * limit:
            return found
    return _partly(above, found, limit, measure)


def _partly(
    above: Mapping[str, Tensor],
    below: Mapping[str, Tensor],
    limit: float,
    measure: Callable[[Mapping[str, Tensor]], float],
) -> dict[str, Tensor]:
    """Take as few of the moves between two prices as fit: at one price many may come at once.

    They do where weights lie on their levels, as those of a finished network. Levels that are
    large in a quiet kernel, row and column go first: a coder that knows its surroundings charges
    them most.

    Args:
        above: Levels that do not fit.
        below: Levels that do, each at least as near to 0.
        limit: In the units of ``measure``.
        measure: Size of given levels.
    """
    places = {name: (above[name] != below[name]).flatten() for name in above}
    scores = [_company(above[name]).flatten()[moves] for name, moves in places.items()]
    order = torch.cat(scores).argsort(stable=True).argsort()  # the rank of each move
    ranks = dict(zip(places, torch.split(order, [len(one) for one in scores]), strict=True))

    def first(count: int) -> dict[str, Tensor]:
        found = {}
        for name, moves in places.items():
            some = moves.clone()
            some[moves] = ranks[name] < count
            found[name] = torch.where(some.view_as(above[name]), below[name], above[name])
        return found

    low, high = 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        size = measure(first(middle))
        if size > limit:
            low = middle
            continue
        high = middle
        if size >= _CLOSE * limit:
            break
    return first(high)


def _company(levels: Tensor) -> Tensor:
    """Say how much there is in the kernel, the row and the column of each level, in means."""
    size = levels.abs().double()
    whole = size.mean().clamp_min(1e-12)
    axes = range(levels.dim())
    around = {tuple(axes[2:]), tuple(axes[1:]), tuple(axes[:1])}
    means = [size.mean(some, keepdim=True).expand_as(size) for some in around if some]
    return sum(means, torch.zeros_like(size)) / whole


def trimmed_while(
    tensors: Mapping[str, Trimmable], bearable: Callable[[Mapping[str, Tensor]], bool]
) -> dict[str, Tensor]:
    """Make levels as cheap as is bearable, with one price for all.

    Args:
        tensors: By name.
        bearable: Whether given levels may stay; the price is doubled while they may, then the last
            factor is halved a few times.

    Returns:
        The levels; unchanged where nothing cheaper is bearable.
    """
    found = {name: tensor.levels for name, tensor in tensors.items()}
    tables = {name: _lengths(levels) for name, levels in found.items()}
    low, high = 0.0, _first_price(tensors)
    for _ in range(_LOOKS):
        attempt = {name: cheaper(one, tables[name], high) for name, one in tensors.items()}
        if bearable(attempt):
            found, low, high = attempt, high, 2 * high
        elif low:
            break
        else:
            high /= 4
    if not low:
        return found
    for _ in range(_REFINEMENTS):
        middle = math.sqrt(low * high)
        attempt = {name: cheaper(one, tables[name], middle) for name, one in tensors.items()}
        if bearable(attempt):
            found, low = attempt, middle
        else:
            high = middle
    return found


def _lengths(levels: Tensor) -> Tensor:
    top = max(int(levels.abs().max()) if levels.numel() else 0, 1)
    return code_lengths(magnitude_counts(levels, top))


def _first_price(tensors: Mapping[str, Trimmable]) -> float:
    """Give a small price: a hundredth of what rounding errors cost on the average."""
    costs = [
        float((one.curvature.double() * one.step.double().square()).mean())
        for one in tensors.values()
        if bool(one.levels.any())  # nothing is to be taken from the others
    ]
    return max(sum(costs) / max(len(costs), 1) / 100, 1e-300)
