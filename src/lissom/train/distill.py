"""The teacher, and the memory of what it said."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lissom.errors import RecipeError
from lissom.task import on_copies
from lissom.train.machine import Machine, autocast


@runtime_checkable
class ViewLoader(Protocol):
    """A loader that can show a fixed number of augmented versions of each image, in turn."""

    def set_epoch(self, epoch: int) -> None:
        """Choose what the next iteration yields."""

    def fix_views(self, count: int) -> None:
        """Show version e mod ``count`` in epoch e; 0: a new one every epoch."""

    def order(self) -> Tensor:
        """Give the image numbers in the order in which this epoch yields them, shape (images,)."""


class Teacher:
    """A private copy of a network whose outputs are to be imitated; it learns nothing."""

    def __init__(self, network: nn.Module, machine: Machine) -> None:
        self._network = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
        machine.take(self._network)
        self._machine = machine

    @torch.no_grad()
    def __call__(self, inputs: tuple[Tensor, ...]) -> Any:
        """Give the outputs for one batch."""
        with autocast(self._machine.precision, self._machine.device):
            return on_copies(self._network, inputs)


class RememberedTeacher:
    """A teacher whose outputs for k versions of every image are kept as float16 and looked up.

    A batch is computed if any of its images is new, and what is stored is what is given out, so
    that the first use of an image equals the later ones.
    """

    def __init__(self, teacher: Teacher, loader: ViewLoader, views: int) -> None:
        self._teacher = teacher
        self._loader = loader
        self._views = views
        self._outputs: dict[int, Tensor] = {}
        self._known: dict[int, Tensor] = {}
        self._view, self._place = 0, 0
        self._order = torch.empty(0, dtype=torch.int64)

    def start_epoch(self, epoch: int) -> None:
        """Say that the loader is about to yield ``epoch``."""
        self._view, self._place = epoch % self._views, 0
        self._order = self._loader.order()

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Give the outputs for the next batch of the epoch.

        Raises:
            RecipeError: The teacher's output is not one tensor.
        """
        size = len(inputs[0])
        index = self._order[self._place : self._place + size]
        self._place += size
        if self._view not in self._known or not bool(self._known[self._view][index].all()):
            self._learn(self._teacher(inputs), index)
        return self._outputs[self._view][index].to(inputs[0].device).float()

    def _learn(self, outputs: Any, index: Tensor) -> None:
        if not isinstance(outputs, Tensor):
            raise RecipeError(
                f"teacher_views={self._views}: the teacher gives a {type(outputs).__name__}, "
                "expected one tensor; set teacher_views=0"
            )
        if self._view not in self._known:
            shape = (len(self._order), *outputs.shape[1:])
            self._outputs[self._view] = torch.zeros(shape, dtype=torch.float16)
            self._known[self._view] = torch.zeros(shape[0], dtype=torch.bool)
        self._outputs[self._view][index] = outputs.to("cpu", torch.float16)
        self._known[self._view][index] = True

    def state(self) -> dict[str, Tensor]:
        """Give everything that has been remembered."""
        outputs = {f"outputs.{view}": tensor for view, tensor in self._outputs.items()}
        return outputs | {f"known.{view}": tensor for view, tensor in self._known.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue with what was remembered earlier."""
        for name, tensor in state.items():
            kind, _, view = name.partition(".")
            (self._outputs if kind == "outputs" else self._known)[int(view)] = tensor.clone()


def remembering(teacher: Teacher, loader: object, views: int) -> RememberedTeacher:
    """Let ``teacher`` remember; the loader shows ``views`` versions of each image from now on.

    Raises:
        RecipeError: The loader can't do that.
    """
    if not isinstance(loader, ViewLoader):
        raise RecipeError(
            f"teacher_views={views}: a {type(loader).__name__} can't repeat its augmentations "
            "(it has no fix_views and order); set teacher_views=0 or use a built-in set that is "
            "held in memory"
        )
    loader.fix_views(views)
    return RememberedTeacher(teacher, loader, views)
