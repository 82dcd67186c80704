"""The metric over a set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from lissom.errors import DataError
from lissom.progress import meter
from lissom.task import Task, on_copies
from lissom.train.machine import autocast, choose_device, choose_precision, lent, moved


def evaluate(
    model: nn.Module,
    batches: Iterable[Any],
    task: Task,
    *,
    device: str = "auto",
    precision: str = "32",
) -> float:
    """Give the mean score over all samples, in eval mode and without gradients.

    Args:
        model: Left as it was, mode and place included.
        batches: The set.
        task: Says what a score is.
        device: As in ``TrainSettings``.
        precision: As in ``TrainSettings``; results are reported in ``32``.

    Raises:
        DataError: The set is empty.
    """
    place = choose_device(device)
    chosen = choose_precision(precision, place)
    total, count = 0.0, 0
    with lent(model, place), torch.inference_mode():
        model.eval()
        for batch in batches:
            here = moved(batch, place)
            with autocast(chosen, place):
                outputs = on_copies(model, task.inputs(here))
            scores = task.scores(outputs, here)
            total += float(scores.double().sum())
            count += scores.numel()
    if count == 0:
        raise DataError("the set to evaluate on is empty; expected at least one batch")
    return total / count


def watched(description: str, batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches under a progress bar, if they know how many they are.

    Args:
        description: What the bar says.
        batches: The set.
    """
    try:
        total = len(batches)  # type: ignore[arg-type]  # a set need not have a length
    except TypeError:
        yield from batches
        return
    with meter(description, total) as bar:
        for batch in batches:
            yield batch
            bar.advance()
