"""How the networks of a run are trained and scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from torch import nn

from lissom.extension import Companion, Proposal, Trainer
from lissom.pipeline.stage_folder import StageFolder
from lissom.plan.plan import Plan
from lissom.sensitivity.cache import fingerprint
from lissom.task import Data, Task
from lissom.train.checkpoint import Checkpoint
from lissom.train.evaluate import evaluate
from lissom.train.history import History
from lissom.train.loop import train
from lissom.train.machine import choose_machine
from lissom.train.recalibrate import recalibrate
from lissom.train.recover import recover
from lissom.train.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Training:
    """How the networks of a run are trained and scored.

    Attributes:
        data: The four sets.
        task: Loss, metric, inputs.
        settings: Of every training of the run.
        teacher: What it distils from; the original network also where others come between.
        logs: Folder for what ``settings.log`` asks for, one folder in it per training; or None.
    """

    data: Data
    task: Task
    settings: TrainSettings
    teacher: nn.Module
    logs: Path | None = None

    def of_method(self, method: str, network: nn.Module, stage: StageFolder) -> Trainer:
        """Give what a method trains with: its trainings resume one by one, in their order.

        Args:
            method: Its name.
            network: That the method looks at.
            stage: Where the trainings leave their states.
        """
        numbers = count(1)

        def train_with(
            model: nn.Module, companion: Companion, *, rate_factor: float = 1.0
        ) -> Mapping[str, Any]:
            rate = rate_factor * self.settings.base_rate
            name = f"method{next(numbers)}"
            identity = json.dumps({"method": method, "original": fingerprint(network, {})})
            history = train(
                model,
                self.data,
                self.task,
                replace(self.settings, learning_rate=rate),
                teacher=self.teacher,
                checkpoint=Checkpoint(stage.training / name, identity),
                companion=companion,
                logs=self._log_folder(stage, name),
            )
            ready: dict[str, Any] = json.loads(json.dumps(asdict(history)))
            return ready

        return train_with

    def recover(
        self, network: nn.Module, plan: Plan, proposal: Proposal, stage: StageFolder
    ) -> History:
        """Win back what compression lost; after a training of the method only recalibrate.

        Where the method has settled every value nothing is done.

        Args:
            network: The compressed network, changed in place.
            plan: That led to it.
            proposal: The last part of that plan.
            stage: Where the training leaves its state.
        """
        if proposal.settled:
            machine = choose_machine(self.settings)
            return History((), str(machine.device), machine.precision, machine.channels_last)
        trained = proposal.training is not None
        plan_hash = hashlib.sha256(plan.to_json().encode()).hexdigest()
        return recover(
            network,
            self.data,
            self.task,
            replace(self.settings, epochs=0) if trained else self.settings,
            teacher=self.teacher,
            checkpoint=None if trained else Checkpoint(stage.training, plan_hash),
            logs=self._log_folder(stage, "recovery"),
        )

    def recalibrate(self, model: nn.Module) -> Mapping[str, Any] | None:
        """Take the statistics of batch norms anew, in place, as recovery does."""
        found = recalibrate(model, self.data, self.task, self.settings, teacher=self.teacher)
        return None if found is None else asdict(found)

    def _log_folder(self, stage: StageFolder, name: str) -> Path | None:
        return None if self.logs is None else self.logs / f"{stage.folder.name}-{name}"

    def score(self, model: nn.Module) -> float:
        """Give the task's metric on the test set."""
        return evaluate(model, self.data.test, self.task, device=self.settings.device)
