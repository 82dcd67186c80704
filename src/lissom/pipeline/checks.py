"""What is checked before the work starts, so that it does not fail hours later."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lissom.errors import DataError, LissomError, ModelError, RecipeError
from lissom.task import Data, Task
from lissom.train.settings import TrainSettings


def check_finite(model: nn.Module) -> None:
    """Refuse a network that holds NaN, or does not compute in float32.

    Raises:
        ModelError: Names the first tensor with a NaN or infinite value, or the first parameter of
            another type.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise ModelError(
                f"{name}: is {parameter.dtype}, and networks are compressed and exported in "
                "float32; pass model.float()"
            )
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(
                f"{name}: holds NaN or infinite values, expected a trained network; "
                "load sound weights"
            )


def private_copy(model: nn.Module) -> nn.Module:
    """Copy a network to the CPU, in eval mode; one that is frozen as a whole may be trained."""
    own = copy.deepcopy(model).cpu().eval()
    if not any(parameter.requires_grad for parameter in own.parameters()):
        own.requires_grad_()
    return own


def check_data(data: Data) -> None:
    """Refuse sets that are used up by one reading: every set is read several times.

    Raises:
        DataError: A set is an iterator.
    """
    for field in fields(data):
        given = getattr(data, field.name)
        if isinstance(given, Iterator):
            raise DataError(
                f"data.{field.name}: a {type(given).__name__} gives its batches only once, and "
                "every set is read several times; pass a DataLoader or a list"
            )


def check_epochs(epochs: int, methods: Sequence[Any]) -> None:
    """Refuse epochs where nothing is trained, and none where all is learned in them.

    Args:
        epochs: Of recovery. The default is let pass where no stage trains and none is recovered:
            the recipe of a run spells it out.
        methods: One per stage.

    Raises:
        RecipeError: Names the field and the methods.
    """
    for number, one in enumerate(methods):
        if epochs == 0 and getattr(one, "settles", False) and one.trains:
            raise RecipeError(
                f"recover.epochs=0: stages.{number} ({one.name}) learns everything in its "
                "training; expected 1 or more: give --epochs, or set mode=post_training in the "
                "stage, which needs none"
            )
    settled = all(getattr(one, "settles", False) and not one.trains for one in methods)
    if not settled or epochs in (0, TrainSettings().epochs):
        return
    names = ", ".join(one.name for one in methods)
    raise RecipeError(
        f"recover.epochs={epochs}: has no effect, {names} as set up here neither trains nor is "
        "recovered; expected 0: leave it out, or set mode=joint in the stage (ajc)"
    )


def check_classes(model: nn.Module, inputs: tuple[Tensor, ...], classes: int) -> None:
    """Refuse a classifier with fewer outputs than the data set has classes.

    Args:
        model: The network.
        inputs: Example inputs.
        classes: How many classes the set has; 0 where it is not known.

    Raises:
        DataError: Names both numbers.
    """
    try:
        outputs = _outputs(model, inputs)
    except Exception:  # capture says what keeps the network from running
        return
    if isinstance(outputs, Tensor) and outputs.dim() == 2 and outputs.shape[1] < classes:
        raise DataError(
            f"the data set has {classes} classes, the network has {outputs.shape[1]} outputs; "
            "choose a network for these data (its constructor's arguments: --set "
            f"model.arguments.classes={classes}, num_classes={classes} outside lissom)"
        )


def check_teacher(
    model: nn.Module, teacher: nn.Module | None, task: Task, inputs: tuple[Tensor, ...]
) -> None:
    """Refuse a teacher whose outputs can't be compared with the network's.

    Args:
        model: The network.
        teacher: What it is to learn from; None: itself.
        task: Measures the distance.
        inputs: Example inputs.

    Raises:
        RecipeError: The outputs have other shapes, or the teacher does not take these inputs.
    """
    if teacher is None:
        return
    try:
        ours, theirs = _outputs(model, inputs), _outputs(teacher, inputs)
        if _shapes(ours) == _shapes(theirs):
            task.distance(ours, theirs)
            return
    except LissomError:
        raise
    except Exception as error:  # a user's network and task may raise anything
        reason = str(error).partition("\n")[0]
        raise RecipeError(
            f"teacher: can't be run beside the network ({reason}); expected one that takes the "
            "same inputs and gives the same outputs"
        ) from error
    raise RecipeError(
        f"teacher: gives outputs of shape {_shapes(theirs)}, the network {_shapes(ours)}; "
        "expected the same (the same classes): choose another teacher"
    )


def _outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    device = next(iter(model.parameters()), inputs[0]).device
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            return model.eval()(*(part.to(device) for part in inputs))
    finally:
        for module, mode in modes.items():
            module.training = mode


def _shapes(outputs: Any) -> str:
    shapes = [tuple(leaf.shape) for leaf in pytree.tree_leaves(outputs) if hasattr(leaf, "shape")]
    return ", ".join(map(str, shapes))
