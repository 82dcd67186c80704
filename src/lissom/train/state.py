"""Everything that a training changes, as tensors by name: what a checkpoint keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lissom.extension import Companion
from lissom.train.distill import RememberedTeacher
from lissom.train.schedule import MovingAverage


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Everything that a training changes.

    Attributes:
        model: The network.
        optimizer: Its momenta are read and written, its settings are not.
        average: Of the weights over time.
        companion: What takes part in every step, or None.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: MovingAverage
    companion: Companion | None

    def tensors(self, teacher: object) -> dict[str, Tensor]:
        """Give all tensors by name.

        Args:
            teacher: What it has remembered is part of the state.
        """
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        tensors |= {f"average.{name}": t for name, t in self.average.values.items()}
        tensors["average since"] = torch.tensor(self.average.since)
        for number, parameter in enumerate(self._trained()):
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{number}.{key}"] = torch.as_tensor(value)
        if isinstance(teacher, RememberedTeacher):
            tensors |= {f"teacher.{name}": t for name, t in teacher.state().items()}
        if self.companion is not None:
            tensors |= {f"companion.{n}": t for n, t in self.companion.state_dict().items()}
        return tensors

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], teacher: object) -> None:
        """Continue from what ``tensors`` gave, in place.

        Args:
            tensors: By name, on any device.
            teacher: Gets back what it had remembered.
        """
        for name, tensor in self.model.state_dict().items():
            tensor.copy_(tensors[f"model.{name}"])
        self.average.restore(_under("average.", tensors), int(tensors["average since"]))
        parameters = self._trained()
        for name, value in _under("optimizer.", tensors).items():
            number, _, key = name.partition(".")
            parameter = parameters[int(number)]
            self.optimizer.state[parameter][key] = _like(parameter, value)
        if isinstance(teacher, RememberedTeacher):
            teacher.restore(_under("teacher.", tensors))
        if self.companion is not None:
            self.companion.load_state_dict(_under("companion.", tensors))

    def _trained(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """Give ``value`` the strides of its parameter: kernels round differently on other strides."""
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter).copy_(value)
