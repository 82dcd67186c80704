"""Whether two layers in a row are faster than the one layer that they compute: measured."""

from __future__ import annotations

from collections.abc import Mapping

from lissom.errors import BudgetError, MeasureError
from lissom.extension import ModelView
from lissom.plan.cost import Cost
from lissom.relaxation.rank_and_channels import RankAndChannels
from lissom.relaxation.support import within
from lissom.search.price import Configuration, LowRank, Pricer
from lissom.train.processes import Processes


class PairClock:
    """Decides merging by the clock, within the budget.

    A pair that costs no less than the one layer is merged in any case; one that costs less but runs
    slower is merged as long as the network stays within its limits. What the machine is too busy to
    tell is decided by cost.

    Attributes:
        times: Per layer milliseconds of the pair and of the one layer.
        busy: Why layers were not timed; "" where all were.
    """

    def __init__(
        self, relaxation: RankAndChannels, view: ModelView, limits: Mapping[str, int]
    ) -> None:
        """Measure nothing yet.

        Args:
            relaxation: As trained.
            view: The network before it was relaxed, and the clock.
            limits: ``macs``, ``params``: absolute.

        Raises:
            BudgetError: There is no clock.
        """
        if view.clock is None:
            raise BudgetError(
                "merge=time: nothing can be timed here; run through compress(), give the ModelView "
                "a clock, or set merge=cost"
            )
        self._relaxation, self._limits = relaxation, dict(limits)
        self._pricer = Pricer(view.model, view.graph, view.clock)
        self._cost = relaxation.pricer.price(relaxation.expected())
        self.times: dict[str, tuple[float, float]] = {}
        self.busy = ""

    def pays(self, layer: str, rank: int, kept: Mapping[str, tuple[int, ...]]) -> bool:
        """Say whether a pair is to stay two layers."""
        if not self._relaxation.pays(layer, rank, kept):
            return False
        family = self._relaxation.columns[layer].block.family
        pair = Configuration(kept, {layer: LowRank(family, (rank,))})
        one = Configuration(kept)
        # Every process would find other times, and build another network.
        taken = Processes.here().from_first(lambda: self._taken(layer, pair, one))
        if isinstance(taken, str):
            self.busy = taken
            return True
        self.times[layer] = taken
        grown = self._cost + self._extra(layer, pair, one)
        if taken[0] <= taken[1] or not within(grown, self._limits):
            return True
        self._cost = grown
        return False

    def _extra(self, layer: str, pair: Configuration, one: Configuration) -> Cost:
        pricer = self._relaxation.pricer
        return pricer.layer(layer, one) - pricer.layer(layer, pair)

    def _taken(
        self, layer: str, pair: Configuration, one: Configuration
    ) -> tuple[float, float] | str:
        """Give both times in milliseconds, or why there are none."""
        try:
            two = self._pricer.layer(layer, pair).nanoseconds
            return two / 1e6, self._pricer.layer(layer, one).nanoseconds / 1e6
        except MeasureError as error:
            return str(error)
