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
_STEP = 1.1  # of the bits, where only one side of the limit is known
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
    """Ask for bits until the real file is close to the limit, from below where that is possible."""
    fewest = ladder.fewest_bits
    bits, low, high = max(8.0 * limit, fewest), 0.0, math.inf
    best: Levels | None = None
    for _ in range(_TRIES):
        levels = ladder.levels_for(bits)
        size = forming.weigh(view.model, levels)
        if size.total <= limit:
            best, low = levels, bits
            if size.total >= _CLOSE * limit:
                break
        else:
            high = bits
        wanted = bits * max(limit - size.others, 1) / max(size.levels, 1)
        if not low < wanted < high:  # the size is no smooth function of the bits
            least, most = low or high / _STEP**2, high if high < math.inf else low * _STEP**2
            near, far = (most, least) if wanted >= high else (least, most)
            wanted = (far * near**3) ** 0.25
        bits = max(wanted, fewest)
    return ladder.levels_for(fewest) if best is None else best


def _recalibrated(view: ModelView, levels: Levels) -> Untrained:
    network = copy.deepcopy(view.model)
    with torch.no_grad():
        for name, one in levels.items():
            network.get_parameter(f"{name}.weight").copy_(one.weight)
    return network, levels, view.recalibrate(network) if view.recalibrate else None
