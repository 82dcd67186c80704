"""Steer a relaxation to a budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lissom.errors import RecipeError
from lissom.extension import StepState
from lissom.plan.cost import Cost
from lissom.relaxation.choice import Choice
from lissom.relaxation.prices import group_weights
from lissom.relaxation.ramp import Ramp
from lissom.relaxation.rank_and_channels import RankAndChannels
from lissom.relaxation.records import as_bytes, as_columns, as_records, from_bytes, under
from lissom.relaxation.shrink import left_after
from lissom.relaxation.support import Key, Slow, Support, as_support, nothing_slow
from lissom.search.price import Configuration

_GAIN, _SLOWEST, _FASTEST = 0.5, 0.8, 1.25  # of a multiplier, per look at the cost
_HALVINGS = 12
_AVERAGE_RATE = 0.8  # of a cosine over the ramp, relative to the rate at its start


class BudgetSteering:
    """The companion that brings a relaxation to a budget by the end of a ramp, exactly.

    One multiplier per limited unit. Every so many steps lambda *= clip(exp(0.5 (C / C_target -
    1)), 0.8, 1.25), C the cost of what has not vanished, but never more than would bring the cost
    to its target by the next look if the loss did not resist: groups that shrink together would
    otherwise vanish together. What the loss of a column or channel does goes with the square of its
    strength, its energy. Energies fall at the learning rate times lambda times the cost that goes
    with them (norms, where they are what is penalised, with its root): those vanish first that harm
    least per cost. At ``ramp.cut`` the support is cut to the budget, by energy per cost.

    Attributes:
        relaxation: What is steered.
        trajectory: One record per look at the cost.
        notes: Whatever its user wants to find again after an interruption, JSON-ready.
    """

    _decays = False

    def __init__(
        self,
        relaxation: RankAndChannels,
        limits: Mapping[str, int],
        ramp: Ramp | None = None,
        *,
        round_to: int | str = 1,
        slow: Slow = nothing_slow,
    ) -> None:
        """Set the goal.

        Args:
            relaxation: Already relaxed.
            limits: ``macs``, ``params``, with a clock ``nanoseconds``: absolute, at least one.
            ramp: When.
            round_to: Alignment of ranks and channels at the cut.
            slow: Asked when the ramp starts and at the cut, for what is to stay whole though it
                costs more so.
        """
        if relaxation.decays != self._decays:
            kind = "DecaySteering" if relaxation.decays else "BudgetSteering"
            raise RecipeError(
                f"{type(self).__name__}: the relaxation's penalty asks for {kind}; use that, or "
                "another penalty"
            )
        self.relaxation, self._limits, self._ramp = relaxation, dict(limits), ramp or Ramp()
        self._original = relaxation.pricer.price(Configuration())
        self._support: Support | None = None
        self._choice = Choice(relaxation, tuple(limits), round_to, slow)
        self._multipliers: dict[str, float] = {}
        self.trajectory: list[dict[str, float]] = []
        self.notes: dict[str, Any] = {}

    @property
    def most(self) -> Mapping[Key, int]:
        """Give, for what is slow with more, the most columns or channels that it may have."""
        return self._choice.most

    def without_decay(self) -> Iterable[nn.Parameter]:
        """Give the weights of the blocks: their scale is the gauge's business."""
        return self.relaxation.parameters()

    def learns(self) -> Iterable[nn.Parameter]:
        """Give nothing: everything is the optimizer's."""
        return ()

    def penalty(self) -> Tensor | None:
        """Give None: the penalty acts through the proximal step."""
        return None

    def after_step(self, step: StepState) -> bool:
        """Fix the gauge, shrink, look at the cost when it is time; True where the cut was made."""
        self.relaxation.after_step(step)
        if self.relaxation.support is not None or step.progress < self._ramp.start:
            return False
        if step.progress >= self._ramp.cut or step.step + 1 == step.steps:
            self.cut(step.progress, step.optimizer)
            return True
        every = max(1, min(self._ramp.every, step.steps // 100))
        if step.step % every == 0:
            if not self.trajectory:
                # What will be slow as a pair must not lose columns that it would keep as one layer.
                self.choose(self._limits)
            self._steer(step, every)
        return False

    def after_average(self) -> None:
        """Put the zeros back."""
        self.relaxation.hold()

    def status(self) -> str:
        """Give cost and multipliers at the last look."""
        if not self.trajectory:
            return ""
        last = self.trajectory[-1]
        return ", ".join(
            f"{unit} {last[unit]:.2f} of {last[f'target_{unit}']:.2f}" for unit in self._limits
        ) + (f", lambda {last['lambda']:.1e}" if self._multipliers else "")

    def scalars(self) -> dict[str, float]:
        """Give the last look's record."""
        return dict(self.trajectory[-1]) if self.trajectory else {}

    def state_dict(self) -> dict[str, Tensor]:
        """Give multipliers, trajectory and the relaxation's own state."""
        state = {f"relaxation.{k}": v for k, v in self.relaxation.state_dict().items()}
        for unit, value in self._multipliers.items():
            state[f"multiplier.{unit}"] = torch.tensor(value, dtype=torch.float64)
        state |= {f"choice.{k}": v for k, v in self._choice.state_dict().items()}
        return state | {"notes": as_bytes(self.notes)} | as_columns(self.trajectory)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state_dict``'s output."""
        self.relaxation.load_state_dict(under("relaxation.", state))
        multipliers = under("multiplier.", state)
        self._multipliers = {unit: float(value) for unit, value in multipliers.items()}
        self._choice.load_state_dict(under("choice.", state))
        for name, facts in from_bytes(state["notes"]).items() if "notes" in state else ():
            self.notes.setdefault(name, {}).update(facts)
        self.trajectory = as_records(state)

    def _steer(self, step: StepState, every: int) -> None:
        """Look at the cost and adapt the multipliers."""
        strengths = self.relaxation.strengths()
        now = self.relaxation.expected()
        cost = self.relaxation.pricer.price(now)
        weights = group_weights(self.relaxation, strengths, now, self._limits)
        if not self._multipliers:
            first = self._first(strengths, weights, step) / len(self._limits)
            self._multipliers = dict.fromkeys(self._limits, first)
        for unit, value in self._multipliers.items():
            excess = self._fraction(cost, unit) / self._target(step.progress, unit) - 1
            factor = min(max(math.exp(_GAIN * excess), _SLOWEST), _FASTEST)
            self._multipliers[unit] = value * factor
        reach = every * step.learning_rate
        pressure = self._pressure(weights)
        enough = self._enough(strengths, pressure, reach, step.progress + every / step.steps)
        self._record(step.progress, cost)
        self.relaxation.press({key: enough * value for key, value in pressure.items()})

    def _pressure(self, weights: Mapping[Key, Mapping[str, float]]) -> dict[Key, float]:
        """Weigh what vanishes; nothing where pairs are slow at any rank, so that none will be."""
        return {
            key: sum(self._multipliers[unit] * weight for unit, weight in mine.items())
            if key not in self._choice.whole
            else 0.0
            for key, mine in weights.items()
        }

    def _enough(
        self,
        strengths: Mapping[Key, Tensor],
        pressure: Mapping[Key, float],
        reach: float,
        progress: float,
    ) -> float:
        """Give the largest factor on the pressure, at most 1, that does not overshoot.

        Args:
            strengths: Now.
            pressure: Per group.
            reach: Sum of the learning rates until the next look.
            progress: At the next look.
        """
        relaxation = self.relaxation

        def overshoots(factor: float) -> bool:
            amounts = {key: torch.tensor(factor * reach * p) for key, p in pressure.items()}
            left = {k: left_after(v, amounts[k], relaxation.power) for k, v in strengths.items()}
            cost = relaxation.pricer.price(relaxation.configuration(as_support(left)))
            return all(
                self._fraction(cost, unit) < self._target(progress, unit) for unit in self._limits
            )

        if not overshoots(1.0):
            return 1.0
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if overshoots(middle) else (middle, high)
        return high

    def choose(self, limits: Mapping[str, int]) -> Support:
        """Choose what stays within limits, until nothing of it is slow.

        Args:
            limits: As at the start.

        Raises:
            BudgetError: Not even the smallest network keeps them.
        """
        return self._choice.choose(limits, self._multipliers)

    def decide(self, support: Support) -> None:
        """Settle beforehand what stays at the cut: what ``choose`` gave."""
        self._support = support

    def cut(self, progress: float = 0.0, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Cut the support now; left to the caller where there is no step to do it after."""
        support = self._support or self.choose(self._limits)
        cost = self.relaxation.pricer.price(self.relaxation.configuration(support))
        self.relaxation.refit(support, optimizer)
        self.relaxation.freeze(support)
        self._record(progress, cost)

    def _first(
        self,
        strengths: Mapping[Key, Tensor],
        weights: Mapping[Key, Mapping[str, float]],
        step: StepState,
    ) -> float:
        """Give the multiplier that lets the median column or channel vanish by the ramp's end."""
        power = self.relaxation.power
        relative = torch.cat(
            [values.pow(power) / sum(weights[key].values()) for key, values in strengths.items()]
        )
        steps = (self._ramp.end - step.progress) * step.steps
        reach = power * max(steps, 1) * step.learning_rate * _AVERAGE_RATE
        return len(self._limits) * float(relative.median()) / reach

    def _fraction(self, cost: Cost, unit: str) -> float:
        return float(getattr(cost, unit) / getattr(self._original, unit))

    def _target(self, progress: float, unit: str) -> float:
        return self._ramp.target(progress, self._limits[unit] / getattr(self._original, unit))

    def _record(self, progress: float, cost: Cost) -> None:
        record = {
            "progress": progress,
            "lambda": sum(self._multipliers.values()),
        }
        record |= {unit: self._fraction(cost, unit) for unit in ("macs", "params", *self._limits)}
        record |= {f"target_{unit}": self._target(progress, unit) for unit in self._limits}
        record["target"] = record[f"target_{next(iter(self._limits))}"]
        self.trajectory.append(record)
