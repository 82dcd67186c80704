"""Steer the quantizers of a network to a size of the real file, or to what may be lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lissom.extension import StepState
from lissom.quantization.goals import Goal, Phases
from lissom.quantization.levelled import Levelled
from lissom.quantization.network import QuantizedNetwork
from lissom.quantization.own_adam import OwnAdam
from lissom.quantization.trim import Trimmable

_SLOWEST_RATE, _FASTEST_RATE = 1e-3, 1e-2  # of Adam
_WAY = 4.0  # that it can go in a training, in logs
_TRUST = 0.1  # in what the gradients since the last look say of the price of a bit
_KEEP = 0.5  # of the code lengths, per look
_FISHER_DECAY = 0.99
_FISHER_SHARE = 0.1  # of the training, before levels are held
_EVEN = 0.5  # share of a layer's mean in the curvature of each of its weights


@dataclass(frozen=True, slots=True)
class FileSize:
    """Bytes of a packed file.

    Attributes:
        levels: Of the levels.
        others: Of everything else.
    """

    levels: int
    others: int

    @property
    def total(self) -> int:
        """Bytes of the whole file."""
        return self.levels + self.others


class Weigh(Protocol):
    """Packs the network with given levels, and gives the size of the file."""

    def __call__(self, levels: Mapping[str, Levelled]) -> FileSize:
        """Give the bytes of the real file."""


@dataclass(slots=True)
class _State:
    """Numbers that a resumed training needs.

    Attributes:
        price: lambda, nats per bit.
        saving: -dR/dlog s at the last look, bits.
        steps: Since then.
        coder: Real bytes of the levels per byte of their entropy.
        others: Bytes of the file besides levels.
        turn: Which weighing was the last.
    """

    price: float = 0.0
    saving: float = 0.0
    steps: float = 0.0
    coder: float = 1.0
    others: float = 0.0
    turn: float = -1.0


class SizeSteering:
    """The companion that brings a quantized network to a size by the end of a training.

    Every so many steps all quantization steps are multiplied by one factor, so that the levels'
    entropy, times what the real file has shown to be the coder's factor, is at the size that is
    aimed at. The factor alone keeps the size; which layer gets how much is learned: the price of
    the levels is in the loss, and a bit's price lambda, nats per bit, is what the loss says it is
    worth. Where a common factor on all steps s gains and loses nothing, lambda = - (dL/dlog s) /
    (dR/dlog s); its moving average is taken. At ``hold`` the levels are trimmed until the real file
    fits, and change no more.

    Steps, thresholds and ranges are learned by an Adam of their own.

    Attributes:
        network: What is steered.
        trajectory: One record per look.
    """

    def __init__(
        self,
        network: QuantizedNetwork,
        goal: Goal,
        weigh: Weigh,
        phases: Phases,
        rate: float | None = None,
    ) -> None:
        """Set the goal.

        Args:
            network: Already attached.
            goal: Says how many bytes the file should have.
            weigh: Gives the bytes of the file that would be written now.
            phases: When.
            rate: Learning rate of steps, thresholds and ranges; None: 0.001, and up to 0.01 in
                short trainings, so that they can get anywhere.
        """
        self.network, self._goal, self._weigh = network, goal, weigh
        self._phases, self._rate = phases, rate
        self._own = network.parameters()
        self._adam = OwnAdam(self._own)
        self._state = _State()
        self._pull = torch.zeros((), dtype=torch.float64)
        self._fisher: dict[str, Tensor] = {}
        self.trajectory: list[dict[str, float]] = []

    def learns(self) -> Iterable[nn.Parameter]:
        """Give steps, thresholds and ranges."""
        return self.network.parameters()

    def without_decay(self) -> Iterable[nn.Parameter]:
        """Give nothing: steps follow the deviation of the weights."""
        return ()

    def penalty(self) -> Tensor | None:
        """Give lambda times the price of all levels."""
        if self.network.holds or not self.trajectory:
            return None
        return self._state.price * self.network.bits()

    def after_step(self, step: StepState) -> bool:
        """Step what the steering learns, look at the size; True where the levels were held."""
        self._learn(step)
        if self.network.holds:
            return False
        if step.progress >= self._phases.hold - _FISHER_SHARE:
            self._watch_gradients()
        if step.progress >= self._phases.hold or step.step + 1 == step.steps:
            self._hold(step)
            return True
        jumped = self.network.advance(step.progress)
        every = max(1, min(self._phases.every, step.steps // 100))
        if jumped or step.step % every == 0:
            self._look(step)
        return jumped

    def after_average(self) -> None:
        """Leave everything as it is: levels that hold are no weights."""

    def status(self) -> str:
        """Give size and multiplier at the last look."""
        if not self.trajectory:
            return ""
        last = self.trajectory[-1]
        return (
            f"{last['bytes'] / 1e3:.1f} kB of {last['target'] / 1e3:.1f}, "
            f"lambda {last['lambda']:.1e}"
        )

    def scalars(self) -> dict[str, float]:
        """Give the last look's record."""
        return dict(self.trajectory[-1]) if self.trajectory else {}

    def state_dict(self) -> dict[str, Tensor]:
        """Give multiplier, what the file has shown, trajectory and Adam's moments."""
        state = {"numbers": torch.tensor(astuple(self._state), dtype=torch.float64)}
        state["pull"] = self._pull
        state["goal"] = torch.tensor(self._goal.numbers(), dtype=torch.float64)
        state |= {f"network.{name}": value for name, value in self.network.state_dict().items()}
        state |= {f"fisher.{name}": value for name, value in self._fisher.items()}
        state |= {f"adam.{name}": value for name, value in self._adam.state_dict().items()}
        for key in self.trajectory[0] if self.trajectory else ():
            column = [record[key] for record in self.trajectory]
            state[f"trajectory.{key}"] = torch.tensor(column, dtype=torch.float64)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state_dict``'s output."""
        self._state = _State(*state["numbers"].tolist())
        self._pull = state["pull"].clone()
        self._goal.restore(state["goal"].tolist())
        self.network.load_state_dict(_under("network.", state))
        self._fisher = {name: value.clone() for name, value in _under("fisher.", state).items()}
        self._adam.load_state_dict(_under("adam.", state))
        columns = {k: v.tolist() for k, v in _under("trajectory.", state).items()}
        length = len(next(iter(columns.values()), []))
        self.trajectory = [{k: v[i] for k, v in columns.items()} for i in range(length)]

    def _learn(self, step: StepState) -> None:
        """Step steps, thresholds and ranges, at a rate that falls like a cosine."""
        if not self._own:
            return
        grads = [zone.sigma.grad for zone in self.network.zones.values()]
        pull = torch.stack([grad for grad in grads if grad is not None]).double().sum()
        self._pull = self._pull.to(pull.device) + pull
        self._state.steps += 1
        rate = self._rate or min(max(_WAY / step.steps, _SLOWEST_RATE), _FASTEST_RATE)
        self._adam.step(rate, step.progress)

    @torch.no_grad()
    def _watch_gradients(self) -> None:
        """Average the squares of the weights' gradients."""
        for name, weight in self.network.weights().items():
            if weight.grad is None:
                continue
            square = weight.grad.float().square()
            if name in self._fisher:
                self._fisher[name] = self._fisher[name].to(square).lerp_(square, 1 - _FISHER_DECAY)
            else:
                self._fisher[name] = square

    def _look(self, step: StepState) -> None:
        """Say what a bit is worth, weigh the file when it is time, and go to the size aimed at."""
        state = self._state
        self._appraise()
        turn = self._phases.turn(step.progress)
        if turn > state.turn:
            size = self._weigh(self.network.levelled())
            state.coder = 8 * size.levels / max(self.network.entropy(), 1.0)
            state.others, state.turn = size.others, turn
        goal = self._goal.aim(step.progress, self._size())
        if step.progress >= self._phases.start:
            self._go_to(goal)
        self.network.refresh(_KEEP if self.trajectory else 0.0)
        self._record(step.progress, self._size(), goal)

    def _go_to(self, size: float, *, over: bool = False) -> None:
        bits = 8 * max(size - self._state.others, 1) / self._state.coder
        self.network.widen_to(bits, over=over)

    def _size(self) -> float:
        """Estimate the bytes of the file."""
        return self._state.coder * self.network.entropy() / 8 + self._state.others

    def _appraise(self) -> None:
        """Take the price of a bit from the gradients since the last look."""
        state = self._state
        if state.steps and state.saving:
            worth = float(self._pull) / state.steps / state.saving + state.price
            state.price = max(state.price + _TRUST * (worth - state.price), 0.0)
        self._pull, state.steps = torch.zeros((), dtype=torch.float64), 0
        if not self._own:
            return
        sigmas = [zone.sigma for zone in self.network.zones.values()]
        slopes = torch.autograd.grad(self.network.bits(), sigmas)
        state.saving = -float(torch.stack(slopes).sum())

    def _hold(self, step: StepState) -> None:
        if not self.trajectory:
            self._look(step)
        if self._goal.trims:
            self._go_to(self._goal.aim(step.progress, self._size()), over=True)
        levelled = self.network.levelled()
        weights = self.network.weights()
        tensors = {
            name: Trimmable(
                weights[name].detach().cpu(), one.levels, one.step, self._curvature(name)
            )
            for name, one in levelled.items()
        }

        def measure(levels: Mapping[str, Tensor]) -> float:
            given = {name: Levelled(q, levelled[name].step) for name, q in levels.items()}
            return self._weigh(given).total

        found = self._goal.levels(tensors, measure)
        self.network.hold(found)
        size = measure(found)
        self._record(step.progress, size, self.trajectory[-1]["target"])

    def _curvature(self, layer: str) -> Tensor:
        """Give the mean squared gradient per weight, drawn half-way to the layer's mean."""
        fisher = self._fisher.get(layer)
        if fisher is None:  # not trained: as much as the others
            means = [float(one.mean()) for one in self._fisher.values()]
            return torch.tensor(sum(means) / len(means) if means else 1.0)
        return fisher.cpu().lerp(fisher.mean().cpu(), _EVEN)

    def _record(self, progress: float, size: float, target: float) -> None:
        levelled = self.network.levelled().values()
        weights = sum(one.levels.numel() for one in levelled)
        self.trajectory.append(
            {
                "progress": progress,
                "bytes": float(size),
                "target": float(target),
                "lambda": self._state.price,
                "density": sum(one.nonzero for one in levelled) / weights,
            }
        )


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
