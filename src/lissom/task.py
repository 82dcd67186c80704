"""What the network is for: inputs, loss, distance between outputs, metric; and its data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.errors import DataError


@dataclass(frozen=True, slots=True)
class Metric:
    """What a number means.

    Attributes:
        name: ``accuracy``, ``mAP``, ...
        unit: ``fraction``, ``dB``, ...
        higher_is_better: Direction.
    """

    name: str
    unit: str
    higher_is_better: bool

    def points_lost(self, before: float, after: float) -> float:
        """Give how much worse a value is: hundredths of a fraction, else in the metric's unit."""
        lost = before - after if self.higher_is_better else after - before
        return 100 * lost if self.unit == "fraction" else lost


@dataclass(frozen=True, slots=True)
class Data:
    """The four sets that a run reads, each anything that yields batches again and again.

    Attributes:
        train: For recovery; shuffled and augmented.
        held_out: For choices (never the test set). Says nothing of generalisation if the network
            has been trained on it.
        test: Read once before and once after.
        calibration: Some thousand training images for statistics and sensitivities, in a fixed
            order.
    """

    train: Iterable[Any]
    held_out: Iterable[Any]
    test: Iterable[Any]
    calibration: Iterable[Any]


class Task(ABC):
    """The user's hook: subclass it for anything that is not classification."""

    metric: Metric

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        """Give the network's positional inputs: the first entry of a (inputs, target) batch."""
        if not isinstance(batch, (tuple, list)) or not batch:
            raise DataError(
                f"a batch is a {type(batch).__name__}; {type(self).__name__} expects "
                "(inputs, targets): let the loader yield pairs or override Task.inputs"
            )
        first = batch[0]
        return tuple(first) if isinstance(first, (tuple, list)) else (first,)

    @abstractmethod
    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Give the scalar training loss, averaged over the batch."""

    @abstractmethod
    def distance(self, outputs: Any, reference: Any, temperature: float = 1.0) -> Tensor:
        """Give how far ``outputs`` are from ``reference`` outputs, averaged over the batch.

        Drives distillation and sensitivity. Zero where they are equal.
        """

    @abstractmethod
    def scores(self, outputs: Any, batch: Any) -> Tensor:
        """Give one score per sample, shape (batch,); the metric is their mean over a set."""


class Classification(Task):
    """Cross entropy, KL divergence between softened outputs, top-1 accuracy."""

    metric = Metric("accuracy", "fraction", higher_is_better=True)

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Give the cross entropy; ``batch`` is (inputs, class indices)."""
        return F.cross_entropy(_logits(outputs).float(), batch[1])

    def distance(self, outputs: Any, reference: Any, temperature: float = 1.0) -> Tensor:
        """Give T^2 KL(reference || outputs) in nats per sample.

        Source:
            Hinton et al., arXiv:1503.02531, Sec. 2.
        """
        student = F.log_softmax(_logits(outputs).float() / temperature, dim=-1)
        teacher = F.log_softmax(_logits(reference).float() / temperature, dim=-1)
        divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return divergence * temperature**2

    def scores(self, outputs: Any, batch: Any) -> Tensor:
        """Give 1.0 where the largest logit is the target, else 0.0."""
        return (_logits(outputs).argmax(dim=-1) == batch[1]).to(torch.float32)


def _logits(outputs: Any) -> Tensor:
    """Give the main output of networks that return several (auxiliary heads in training)."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, dict):
        return _logits(next(iter(outputs.values())))
    return _logits(outputs[0])


def on_copies(network: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """Run a network that may write into its inputs, which others will be run on.

    Args:
        network: Any.
        inputs: Stay as they are.
    """
    return network(*(one.clone() for one in inputs))


def first_inputs(task: Task, batches: Iterable[Any], samples: int) -> list[tuple[Tensor, ...]]:
    """Give the inputs of the first samples of a set, batch by batch.

    Args:
        task: Says what of a batch the inputs are.
        batches: The set.
        samples: How many at most.
    """
    found: list[tuple[Tensor, ...]] = []
    left = samples
    for batch in batches:
        if left <= 0:
            break
        inputs = task.inputs(batch)
        size = len(inputs[0])
        found.append(tuple(one[:left] if one.ndim and len(one) == size else one for one in inputs))
        left -= size
    return found
