"""Measured sensitivity: change one unit's weights, re-run what depends on them, read the harm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lissom.errors import DataError, ModelError
from lissom.graph.replay import Replay
from lissom.graph.whole_run import WholeRun, replay_of
from lissom.progress import meter
from lissom.sensitivity.cache import HarmCache, content_hash, fingerprint
from lissom.task import Task


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way of compressing one unit.

    Attributes:
        unit: Name of the unit.
        family: ``prune`` or ``decompose``.
        removed: MACs removed anywhere / MACs of the unit's producers.
        overrides: Dense weights, by state-dict name, under which the network computes what it would
            compute if the candidate were taken.
        rebuild: For what overrides can't imitate (operators that compute over channels): gives the
            changed network itself, which is then run whole.
        recipe: What determines the overrides, given the network and the calibration data; the cache
            then finds the harm again although the last bits of the weights depend on the number of
            threads. "": the weights themselves are the key.
    """

    unit: str
    family: str
    removed: float
    overrides: Mapping[str, Tensor]
    rebuild: Callable[[], nn.Module] | None = None
    recipe: str = ""

    @property
    def key(self) -> str:
        """Name for the cache: the unit, the family, and what determines the changed weights."""
        what = self.recipe or content_hash(self.overrides)
        return f"{self.unit}|{self.family}|{self.removed:.6f}|{what}"


@dataclass(frozen=True, slots=True)
class Harms:
    """What was measured.

    Attributes:
        mean: Harm per candidate, in the task's distance (nats per sample for classification), in
            order.
        error: Standard error of each mean over the calibration batches (0 with a single batch).
        images: Samples that each candidate was measured on.
        forwards: Whole forward passes that the naive way would have taken, references included.
        forwards_run: What was run instead, in whole forward passes weighted by MACs.
    """

    mean: tuple[float, ...]
    error: tuple[float, ...]
    images: int
    forwards: int
    forwards_run: float

    @property
    def noise(self) -> float:
        """Median standard error of the candidates; never 0, so that it can stand in a log."""
        ordered = sorted(self.error)
        return max(ordered[len(ordered) // 2] if ordered else 0.0, 1e-7)


def measure(
    model: nn.Module,
    candidates: Sequence[Candidate],
    batches: Iterable[Any],
    task: Task,
    *,
    images: int,
    cache: Path | None = None,
) -> Harms:
    """Measure the harm of every candidate on calibration data.

    Each batch is run once with all activations kept; every candidate then re-runs only what lies
    behind the weights that it changes. Harms already in the cache are not measured again.

    Args:
        model: Network in eval mode, unchanged by the measurement.
        candidates: What to try.
        batches: Calibration batches of equal size; a smaller last one is left out.
        task: Gives inputs and the distance between outputs.
        images: How many samples to use at most (at least one batch).
        cache: Folder for results, or None.

    Returns:
        Means and standard errors, and what the incremental re-run saved.

    Raises:
        DataError: There is no batch.
        ModelError: A distance is not finite.
    """
    chosen = _take(batches, task, images)
    size = chosen[0][0].shape[0]
    facts = {"batch": size, "inputs": _inputs_hash(chosen), "task": _task_name(task)}
    store = HarmCache(cache, fingerprint(model, facts))
    keys = [candidate.key for candidate in candidates]
    replay: Replay | WholeRun | None = None
    forwards, forwards_run = 0, 0.0
    with torch.no_grad(), meter("sensitivity", len(chosen) * len(candidates)) as bar:
        for index, inputs in enumerate(chosen):
            missing = [i for i, key in enumerate(keys) if len(store.harms.get(key, [])) <= index]
            bar.advance(len(candidates) - len(missing))
            if not missing:
                continue
            replay = replay or replay_of(model, inputs)
            reference = replay.record(inputs)
            forwards, forwards_run = forwards + 1, forwards_run + 1
            for i in missing:
                outputs, share = _outputs(candidates[i], replay, inputs)
                forwards += 1
                forwards_run += share
                harm = _harm(task, outputs, reference, candidates[i])
                store.harms.setdefault(keys[i], []).append(harm)
                bar.advance(1, candidates[i].unit)
            store.save()
    return _summary([store.harms[key][: len(chosen)] for key in keys], size, forwards, forwards_run)


def _outputs(
    candidate: Candidate, replay: Replay | WholeRun, inputs: tuple[Tensor, ...]
) -> tuple[Any, float]:
    if candidate.rebuild is not None:
        return candidate.rebuild()(*inputs), 1.0
    return replay.run(candidate.overrides), replay.affected(candidate.overrides)


def _harm(task: Task, outputs: Any, reference: Any, candidate: Candidate) -> float:
    harm = float(task.distance(outputs, reference))
    if not math.isfinite(harm):
        raise ModelError(
            f"{candidate.unit}: with {candidate.removed:.0%} removed ({candidate.family}) the "
            f"distance to the original's outputs is {harm}, expected a finite number; check the "
            f"calibration data and {type(task).__name__}.distance, or add the layer to `ignore`"
        )
    return harm


def _task_name(task: Task) -> str:
    return f"{type(task).__module__}.{type(task).__qualname__}"


def _take(batches: Iterable[Any], task: Task, images: int) -> list[tuple[Tensor, ...]]:
    taken: list[tuple[Tensor, ...]] = []
    for batch in batches:
        inputs = task.inputs(batch)
        if taken and inputs[0].shape != taken[0][0].shape:
            continue
        taken.append(inputs)
        if sum(part[0].shape[0] for part in taken) >= images:
            break
    if not taken:
        raise DataError(
            "the calibration set gave no batch; sensitivities need some hundred samples"
        )
    return taken


def _inputs_hash(chosen: Sequence[tuple[Tensor, ...]]) -> str:
    return content_hash(
        {f"{b}.{i}": part for b, inputs in enumerate(chosen) for i, part in enumerate(inputs)}
    )


def _summary(
    harms: Sequence[Sequence[float]], size: int, forwards: int, forwards_run: float
) -> Harms:
    means, errors = [], []
    for values in harms:
        mean = sum(values) / len(values)
        spread = sum((value - mean) ** 2 for value in values)
        count = len(values)
        means.append(max(mean, 0.0))
        errors.append(math.sqrt(spread / (count * (count - 1))) if count > 1 else 0.0)
    images = size * (len(harms[0]) if harms else 0)
    return Harms(tuple(means), tuple(errors), images, forwards, forwards_run)
