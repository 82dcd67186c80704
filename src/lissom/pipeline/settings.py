"""Settings of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from lissom.errors import RecipeError
from lissom.extension import Method
from lissom.measure.latency import Conditions
from lissom.plan.plan import Plan
from lissom.train.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a run besides network, data, task, method and budget.

    Attributes:
        recover: Training after compression; its seed and device hold for the whole run.
        round_to: Alignment of channels and ranks: ``auto`` (8 up to 64 channels, 16 above) or an
            integer (1 = free).
        ignore: Layers whose output channels and rank stay as they are.
        teacher: Network to distil from; None: the original.
        base: Plan that led to the network, with its source; None: the network is an original.
        cache: Folder in which measured sensitivities outlive the run; None: nowhere.
        latency: How latency is measured.
        allow_slower: Whether to decide what saves MACs, parameters or bytes but costs time.
        workspace: Folder for intermediate results; an interrupted run with the same folder and
            settings continues. None: a temporary one.
        logs: Folder for what ``recover.log`` asks for; None: nothing can be logged.
        say: Takes a line of text at a time, for the user.

    Raises:
        RecipeError: ``round_to`` is something else.
    """

    recover: TrainSettings = field(default_factory=TrainSettings)
    round_to: int | str = "auto"
    ignore: tuple[str, ...] = ()
    teacher: nn.Module | None = None
    base: Plan | None = None
    cache: Path | None = None
    latency: Conditions = field(default_factory=Conditions)
    allow_slower: bool = False
    workspace: Path | None = None
    logs: Path | None = None
    say: Callable[[str], None] = lambda _line: None

    def __post_init__(self) -> None:
        free = isinstance(self.round_to, int) and self.round_to >= 1
        if self.round_to != "auto" and not free:
            raise RecipeError(
                f"round_to={self.round_to!r}: expected auto or an integer of at least 1"
            )

    def taught_for(self, methods: Sequence[Method]) -> Settings:
        """Give the settings of a run of these methods.

        Where one starts from scratch the original has nothing to teach: without another teacher
        all learn from the labels alone, and statistics of batch norms stay those of the training.
        """
        if self.teacher is not None or not any(getattr(m, "from_scratch", False) for m in methods):
            return self
        self.say("note: from scratch, without a teacher: all learn from the labels alone")
        recover = replace(self.recover, distillation=0.0, recalibration_images=0)
        return replace(self, recover=recover)
