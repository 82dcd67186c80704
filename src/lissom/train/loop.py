"""The training loop."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lissom.errors import DataError, LissomError, RecipeError
from lissom.extension import Companion, StepState
from lissom.progress import Meter, meter
from lissom.task import Data, Task, on_copies
from lissom.train.as_one import as_one
from lissom.train.checkpoint import Checkpoint, Snapshot
from lissom.train.distill import RememberedTeacher, Teacher, remembering
from lissom.train.history import EpochRecord, History
from lissom.train.log import TrainingLog
from lissom.train.machine import Machine, choose_machine, lent, moved
from lissom.train.processes import Processes, Weighed, fabric_for, join
from lissom.train.schedule import MovingAverage, build_optimizer, learning_rate
from lissom.train.seeding import own_randomness, seed_all, start_epoch
from lissom.train.settings import TrainSettings
from lissom.train.share import parts
from lissom.train.state import TrainingState

# Fabric announces its precision at every start; the history says it too.
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)

_CHECK_EVERY = 20  # steps between looks at the loss where a look makes the device wait


def train(  # noqa: PLR0913  (what is trained on what, and optional parties)
    model: nn.Module,
    data: Data,
    task: Task,
    settings: TrainSettings,
    *,
    teacher: nn.Module | None = None,
    checkpoint: Checkpoint | None = None,
    companion: Companion | None = None,
    logs: Path | None = None,
) -> History:
    """Train ``model`` in place on ``data.train``.

    The result depends on the arguments, the machine and the number of threads alone, whether or not
    it was interrupted and resumed from ``checkpoint``: everything random is a function of (seed,
    epoch). A loader with ``set_epoch`` is told the epoch. Modes, device and memory format are as
    before afterwards.

    Of several processes (``settings.devices``, torchrun) each takes its part of every batch; what
    they learn is averaged, so that batches and steps are those of one process. Batch norms
    normalise by their part; their running statistics are averaged after every step.

    Args:
        model: Ends as the moving average of its weights, unless ``settings.ema`` is 0.
        data: Only ``train`` is read.
        task: Gives inputs, loss and distance.
        settings: How to train.
        teacher: Distil from it: (1 - a) loss + a distance.
        checkpoint: Save after every epoch; continue if there is something saved.
        companion: Takes part in every step: adds to the loss, then edits what the optimizer has
            stepped to, before the moving average takes it in.
        logs: Folder for what ``settings.log`` asks for.

    Raises:
        DataError: ``data.train`` is empty or has no length.
        RecipeError: The device is missing, ``checkpoint`` is another run's, or nothing can be
            logged.
        LissomError: The loss became NaN or infinite, or a file can't be written.
    """
    machine = choose_machine(settings)
    if settings.epochs == 0:
        return History((), str(machine.device), machine.precision, machine.channels_last)
    log = TrainingLog(settings.logs, logs)
    join(settings)
    with own_randomness(), lent(model, machine.device), as_one(model):
        machine.take(model)
        run = _Run(model, data.train, task, settings, machine, companion)
        try:
            run.distil_from(teacher)
            records = run.all_epochs(checkpoint, log)
        finally:
            run.leave()
            log.close()
    return History(
        tuple(records),
        str(machine.device),
        machine.precision,
        machine.channels_last,
        peak_rate=settings.peak_rate,
        averaged=settings.ema > 0,
    )


class _Run:
    """The state of one training."""

    def __init__(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        task: Task,
        settings: TrainSettings,
        machine: Machine,
        companion: Companion | None,
    ) -> None:
        self._model, self._task, self._settings, self._machine = model, task, settings, machine
        self._loader, self._companion = loader, companion
        self._steps = _length(loader)
        self._teacher: Teacher | RememberedTeacher | None = None
        self._average = MovingAverage(model, settings.ema)
        self._processes = Processes.here()
        self._fabric = fabric_for(settings, machine.device, machine.precision)
        exempt = companion.without_decay() if companion is not None else ()
        others = companion.learns() if companion is not None else ()
        optimizer = build_optimizer(model, settings, exempt, others)
        self._network, self._optimizer = self._fabric.setup(model, optimizer, move_to_device=False)
        # Fabric's optimizer is a wrapper: the momenta are in the one inside.
        self._state = TrainingState(model, optimizer, self._average, companion)

    def distil_from(self, network: nn.Module | None) -> None:
        """Use ``network`` as the teacher; None: there is none."""
        if network is None or self._settings.distillation == 0:
            return
        teacher = Teacher(network, self._machine)
        views = self._settings.teacher_views
        if views and self._processes.world > 1:
            raise RecipeError(
                f"teacher_views={views}: with {self._processes.world} processes the teacher's "
                "outputs are not kept; set teacher_views=0"
            )
        self._teacher = remembering(teacher, self._loader, views) if views else teacher

    def all_epochs(self, checkpoint: Checkpoint | None, log: TrainingLog) -> list[EpochRecord]:
        """Train to the end, from where the checkpoint is."""
        identity = self._identity()
        stored = self._stored(checkpoint, identity) if checkpoint else None
        records = self._restore(stored) if stored else []
        epochs = self._settings.epochs
        with meter("training", total=(epochs - len(records)) * self._steps) as bar:
            for epoch in range(len(records), epochs):
                records.append(self._epoch(epoch, bar))
                if checkpoint and self._processes.first:
                    checkpoint.save(self._snapshot(records), identity)
                if self._processes.first:
                    log.write(records)
        if self._settings.ema:
            self._average.copy_to_model()
            if self._companion is not None:
                self._companion.after_average()
        self._processes.equalize(self._model)
        return records

    def _stored(self, checkpoint: Checkpoint, identity: Mapping[str, Any]) -> Snapshot | None:
        return self._processes.from_first(lambda: checkpoint.load(identity))

    def leave(self) -> None:
        """Undo what concerns this run alone: limited views, gradients, memory format."""
        if isinstance(self._teacher, RememberedTeacher):
            self._loader.fix_views(0)  # type: ignore[attr-defined]
        self._optimizer.zero_grad(set_to_none=True)
        for parameter in self._model.parameters():
            parameter.data = parameter.data.contiguous()

    def _epoch(self, epoch: int, bar: Meter) -> EpochRecord:
        seed_all(self._settings.seed, epoch)
        start_epoch(self._loader, epoch)
        if isinstance(self._teacher, RememberedTeacher):
            self._teacher.start_epoch(epoch)
        self._model.train()
        began, status = time.perf_counter(), ""
        images: int | Tensor = 0
        total = torch.zeros((), device=self._machine.device)
        step = -1
        own = parts(self._loader, self._processes.rank, self._processes.world)
        for step, batch in enumerate(own):
            loss, size = self._step(epoch * self._steps + step, moved(batch, self._machine.device))
            total += loss
            images += size
            if step % _CHECK_EVERY == 0:
                status = self._status()
            if self._machine.device.type == "cpu" or step % _CHECK_EVERY == 0:
                self._check(float(total), epoch, step)
                speed = int(images) / (time.perf_counter() - began)
                mean = float(total) / (step + 1)
                bar.advance(0, f"epoch {epoch + 1}, loss {mean:.3f}, {speed:,.0f} images/s{status}")
            bar.advance()
        if step < 0:
            raise DataError("the training set gave no batch; expected at least one")
        self._check(float(total), epoch, step)
        rate = self._optimizer.param_groups[0]["lr"]
        mean, seconds = float(total) / (step + 1), time.perf_counter() - began
        return EpochRecord(epoch, mean, rate, int(images), seconds, self._scalars())

    def _status(self) -> str:
        said = self._companion.status() if self._companion is not None else ""
        return f", {said}" if said else ""

    def _scalars(self) -> dict[str, float]:
        given = self._companion.scalars() if self._companion is not None else {}
        return {name: float(value) for name, value in given.items()}

    def _step(self, step: int, batch: Any) -> tuple[Tensor, int | Tensor]:
        """Make one optimizer step; give the loss (detached) and the number of images."""
        settings = self._settings
        rate = learning_rate(step, settings.epochs * self._steps, settings)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        inputs = tuple(self._machine.images(tensor) for tensor in self._task.inputs(batch))
        loss = self._loss(inputs, batch)
        self._optimizer.zero_grad(set_to_none=True)
        self._fabric.backward(loss.here)
        if settings.clip_norm:
            self._fabric.clip_gradients(
                self._network,
                self._optimizer,
                max_norm=settings.clip_norm,
                error_if_nonfinite=False,
            )
        self._optimizer.step()
        self._processes.average_statistics(self._model, loss.part)
        if self._companion is not None:
            state = StepState(rate, step, settings.epochs * self._steps, self._state.optimizer)
            try:
                if self._companion.after_step(state):
                    self._average.restart(step)
            except LissomError as error:
                epoch, number = divmod(step, self._steps)
                raise type(error)(f"epoch {epoch + 1}, step {number + 1}: {error}") from error
        if settings.ema:
            self._average.update(step)
        return loss.mean, loss.images

    def _loss(self, inputs: tuple[Tensor, ...], batch: Any) -> Weighed:
        outputs = on_copies(self._network, inputs)
        loss = self._task.loss(outputs, batch)
        if self._teacher is not None:
            share = self._settings.distillation
            temperature = self._settings.temperature
            distance = self._task.distance(outputs, self._teacher(inputs), temperature)
            loss = (1 - share) * loss + share * distance
        weighed = self._processes.weigh(loss, len(inputs[0]))
        penalty = self._companion.penalty() if self._companion is not None else None
        return weighed if penalty is None else weighed.plus(penalty)

    def _check(self, total: float, epoch: int, step: int) -> None:
        if not math.isfinite(total):
            raise LissomError(
                f"training diverged: the loss is {total} at epoch {epoch + 1}, step {step + 1} "
                "(expected a finite number); try a smaller learning_rate "
                f"(now {self._settings.peak_rate:g}), clip_norm=1 or precision=32, and look for "
                "NaN in the data and the weights"
            )

    def _identity(self) -> dict[str, Any]:
        """Say what a resumed run must have in common with this one."""
        shapes = [(name, tuple(t.shape)) for name, t in self._model.state_dict().items()]
        network = hashlib.sha256(repr(shapes).encode()).hexdigest()[:16]
        identity = {
            **asdict(self._settings),
            "network (hash of names and shapes)": network,
            "batches per epoch": self._steps,
            "distilled": self._teacher is not None,
        }
        if self._companion is not None:
            identity["companion"] = type(self._companion).__qualname__
        return identity

    def _snapshot(self, records: list[EpochRecord]) -> Snapshot:
        facts = {"epochs": [asdict(record) for record in records]}
        return Snapshot(self._state.tensors(self._teacher), facts)

    def _restore(self, snapshot: Snapshot) -> list[EpochRecord]:
        self._state.restore(snapshot.tensors, self._teacher)
        return [EpochRecord(**record) for record in snapshot.facts["epochs"]]


def _length(loader: Any) -> int:
    try:
        steps = len(loader)
    except TypeError:
        raise DataError(
            f"the training set, a {type(loader).__name__}, has no length, which the learning rate "
            "schedule needs: give it __len__ (the number of batches)"
        ) from None
    if steps == 0:
        raise DataError("the training set is empty; expected at least one batch")
    return steps
