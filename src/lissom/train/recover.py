"""Win back what compression lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from lissom.task import Data, Task
from lissom.train.checkpoint import Checkpoint
from lissom.train.history import History
from lissom.train.loop import train
from lissom.train.recalibrate import recalibrate
from lissom.train.settings import TrainSettings


def recover(  # noqa: PLR0913  (as train, which it calls)
    model: nn.Module,
    data: Data,
    task: Task,
    settings: TrainSettings,
    *,
    teacher: nn.Module | None = None,
    checkpoint: Checkpoint | None = None,
    logs: Path | None = None,
) -> History:
    """Train ``model`` in place, then recalibrate its batch norms; with 0 epochs only the latter.

    Args:
        model: The compressed network.
        data: ``train`` and ``held_out`` are read.
        task: The user's task.
        settings: How to train.
        teacher: Usually the original network.
        checkpoint: As in ``train``.
        logs: As in ``train``.

    Raises:
        DataError: A set is empty.
        RecipeError: The device is missing, or ``checkpoint`` is another run's.
        LissomError: The loss became NaN or infinite, or the checkpoint can't be written.
    """
    history = train(model, data, task, settings, teacher=teacher, checkpoint=checkpoint, logs=logs)
    recalibration = recalibrate(model, data, task, settings, teacher=teacher)
    return replace(history, recalibration=recalibration)
