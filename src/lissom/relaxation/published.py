"""The published schedule: fixed multipliers behind a sigmoid ramp, a threshold at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from lissom.extension import StepState
from lissom.relaxation.rank_and_channels import RankAndChannels
from lissom.relaxation.records import as_columns, as_records, under
from lissom.relaxation.support import COLUMNS, ROWS, as_support

FIRST_DROP = 0.5  # share of the training after which the published learning rate falls first
_STEEPNESS = 15
_THRESHOLD = 1e-2  # of the layer's largest norm


class PublishedSchedule:
    """The companion of the faithful setting.

    loss + lam_rank sum_j ||A_j|| + lam_channel sum_i ||A_i||, by a proximal step after each step of
    the optimizer, both multipliers ramped by sigmoid(15 (2 e / E - 1)) until the first drop of the
    learning rate E. After the last step what is below 1e-2 of its layer's largest norm vanishes.
    What that costs is whatever it is: no budget is aimed at.

    Attributes:
        relaxation: In the plain form, with rows of A.
        trajectory: Multiplier and cost at each look.
        notes: Empty: nothing is timed.

    Source:
        Ruan et al., IEEE TNNLS 32, 2021, abstract; the ramp and the threshold after the authors'
        later code (DPFPS).
    """

    def __init__(
        self, relaxation: RankAndChannels, lam_rank: float, lam_channel: float, every: int = 50
    ) -> None:
        """Set the multipliers.

        Args:
            relaxation: Already relaxed.
            lam_rank: Of the columns.
            lam_channel: Of the rows.
            every: Steps between two looks at the cost, which change nothing.
        """
        self.relaxation, self._every = relaxation, every
        self._lambda = {True: lam_rank, False: lam_channel}
        self.trajectory: list[dict[str, float]] = []
        self.notes: dict[str, Any] = {}

    def without_decay(self) -> Iterable[nn.Parameter]:
        """Give nothing: the published weight decay is on everything."""
        return ()

    def learns(self) -> Iterable[nn.Parameter]:
        """Give nothing: everything is the optimizer's."""
        return ()

    def penalty(self) -> Tensor | None:
        """Give None: the penalty acts through the proximal step."""
        return None

    def after_step(self, step: StepState) -> bool:
        """Shrink; after the last step cut what is below the threshold, and say so."""
        ramp = 1 / (1 + math.exp(-_STEEPNESS * (2 * step.progress / FIRST_DROP - 1)))
        if step.progress > FIRST_DROP:
            ramp = 1.0
        units = {(COLUMNS, n): one.total for n, one in self.relaxation.columns.items()}
        units |= {(ROWS, n): one.total for n, one in self.relaxation.rows.items()}
        self.relaxation.press(
            {key: ramp * self._lambda[key[0] == COLUMNS] / unit for key, unit in units.items()}
        )
        self.relaxation.after_step(step)
        last = step.step + 1 == step.steps
        if last:
            strengths = self.relaxation.strengths()
            masks = {key: v > _THRESHOLD * v.max() for key, v in strengths.items()}
            self.relaxation.freeze(as_support(masks))
        if last or step.step % self._every == 0:
            self._look(step.progress, ramp)
        return False

    def after_average(self) -> None:
        """Put the zeros back."""
        self.relaxation.hold()

    def status(self) -> str:
        """Give the cost at the last look."""
        return f"macs {self.trajectory[-1]['macs']:.2f}" if self.trajectory else ""

    def scalars(self) -> dict[str, float]:
        """Give the last look's record."""
        return dict(self.trajectory[-1]) if self.trajectory else {}

    def state_dict(self) -> dict[str, Tensor]:
        """Give the trajectory and the relaxation's own state."""
        state = {f"relaxation.{k}": v for k, v in self.relaxation.state_dict().items()}
        return state | as_columns(self.trajectory)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state_dict``'s output."""
        self.relaxation.load_state_dict(under("relaxation.", state))
        self.trajectory = as_records(state)

    def _look(self, progress: float, ramp: float) -> None:
        relaxation = self.relaxation
        cost = relaxation.pricer.price(relaxation.expected())
        whole = relaxation.graph.cost
        self.trajectory.append(
            {
                "progress": progress,
                "macs": cost.macs / whole.macs,
                "params": cost.params / whole.params,
                "lambda": ramp * self._lambda[True],
            }
        )
