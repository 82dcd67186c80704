"""New statistics for batch norms, taken only as far as they help."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lissom.errors import DataError
from lissom.task import Data, Task, on_copies
from lissom.train.history import Recalibration
from lissom.train.machine import choose_device, lent, moved
from lissom.train.seeding import own_randomness, seed_all, start_epoch
from lissom.train.settings import TrainSettings

_SHARES = (0.0, 0.5, 1.0)
_HELD_OUT_IMAGES = 2048
_MOST_PASSES = 20  # over a small training set
_Statistics = dict[str, tuple[Tensor, Tensor]]


def recalibrate(
    model: nn.Module,
    data: Data,
    task: Task,
    settings: TrainSettings,
    *,
    teacher: nn.Module | None = None,
) -> Recalibration | None:
    """Estimate the batch norms' statistics anew and keep the best blend of old and new.

    mu = (1 - a) mu_old + a mu_new, likewise the variances, with a in {0, 1/2, 1}; mu_new is the
    cumulative average over augmented training images. The blend with the smallest distance to the
    teacher (without one: the smallest loss) on held-out data is kept; the old statistics stay
    unless another blend is strictly better.

    Args:
        model: Only running statistics change, in place. Computed in float32.
        data: ``train`` gives the statistics, ``held_out`` the choice.
        task: Gives inputs, distance and loss.
        settings: ``recalibration_images``, ``device`` and ``seed`` are read.
        teacher: The better network.

    Returns:
        What was tried and taken; None if there is nothing to recalibrate.

    Raises:
        DataError: One of the two sets is empty.

    Source:
        Wu and Johnson, arXiv:2105.07576, Sec. 3 (PreciseBN); the choice of a blend is our own.
    """
    norms = {n: m for n, m in model.named_modules() if _has_statistics(m)}
    if not norms or settings.recalibration_images == 0:
        return None
    device = choose_device(settings.device)
    reference = copy.deepcopy(teacher).eval().to(device) if teacher is not None else None
    with own_randomness(), lent(model, device), torch.no_grad():
        seed_all(settings.seed, settings.epochs)
        old = _read(norms)
        batches = _training_batches(data.train, settings)
        inputs = (task.inputs(moved(batch, device)) for batch in batches)
        images = _accumulate(model, norms, inputs, settings.recalibration_images)
        new = _read(norms)
        blends = {share: _blend(old, new, share) for share in _SHARES}
        model.eval()
        judge = _Judge(model, norms, task, reference)
        held_out = (moved(batch, device) for batch in data.held_out)
        distances = judge.compare(blends, held_out)
        best = min(_SHARES, key=lambda share: (_comparable(distances[share]), share))
        _write(norms, blends[best])
    return Recalibration(images, tuple(distances.items()), best)


def refresh_statistics(model: nn.Module, inputs: Sequence[tuple[Tensor, ...]]) -> None:
    """Take the statistics of batch norms anew where the network lies, whether or not they help.

    Args:
        model: Only running statistics change, in place; left in eval mode. They stay where all
            there is is one sample.
        inputs: Batch by batch, of equal sizes.
    """
    norms = {n: m for n, m in model.named_modules() if _has_statistics(m)}
    images = sum(len(one[0]) for one in inputs)
    if norms and images > 1:
        with torch.no_grad():
            _accumulate(model, norms, inputs, images)
    model.eval()


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None


def _comparable(distance: float) -> float:
    return distance if math.isfinite(distance) else math.inf


def _training_batches(train: Iterable[Any], settings: TrainSettings) -> Iterator[Any]:
    """Yield augmented batches of epochs after the training; a small set comes several times."""
    for epoch in range(settings.epochs, settings.epochs + _MOST_PASSES):
        start_epoch(train, epoch)
        yield from train


def _accumulate(
    model: nn.Module,
    norms: Mapping[str, nn.Module],
    batches: Iterable[tuple[Tensor, ...]],
    wanted: int,
) -> int:
    """Replace the statistics by the plain average over batches; give how many images were used."""
    momenta = {name: norm.momentum for name, norm in norms.items()}
    model.eval()
    for norm in norms.values():
        norm.reset_running_stats()  # type: ignore[operator]
        norm.momentum = None  # type: ignore[assignment]  # cumulative average
        norm.train()
    images, first = 0, 0
    for inputs in batches:
        size = len(inputs[0])
        first = first or size
        # The average weighs batches alike, so a small last one would count too much.
        if 2 * size >= first:
            on_copies(model, inputs)
            images += size
        if images >= wanted:
            break
    for name, norm in norms.items():
        norm.momentum = momenta[name]
    if images == 0:
        raise DataError("the training set gave no batch; expected some to recalibrate on")
    return images


def _read(norms: Mapping[str, nn.Module]) -> _Statistics:
    return {
        name: (norm.running_mean.clone(), norm.running_var.clone())  # type: ignore[operator]
        for name, norm in norms.items()
    }


def _write(norms: Mapping[str, nn.Module], statistics: _Statistics) -> None:
    for name, norm in norms.items():
        mean, variance = statistics[name]
        norm.running_mean.copy_(mean)  # type: ignore[operator]
        norm.running_var.copy_(variance)  # type: ignore[operator]


def _blend(old: _Statistics, new: _Statistics, share: float) -> _Statistics:
    return {
        name: (
            torch.lerp(old[name][0], new[name][0], share),
            torch.lerp(old[name][1], new[name][1], share),
        )
        for name in old
    }


class _Judge:
    """Compares statistics by what the network then says."""

    def __init__(
        self,
        model: nn.Module,
        norms: Mapping[str, nn.Module],
        task: Task,
        reference: nn.Module | None,
    ) -> None:
        self._model, self._norms, self._task, self._reference = model, norms, task, reference

    def compare(
        self, blends: Mapping[float, _Statistics], batches: Iterable[Any]
    ) -> dict[float, float]:
        """Give the mean distance, or loss, for each of the ``blends``."""
        totals = dict.fromkeys(blends, 0.0)
        images = 0
        for batch in batches:
            inputs = self._task.inputs(batch)
            size = len(inputs[0])
            ideal = None if self._reference is None else on_copies(self._reference, inputs)
            for share, statistics in blends.items():
                _write(self._norms, statistics)
                outputs = on_copies(self._model, inputs)
                totals[share] += size * float(self._harm(outputs, ideal, batch))
            images += size
            if images >= _HELD_OUT_IMAGES:
                break
        if images == 0:
            raise DataError("the held-out set is empty; expected at least one batch")
        return {share: total / images for share, total in totals.items()}

    def _harm(self, outputs: Any, ideal: Any, batch: Any) -> Tensor:
        if self._reference is None:
            return self._task.loss(outputs, batch)
        return self._task.distance(outputs, ideal)
