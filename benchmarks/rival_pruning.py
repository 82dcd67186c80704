"""Which channels Torch-Pruning takes, and its sparse training as a companion of our loop.

Source:
    Fang et al., DepGraph, CVPR 2023, arXiv:2301.12900; Torch-Pruning 1.6.1 and, for what its
    library leaves open, its reproduce/main.py.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from lissom.errors import BudgetError
from lissom.extension import StepState
from lissom.graph.observe import layer_specs, observe
from lissom.graph.trace import at_batch
from lissom.plan.cost import Cost
from lissom.relaxation.support import within
from lissom.train.schedule import split_by_decay

Limits = Mapping[str, int]
"""The most ``macs`` and ``params`` that may be left."""

Dead = Mapping[str, Sequence[int]]
"""By convolution the output channels that are pruned."""

CUT_AT = 0.6
_STEPS = 400
# The published scripts divide by the largest importance in sparse training, else by the mean.
RANKINGS: Mapping[str, Callable[[], Any]] = {
    "magnitude": partial(tp.importance.GroupMagnitudeImportance, p=2, normalizer="mean"),
    "sparse": partial(tp.importance.GroupMagnitudeImportance, p=2, normalizer="max"),
    "taylor": tp.importance.GroupTaylorImportance,
}
_INNER = re.compile(r"layer\d+\.\d+\.conv1")


@dataclass(frozen=True)
class Pressure:
    """What presses on the weights until the cut.

    Attributes:
        strength: Torch-Pruning's ``reg``.
        weight_decay: Of the optimizer, which is undone: the published sparse training has none.
    """

    strength: float
    weight_decay: float


class GroupNorm:
    """The companion of Torch-Pruning's sparse training; the channels fall in the midst of it.

    Its regulariser adds to the gradients before the optimizer's step. Here the same pull, which its
    own code computes from the same weights, is the gradient of the penalty, whose value is zero, so
    that losses stay comparable. It looks at its numbers and so makes a GPU wait.

    The optimizer and the learning rates go on across the cut: until the end of the training the
    channels are kept at zero, filters, scales and shifts, which is the smaller network exactly.

    Attributes:
        dead: The channels that fell, empty before the cut.
        accuracies: On the test set, right before and right after the cut, both with the weights and
            batch norm statistics of the moment; empty before. For the report alone.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[Tensor, ...],
        pressure: Pressure,
        limits: Limits,
        score: Callable[[nn.Module], float],
    ) -> None:
        self.dead: dict[str, list[int]] = {}
        self.accuracies: tuple[float, ...] = ()
        self._model, self._inputs, self._limits = model, inputs, limits
        self._pressure, self._score = pressure, score
        self._zeros: list[tuple[Tensor, int, Tensor]] = []
        self._decayed = {id(parameter) for parameter in split_by_decay(model)[0]}
        self.pruner = pruner_of(model, inputs, "sparse", reg=pressure.strength)

    def learns(self) -> tuple[nn.Parameter, ...]:
        """Give nothing: everything is the optimizer's."""
        return ()

    def without_decay(self) -> Iterable[nn.Parameter]:
        """Give nothing: after the cut everything decays; before it ``penalty`` undoes that."""
        return ()

    def penalty(self) -> Tensor | None:
        """Give zero with the gradient that Torch-Pruning adds; None after the cut."""
        if self.accuracies:
            return None
        parameters = list(self._model.parameters())
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.pruner.regularize(self._model)
        terms = []
        for parameter in parameters:
            pull = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            if id(parameter) in self._decayed:
                pull = pull - self._pressure.weight_decay * parameter.detach()
            terms.append(((parameter - parameter.detach()) * pull).sum())
            parameter.grad = None
        return torch.stack(terms).sum()

    def after_step(self, step: StepState) -> bool:
        """Choose the channels at the cut; keep them at zero from then on."""
        if self.accuracies:
            self._silence()
            return False
        if step.progress < CUT_AT:
            return False
        before = self._score(self._model)
        self.dead = choose(self._model, self._inputs, self._limits, "sparse")
        self._silence()
        self.accuracies = (before, self._score(self._model))
        return True

    def after_average(self) -> None:
        """Put the zeros back."""
        self._silence()

    @torch.no_grad()
    def _silence(self) -> None:
        if not self._zeros:
            self._zeros = zeros_of(self._model, self.pruner.DG, self.dead)
        for parameter, axis, places in self._zeros:
            parameter.index_fill_(axis, places.to(parameter.device), 0)

    def status(self) -> str:
        """Say which phase it is."""
        return "pruned" if self.accuracies else "sparse training"

    def scalars(self) -> dict[str, float]:
        """Give the number of channels that fell."""
        return {"channels_removed": float(sum(map(len, self.dead.values())))}

    def state_dict(self) -> dict[str, Tensor]:
        """Give the channels that fell and the accuracies."""
        state = {f"dead.{name}": torch.tensor(dead) for name, dead in self.dead.items()}
        return state | {"accuracies": torch.tensor(self.accuracies, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state_dict``'s output."""
        self.accuracies = tuple(state["accuracies"].tolist())
        self.dead = {
            name.removeprefix("dead."): value.tolist()
            for name, value in state.items()
            if name.startswith("dead.")
        }


def pruner_of(model: nn.Module, inputs: tuple[Tensor, ...], ranking: str, **options: float) -> Any:
    """Give Torch-Pruning's pruner for the inner channels of a residual network.

    Args:
        model: Left in its mode; for ``taylor`` with gradients.
        inputs: Of batch 1.
        ranking: One of ``RANKINGS``.
        **options: Of the pruner.
    """
    untouched = [
        module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not _INNER.fullmatch(name)
    ]
    kind = tp.pruner.GroupNormPruner if ranking == "sparse" else tp.pruner.BasePruner
    device, training = next(model.parameters()).device, model.training
    pruner = kind(
        model,
        tuple(part.to(device) for part in inputs),
        RANKINGS[ranking](),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=_STEPS,
        ignored_layers=untouched,
        **options,
    )
    model.train(training)  # it leaves the network in eval mode
    return pruner


def choose(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    limits: Limits,
    ranking: str,
    gradients: Mapping[str, Tensor] | None = None,
) -> dict[str, list[int]]:
    """Give the output channels, by convolution, that Torch-Pruning removes to meet a budget.

    Args:
        model: Left as it is.
        inputs: Of batch 1.
        limits: The most ``macs`` and ``params`` that may be left.
        ranking: One of ``RANKINGS``.
        gradients: Of the loss, by parameter, for ``taylor``.
    """
    network = copy.deepcopy(model).cpu().eval()
    for name, gradient in (gradients or {}).items():
        network.get_parameter(name).grad = gradient.cpu().clone()
    pruner = pruner_of(network, inputs, ranking)
    while not within(cost_of(network, inputs), limits):
        if pruner.current_step == _STEPS:
            raise BudgetError(f"Torch-Pruning can't reach {dict(limits)} in the inner channels")
        pruner.step()
    return original_numbers(pruner.pruning_history())


def original_numbers(history: Iterable[Sequence[Any]]) -> dict[str, list[int]]:
    """Give what a pruning history removed, in the numbers of the channels before all of it."""
    dead: dict[str, list[int]] = {}
    for name, _is_output, numbers in history:
        gone = dead.setdefault(name, [])
        found = []
        for number in sorted(numbers):
            # The number-th of those that are still there.
            original = number
            for earlier in sorted(gone):
                original += earlier <= original
            found.append(original)
        gone += found
    return {name: sorted(numbers) for name, numbers in dead.items()}


def cost_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> Cost:
    """Count as ``capture`` does, without looking for what could be cut."""
    batch = at_batch(inputs, 2)
    layers = layer_specs(model, observe(model, batch).sightings, None, 2)
    return sum((layer.cost for layer in layers), Cost())


def zeros_of(model: nn.Module, graph: Any, dead: Dead) -> list[tuple[Tensor, int, Tensor]]:
    """Give what belongs to the dead channels: parameter, axis, places on it."""
    zeros: list[tuple[Tensor, int, Tensor]] = []
    for group in _groups(model, graph, dead):
        for member, numbers in group:
            module, places = member.target.module, torch.tensor(list(numbers))
            if member.handler == tp.prune_conv_in_channels:
                zeros.append((module.weight, 1, places))
            elif member.handler == tp.prune_conv_out_channels:
                zeros.append((module.weight, 0, places))
            elif member.handler == tp.prune_batchnorm_out_channels:
                zeros += [(module.weight, 0, places), (module.bias, 0, places)]
    return zeros


def remove(model: nn.Module, graph: Any, dead: Dead) -> None:
    """Let Torch-Pruning remove the dead channels, in place.

    Args:
        model: On the CPU.
        graph: Its dependency graph.
        dead: What goes.
    """
    for group in _groups(model, graph, dead):
        group.prune()


def _groups(model: nn.Module, graph: Any, dead: Dead) -> list[Any]:
    modules = {name: model.get_submodule(name) for name in dead}
    return [
        graph.get_pruning_group(modules[name], tp.prune_conv_out_channels, list(numbers))
        for name, numbers in dead.items()
    ]
