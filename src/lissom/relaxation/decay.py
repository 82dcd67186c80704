"""Bring a relaxation to a budget by letting fade what is about to go, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lissom.extension import StepState
from lissom.plan.cost import Cost
from lissom.relaxation.ramp import Ramp
from lissom.relaxation.rank_and_channels import RankAndChannels
from lissom.relaxation.steering import BudgetSteering
from lissom.relaxation.support import COLUMNS, ROWS, Key, Slow, Support, as_support, nothing_slow

_FADING = 2.0  # strength falls to exp(-2), energy to a fiftieth, within the lead


class DecaySteering(BudgetSteering):
    """The companion that lets fade what the budget will not hold, some time before it goes.

    At every look one threshold on energy per cost says what the target cost holds now, and what
    the target a little later, the lead, will hold. What is outside the first vanishes for good;
    what is outside the second loses the same share of its strength at each step. Everything else
    is left alone, all columns of a layer that would be merged with it: a penalty takes from what
    stays nearly as much as from what goes wherever energies lie close together. What fades may come
    back where the loss restores it.

    Attributes:
        relaxation: What is steered.
        trajectory: One record per look at the cost.
    """

    _decays = True

    def __init__(
        self,
        relaxation: RankAndChannels,
        limits: Mapping[str, int],
        ramp: Ramp | None = None,
        *,
        lead: float = 0.1,
        round_to: int | str = 1,
        slow: Slow = nothing_slow,
    ) -> None:
        """Set the goal.

        Args:
            relaxation: Already relaxed, with the penalty ``decay``.
            limits: ``macs``, ``params``, with a clock ``nanoseconds``: absolute, at least one.
            ramp: When.
            lead: Share of the training for which something fades before it goes.
            round_to: Alignment of ranks and channels.
            slow: Asked at every look, for what is to stay whole though it costs more so.
        """
        super().__init__(relaxation, limits, ramp, round_to=round_to, slow=slow)
        self._lead = lead

    def _steer(self, step: StepState, every: int) -> None:  # noqa: ARG002  (looks are frequent)
        """Choose what goes and what fades."""
        strengths = self.relaxation.strengths()
        gone = self._outside(strengths, step.progress)
        fading = self._outside(strengths, step.progress + self._lead)
        share = 1 - math.exp(-_FADING / max(self._lead * step.steps, 1))
        self.relaxation.press(
            {key: torch.where(gone[key], 1.0, share * fading[key].float()) for key in strengths}
        )
        left = {key: values.masked_fill(gone[key], 0) for key, values in strengths.items()}
        self._record(step.progress, self._cost(left))

    def _outside(self, strengths: Mapping[Key, Tensor], progress: float) -> dict[Key, Tensor]:
        """Give what the target cost at ``progress`` does not hold."""
        limits = {
            unit: max(math.floor(self._target(progress, unit) * self._whole(unit)), limit)
            for unit, limit in self._limits.items()
        }
        kept = self._choice.choose(limits, self._multipliers)
        return {key: ~_mask(kept, key) for key in strengths}

    def _cost(self, strengths: Mapping[Key, Tensor]) -> Cost:
        """Price what has not vanished."""
        alive = as_support({key: values > 0 for key, values in strengths.items()})
        return self.relaxation.pricer.price(self.relaxation.configuration(alive))

    def _whole(self, unit: str) -> int:
        return int(getattr(self._original, unit))


def _mask(support: Support, key: Key) -> Tensor:
    kind, name = key
    masks = {COLUMNS: support.columns, ROWS: support.rows}
    return masks[kind][name]
