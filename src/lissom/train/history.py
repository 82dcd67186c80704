"""What training did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One pass over the training set.

    Attributes:
        epoch: Number, from 0.
        loss: Mean over the batches of what was minimised.
        learning_rate: At the last step.
        images: How many were seen.
        seconds: Wall time.
        scalars: What a companion of the training tells of the epoch, by name.
    """

    epoch: int
    loss: float
    learning_rate: float
    images: int
    seconds: float
    scalars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recalibration:
    """How the statistics of the batch norms were set after training.

    Attributes:
        images: Training images that the new statistics come from.
        distances: For each share of the new statistics the distance to the teacher, or the loss, on
            held-out data.
        share: The share that was taken: the best, 0 unless something was better.
    """

    images: int
    distances: tuple[tuple[float, float], ...]
    share: float


@dataclass(frozen=True, slots=True)
class History:
    """The course of a training.

    Attributes:
        epochs: One record per epoch, those before a resume included.
        device: Where it ran.
        precision: ``32`` or ``bf16``, as chosen.
        channels_last: ``yes`` or ``no``, as chosen.
        peak_rate: Peak of the learning rate, as chosen; None where nothing was trained.
        averaged: Whether the weights that it left are the moving average.
        recalibration: None where nothing was recalibrated.
    """

    epochs: tuple[EpochRecord, ...]
    device: str
    precision: str
    channels_last: str
    peak_rate: float | None = None
    averaged: bool = False
    recalibration: Recalibration | None = None
