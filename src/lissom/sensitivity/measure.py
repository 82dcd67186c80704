"""Measured sensitivity: change one unit's weights, re-run what depends on them, read the harm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lissom.errors import DataError, ModelError
from lissom.graph.replay import Replay
from lissom.graph.whole_run import WholeRun, replay_of
from lissom.progress import Meter, meter
from lissom.sensitivity.cache import HarmCache, content_hash, fingerprint
from lissom.sensitivity.candidate import Candidate as Candidate
from lissom.sensitivity.candidate import Harms as Harms
from lissom.sensitivity.candidate import standard_error
from lissom.sensitivity.share import gathered
from lissom.task import Task, on_copies
from lissom.train.processes import Processes

_ALONE = Processes()
_PARTS, _LEAST = 4, 4  # of a single batch, and samples in each
_MOST_AT_ONCE = 64  # samples, so that activations stay in a cache


@dataclass(frozen=True, slots=True)
class Measured:
    """Measures the harm of candidates on calibration data.

    Each batch is run once with all activations kept; every candidate then re-runs only what lies
    behind the weights that it changes. Harms already in the cache are not measured again.

    Attributes:
        model: Network in eval mode, unchanged by the measurement.
        batches: Calibration batches of equal size; a smaller last one is left out. A single one is
            taken as four, and large ones in parts of at most 64.
        task: Gives inputs and the distance between outputs.
        images: How many samples to use at most (at least one batch).
        cache: Folder for results, or None.
        processes: All that measure together: each takes its share of the candidates, and all come
            to the same harms. One alone by default.
    """

    model: nn.Module
    batches: Iterable[Any]
    task: Task
    images: int
    cache: Path | None = None
    processes: Processes = _ALONE

    def harms(self, candidates: Sequence[Candidate]) -> Harms:
        """Give means and standard errors, and what the incremental re-run saved.

        Raises:
            DataError: There is no batch.
            ModelError: A distance is not finite.
        """
        chosen, store = self.opened()
        size = chosen[0][0].shape[0]
        store.harms = self.processes.from_first(lambda: store.harms)
        keys = [candidate.key for candidate in candidates]
        different = dict(zip(keys, candidates, strict=True))
        runner = _Runner(self.model, self.task)
        forwards, forwards_run = 0, 0.0
        with torch.no_grad(), meter("sensitivity", len(chosen) * len(different)) as bar:
            for index, inputs in enumerate(chosen):
                missing = [key for key in different if len(store.harms.get(key, [])) <= index]
                bar.advance(len(different) - len(missing))
                if not missing:
                    continue
                forwards += 1 + len(missing)
                for part in self._shared(runner, [different[k] for k in missing], inputs, bar):
                    forwards_run += part.forwards
                    for place, harm in part.harms.items():
                        store.harms.setdefault(missing[place], []).append(harm)
                if self.processes.first:
                    store.save()
        found = [store.harms[key][: len(chosen)] for key in keys]
        return _summary(found, size, forwards, forwards_run)

    def opened(self) -> tuple[list[tuple[Tensor, ...]], HarmCache]:
        """Give the inputs of the batches, in pieces, and the cache for harms on them.

        Raises:
            DataError: There is no batch.
        """
        chosen = _take(self.batches, self.task, self.images)
        facts = {
            "batch": chosen[0][0].shape[0],
            "inputs": _inputs_hash(chosen),
            "task": _task_name(self.task),
            "outputs": _outputs_seen(self.model, chosen[0]),
        }
        return chosen, HarmCache(self.cache, fingerprint(self.model, facts))

    def _shared(
        self,
        runner: _Runner,
        candidates: Sequence[Candidate],
        inputs: tuple[Tensor, ...],
        bar: Meter,
    ) -> list[_Part]:
        """Measure this process's candidates on one batch, and give the parts of all."""
        # Neighbours cost alike: dealt out in turn, all processes have about the same to do.
        mine = range(self.processes.rank, len(candidates), self.processes.world)
        own = {place: candidates[place] for place in mine}
        parts = gathered(self.processes, lambda: runner.measure(own, inputs, bar))
        bar.advance(len(candidates) - len(own))
        return parts


def measure(
    model: nn.Module,
    candidates: Sequence[Candidate],
    batches: Iterable[Any],
    task: Task,
    *,
    images: int,
    cache: Path | None = None,
) -> Harms:
    """Measure the harm of candidates in one process; see ``Measured``."""
    return Measured(model, batches, task, images, cache).harms(candidates)


@dataclass(frozen=True, slots=True)
class _Part:
    harms: dict[int, float]  # by the candidate's place
    forwards: float


class _Runner:
    """Runs a network again and again with changed tensors; captured when it is first needed."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        self._model, self._task = model, task
        self._replay: Replay | WholeRun | None = None

    def measure(
        self, candidates: dict[int, Candidate], inputs: tuple[Tensor, ...], bar: Meter
    ) -> _Part:
        """Measure candidates on one batch."""
        if not candidates:
            return _Part({}, 0.0)
        if any(candidate.rebuild is None for candidate in candidates.values()):
            self._replay = self._replay or replay_of(self._model, inputs)
        replay = self._replay or WholeRun(self._model, inputs)
        reference = replay.record(inputs)
        harms, forwards = {}, 1.0
        for place, candidate in candidates.items():
            outputs, share = _outputs(candidate, replay, inputs)
            harms[place] = finite_distance(self._task, outputs, reference, candidate)
            forwards += share
            bar.advance(1, candidate.unit)
        return _Part(harms, forwards)


def _outputs(
    candidate: Candidate, replay: Replay | WholeRun, inputs: tuple[Tensor, ...]
) -> tuple[Any, float]:
    if candidate.rebuild is not None:
        return on_copies(candidate.rebuild(), inputs), 1.0
    return replay.run(candidate.overrides), replay.affected(candidate.overrides)


def finite_distance(task: Task, outputs: Any, reference: Any, candidate: Candidate) -> float:
    """Give the distance between outputs, or say of which candidate it is none.

    Raises:
        ModelError: It is not finite.
    """
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
        inputs = tuple(map(_channels_last, task.inputs(batch)))
        if taken and inputs[0].shape != taken[0][0].shape:
            continue
        taken.append(inputs)
        if sum(part[0].shape[0] for part in taken) >= images:
            break
    if not taken:
        raise DataError(
            "the calibration set gave no batch; sensitivities need some hundred samples"
        )
    several = _in_parts(taken[0], _PARTS, _LEAST) if len(taken) == 1 else taken
    return [piece for batch in several for piece in _in_pieces(batch)]


def _channels_last(tensor: Tensor) -> Tensor:
    """Give images as convolutions on a CPU are fastest with them."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _in_pieces(batch: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """Divide a batch whose activations would not stay in the cache."""
    size = batch[0].shape[0]
    counts = (count for count in range(1, size + 1) if size % count == 0)
    return _in_parts(
        batch, next(n for n in counts if size // n <= _MOST_AT_ONCE), _MOST_AT_ONCE // 2
    )


def _in_parts(batch: tuple[Tensor, ...], count: int, least: int) -> list[tuple[Tensor, ...]]:
    """Divide a batch into parts of one size, unless they would have fewer than ``least`` samples.

    From a single one nothing could be told of the error of a harm.
    """
    sizes = {part.shape[0] if part.ndim else 0 for part in batch}  # 0: belongs to no sample
    size = min(sizes) // count
    if len(sizes) > 1 or size < least:
        return [batch]
    return [
        tuple(part[place * size : (place + 1) * size] for part in batch) for place in range(count)
    ]


def _outputs_seen(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[str]:
    """Say what a network gives: the same tensors may belong to another forward.

    In three digits, which do not depend on the number of threads.
    """
    with torch.no_grad():
        outputs = pytree.tree_leaves(on_copies(model, inputs))
    found = (one.double().abs().mean() for one in outputs if isinstance(one, Tensor))
    return [f"{float(one):.3g}" for one in found]


def _inputs_hash(chosen: Sequence[tuple[Tensor, ...]]) -> str:
    return content_hash(
        {f"{b}.{i}": part for b, inputs in enumerate(chosen) for i, part in enumerate(inputs)}
    )


def _summary(
    harms: Sequence[Sequence[float]], size: int, forwards: int, forwards_run: float
) -> Harms:
    means = tuple(max(sum(values) / len(values), 0.0) for values in harms)
    errors = tuple(standard_error(values) for values in harms)
    images = size * (len(harms[0]) if harms else 0)
    return Harms(means, errors, images, forwards, forwards_run)
