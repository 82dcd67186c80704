"""What of a relaxed network stays within limits, and is no slower than it need be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lissom.errors import BudgetError
from lissom.relaxation.prices import group_weights
from lissom.relaxation.rank_and_channels import RankAndChannels
from lissom.relaxation.support import (
    COLUMNS,
    Key,
    Slow,
    Support,
    admissible_counts,
    exact_support,
    within,
)


class Choice:
    """Chooses by energy per cost, with what has turned out to be slow left as it was."""

    def __init__(
        self, relaxation: RankAndChannels, units: Sequence[str], round_to: int | str, slow: Slow
    ) -> None:
        """Choose nothing yet.

        Args:
            relaxation: What is chosen from.
            units: That are limited.
            round_to: Alignment of ranks and channels.
            slow: Names what is slower than without it.
        """
        self._relaxation, self._units = relaxation, tuple(units)
        self._round_to, self._slow = round_to, slow
        self._most: dict[Key, int] = {}

    @property
    def most(self) -> Mapping[Key, int]:
        """Give, for what is slow with more, the most columns or channels that it may have."""
        return dict(self._most)

    @property
    def whole(self) -> frozenset[Key]:
        """Name what keeps all of its columns or channels, since no fewer of them would pay."""
        return frozenset(key for key, most in self._most.items() if most == 0)

    def choose(self, limits: Mapping[str, int], shares: Mapping[str, float]) -> Support:
        """Choose what stays, until nothing of it is slow.

        Args:
            limits: Absolute, per unit.
            shares: What a unit counts against the others; empty: all the same.

        Raises:
            BudgetError: Not even the smallest network keeps them.
        """
        strengths, pricer = self._relaxation.strengths(), self._relaxation.pricer
        while True:
            support = self.best(strengths, limits, shares)
            now = self._relaxation.configuration(support)
            if not (slow := self._slow(now)):
                break
            self._relaxation.limit_ranks(slow)
            self._most |= slow
        cost = pricer.price(now)
        if not within(cost, limits):
            raise BudgetError(
                f"the smallest network within reach has {cost.macs:,} MACs and {cost.params:,} "
                f"parameters, above {dict(limits)}; raise the budget, learn columns and rows, let "
                "coupled channels shrink (row_groups=all), or take what costs time (--allow-slower)"
            )
        return support

    def best(
        self,
        strengths: Mapping[Key, Tensor],
        limits: Mapping[str, int],
        shares: Mapping[str, float],
    ) -> Support:
        """Give what to keep, whatever time it takes; all columns of layers that will be merged.

        Args:
            strengths: Of every column and channel, 0 for those that have vanished.
            limits: Absolute, per unit.
            shares: What a unit counts against the others; empty: all the same.
        """
        relaxation = self._relaxation
        weights = group_weights(relaxation, strengths, relaxation.expected(), self._units)
        counted = shares or dict.fromkeys(self._units, 1.0)
        total = sum(counted.values())
        scores = {
            key: values.pow(relaxation.power)
            / sum(counted[u] / total * w for u, w in weights[key].items())
            for key, values in strengths.items()
        }
        admissible = {
            key: admissible_counts(len(values), self._round_to, self._most.get(key))
            for key, values in strengths.items()
        }
        pricer, configuration = relaxation.pricer, relaxation.configuration
        found = exact_support(scores, admissible, lambda s: pricer.price(configuration(s)), limits)
        pairs = configuration(found).low_rank
        columns = {
            layer: mask if layer in pairs else strengths[COLUMNS, layer] > 0
            for layer, mask in found.columns.items()
        }
        return Support(columns, found.rows)

    def state_dict(self) -> dict[str, Tensor]:
        """Give what has turned out to be slow."""
        return {f"{kind}.{name}": torch.tensor(m) for (kind, name), m in self._most.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state_dict``'s output."""
        for name, most in state.items():
            kind, _, key = name.partition(".")
            self._most[kind, key] = int(most)
