"""How many bits levels may take, so that the real file, or the quality, is what was asked for."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lissom.errors import BudgetError
from lissom.extension import ModelView
from lissom.methods.forming import Forming
from lissom.methods.post_training import PostTraining
from lissom.methods.wish import Wish
from lissom.quantization.levelled import Levelled

_TRIES = 6
_CLOSE = 0.995  # of the limit
_SPARE = 0.001  # of the limit, left free when aiming at it; twice as much after each miss
_MOST_BITS, _HALVINGS = 8.0, 8  # per weight

Levels = Mapping[str, Levelled]
Untrained = tuple[nn.Module, Levels, Mapping[str, Any] | None]


def chosen(view: ModelView, wish: Wish, forming: Forming, ladder: PostTraining) -> Untrained:
    """Choose levels without training.

    For a size, bits are asked for until the real file comes close to the limit from below; for a
    quality, they are halved between what holds it and what does not.

    Args:
        view: The network, and what recalibrates it.
        wish: A size or a quality.
        forming: Gives the file.
        ladder: Gives levels for a number of bits.

    Returns:
        A copy of the network with these weights and fresh batch norm statistics, the levels, and
        what the recalibration said.

    Raises:
        BudgetError: Even levels of 8 bits lose more than is allowed.
    """
    if wish.limit is not None:
        return _recalibrated(view, _by_size(view, wish.limit, forming, ladder))
    weights = sum(view.model.get_parameter(f"{name}.weight").numel() for name in forming.layers)
    high = _MOST_BITS * weights
    best = _recalibrated(view, ladder.levels_for(high))
    least = wish.drop(forming.built(forming.of(best[0], best[1])))
    if least > wish.allowed:
        raise BudgetError(
            f"budget: max_drop={wish.allowed:g}: weights of 8 bits lose {least:.2f} points on "
            "held-out data already; allow more, or ask for a size"
        )
    low = ladder.fewest_bits
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        attempt = _recalibrated(view, ladder.levels_for(middle))
        network, levels, _ = attempt
        if wish.drop(forming.built(forming.of(network, levels))) <= wish.allowed:
            best, high = attempt, middle
        else:
            low = middle
    return best


def _by_size(view: ModelView, limit: int, forming: Forming, ladder: PostTraining) -> Levels:
    """Ask for bits until the real file is close to the limit from below.

    The size is a stair over the bits, so that one aimed at may be missed again and again by a few
    bytes: each miss aims lower. If even the fewest bits are too many, they are given.
    """
    fewest = ladder.fewest_bits
    bits, low, high, spare = max(8.0 * limit, fewest), 0.0, math.inf, _SPARE
    best: Levels | None = None
    tries = 0
    while best is None or tries < _TRIES:
        levels = ladder.levels_for(bits)
        size = forming.weigh(view.model, levels)
        tries += 1
        if size.total <= limit:
            best, low = levels, bits
            if size.total >= _CLOSE * limit:
                break
        elif bits <= fewest:
            return levels
        else:
            high, spare = bits, 2 * spare
        wanted = bits * max((1 - spare) * limit - size.others, 1) / max(size.levels, 2)
        if low and not low < wanted < high:
            wanted = math.sqrt(low * high) if high < math.inf else 2 * low
        bits = max(wanted, fewest)
    return best


def _recalibrated(view: ModelView, levels: Levels) -> Untrained:
    network = copy.deepcopy(view.model)
    with torch.no_grad():
        for name, one in levels.items():
            network.get_parameter(f"{name}.weight").copy_(one.weight)
    return network, levels, view.recalibrate(network) if view.recalibrate else None
