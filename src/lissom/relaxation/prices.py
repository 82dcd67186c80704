"""What one column or one channel costs, in the units of the budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lissom.plan.cost import Cost
from lissom.relaxation.rank_and_channels import RankAndChannels
from lissom.relaxation.support import COLUMNS, Key
from lissom.search.price import Configuration, LowRank


def group_weights(
    relaxation: RankAndChannels,
    strengths: Mapping[Key, Tensor],
    now: Configuration,
    units: Iterable[str],
) -> dict[Key, dict[str, float]]:
    """Give, per layer or group and unit, what one column or channel costs now.

    Divided by the mean over all columns and channels, so that multipliers of several units compare.
    Where norms are penalised it is the root of the cost.

    Args:
        relaxation: Knows the prices.
        strengths: Of every column and channel, 0 for those that have vanished.
        now: The network that is left.
        units: ``macs``, ``params``.
    """
    costs = {key: _marginal(relaxation, key, values, now) for key, values in strengths.items()}
    weights: dict[Key, dict[str, float]] = {key: {} for key in costs}
    members = {key: len(values) for key, values in strengths.items()}
    for unit in units:
        power = relaxation.power / 2
        prices = {key: max(getattr(cost, unit), 1) ** power for key, cost in costs.items()}
        mean = sum(prices[key] * n for key, n in members.items()) / sum(members.values())
        for key, price in prices.items():
            weights[key][unit] = price / mean
    return weights


def _marginal(relaxation: RankAndChannels, key: Key, strengths: Tensor, now: Configuration) -> Cost:
    """Give what one column or channel less saves; a column as if its pair stayed two layers."""
    kind, name = key
    pricer = relaxation.pricer
    if kind == COLUMNS:
        rank = max(int((strengths > 0).sum()), 2)
        family = relaxation.columns[name].block.family
        one, less = (
            pricer.layer(name, Configuration(now.kept, {name: LowRank(family, (r,))}))
            for r in (rank, rank - 1)
        )
        return one - less
    channels = tuple(torch.nonzero(strengths > 0).flatten().tolist())
    kept = channels if len(channels) > 1 else (0, 1)
    more = Configuration({**now.kept, name: kept}, now.low_rank)
    fewer = Configuration({**now.kept, name: kept[:-1]}, now.low_rank)
    touched = pricer.touched(name)
    before = sum((pricer.layer(layer, more) for layer in touched), Cost())
    return before - sum((pricer.layer(layer, fewer) for layer in touched), Cost())
