"""Optimizer, learning rate and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lissom.train.settings import TrainSettings

_NORMS = (
    nn.modules.batchnorm._NormBase,  # batch and instance norms
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
_DROPS = (0.5, 0.75)  # shares of the training


def build_optimizer(
    model: nn.Module,
    settings: TrainSettings,
    exempt: Iterable[nn.Parameter] = (),
    others: Iterable[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """Build the optimizer over all trainable parameters; norms and biases have no weight decay.

    Args:
        model: What is trained.
        settings: Kind of optimizer and its numbers.
        exempt: Further parameters without weight decay.
        others: Parameters that somebody else steps.
    """
    taken = {id(parameter) for parameter in others}
    decayed, free = (
        [parameter for parameter in half if id(parameter) not in taken]
        for half in split_by_decay(model, exempt)
    )
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        betas = (settings.momentum, 0.999)
        return torch.optim.AdamW(groups, lr=settings.peak_rate, betas=betas)
    nesterov = settings.momentum > 0
    return torch.optim.SGD(
        groups, lr=settings.peak_rate, momentum=settings.momentum, nesterov=nesterov
    )


def split_by_decay(
    model: nn.Module, exempt: Iterable[nn.Parameter] = ()
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Give the trainable parameters that weight decay applies to, and the others.

    Args:
        model: What is trained.
        exempt: Parameters that belong to the others, besides norms and biases.
    """
    spared = {id(p) for p in exempt}
    spared |= {id(p) for m in model.modules() if isinstance(m, _NORMS) for p in m.parameters()}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            plain = parameter.dim() < 2 or id(parameter) in spared
            (free if plain else decayed).append(parameter)
    return decayed, free


def learning_rate(step: int, steps: int, settings: TrainSettings) -> float:
    """Give the learning rate of a step: linear warm-up, then half a cosine down to 0, or steps.

    Args:
        step: From 0.
        steps: Of the whole training.
        settings: Peak and length of the warm-up.

    Source:
        Loshchilov and Hutter, ICLR 2017, arXiv:1608.03983, eq. 5, without restarts.
    """
    warmup = min(settings.warmup_steps, steps // 10)
    if step < warmup:
        return settings.peak_rate * (step + 1) / warmup
    if settings.schedule == "steps":
        return settings.peak_rate * 0.1 ** sum(step >= share * steps for share in _DROPS)
    progress = (step - warmup) / max(1, steps - warmup)
    return settings.peak_rate * 0.5 * (1 + math.cos(math.pi * progress))


class MovingAverage:
    """Exponential moving average of all floating-point parameters and buffers, in float32.

    The decay grows from 0.1 to its final value as (1 + step) / (10 + step), so that short trainings
    are not held back by their start.

    Attributes:
        values: The average, by name.
        since: Step at which it began.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._current = _floating(model)
        self.since = 0
        self.values = {n: t.detach().float().clone() for n, t in self._current.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after ``step`` (from 0) in."""
        steps = step - self.since
        decay = min(self._decay, (1 + steps) / (10 + steps))
        now = [tensor.detach().float() for tensor in self._current.values()]
        torch._foreach_lerp_(list(self.values.values()), now, 1 - decay)

    @torch.no_grad()
    def restart(self, step: int) -> None:
        """Forget everything before ``step``: the weights then stand for another function."""
        self.since = step
        for name, tensor in self._current.items():
            self.values[name].copy_(tensor)

    @torch.no_grad()
    def restore(self, values: Mapping[str, Tensor], since: int = 0) -> None:
        """Continue from an earlier average, that began at step ``since``."""
        self.since = since
        for name, value in self.values.items():
            value.copy_(values[name])

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Overwrite the weights by their average."""
        for name, tensor in self._current.items():
            tensor.copy_(self.values[name])


def _floating(model: nn.Module) -> dict[str, Tensor]:
    """Name every floating-point parameter and buffer once, tied ones too."""
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}
