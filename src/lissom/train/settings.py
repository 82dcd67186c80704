"""How to train."""

from __future__ import annotations

from dataclasses import dataclass

from lissom.errors import RecipeError


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Settings of the training loop. The defaults recover a compressed network from its original.

    Attributes:
        epochs: Passes over the training set; 0 trains nothing.
        optimizer: ``sgd`` (Nesterov) or ``adamw``.
        learning_rate: Peak, reached after the warm-up. None: 0.004 for up to 2 epochs, which stays
            close to the start, 0.01 for more.
        schedule: What follows: ``cosine`` down to 0; ``steps``: x 0.1 at half and three quarters.
        momentum: Of SGD; AdamW's first beta.
        weight_decay: On weights; norm parameters and biases have none.
        warmup_steps: Optimizer steps of linear warm-up, at most a tenth of all.
        clip_norm: Largest norm of the gradient; 0 does not clip.
        distillation: a in (1 - a) loss + a distance to the teacher; ignored without a teacher.
        temperature: T of the distance.
        teacher_views: Augmented versions per image whose teacher outputs are kept; the loader then
            shows only these, in turn. 0 runs the teacher on every batch.
        ema: Decay of the moving average of the weights; 0 keeps the last weights.
        precision: ``auto``, ``32`` or ``bf16`` (autocast).
        channels_last: ``auto``, ``yes`` or ``no``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        devices: How many of them train together, one process each, every one on its part of every
            batch; under ``torchrun`` its number of processes holds.
        strategy: How: ``ddp``, or ``ddp_find_unused_parameters_true`` for networks of which parts
            are left out in some steps; ``auto``: ``ddp`` if there are several processes.
        log: Files that get a row per epoch: ``csv``, ``tensorboard``, or both, separated by a
            comma.
        seed: Of everything random in training.
        recalibration_images: Training images for the statistics of batch norms after recovery; 0
            leaves them alone.
    """

    epochs: int = 10
    optimizer: str = "sgd"
    learning_rate: float | None = None
    schedule: str = "cosine"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_steps: int = 200
    clip_norm: float = 0.0
    distillation: float = 0.9
    temperature: float = 3.0
    teacher_views: int = 0
    ema: float = 0.999
    precision: str = "auto"
    channels_last: str = "auto"
    device: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    log: str = ""
    seed: int = 0
    recalibration_images: int = 4096

    def __post_init__(self) -> None:
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise RecipeError(
                    f"{field}={getattr(self, field)!r}: expected one of {', '.join(choices)}"
                )
        if not set(self.logs) <= set(_LOGS):
            raise RecipeError(f"log={self.log!r}: expected {', '.join(_LOGS)}, or both")
        for field, (low, high, expected) in _RANGES.items():
            if not low <= getattr(self, field) <= high:
                raise RecipeError(f"{field}={getattr(self, field)}: expected {expected}")
        if not (self.peak_rate > 0 and self.temperature > 0):
            raise RecipeError(
                f"learning_rate={self.learning_rate}, temperature={self.temperature}: "
                "expected positive numbers"
            )
        if self.devices > 1 and ":" in self.device:
            kind = self.device.partition(":")[0]
            raise RecipeError(
                f"devices={self.devices}, device={self.device!r}: names one of them; expected a "
                f"kind: device={kind}"
            )

    @property
    def peak_rate(self) -> float:
        """Give the peak learning rate of a recovery of this length."""
        if self.learning_rate is not None:
            return self.learning_rate
        return _SHORT_RATE if self.epochs <= _SHORT else _LONG_RATE

    @property
    def base_rate(self) -> float:
        """Give the learning rate of which methods that train state multiples, at any length."""
        return _SHORT_RATE if self.learning_rate is None else self.learning_rate

    @property
    def logs(self) -> tuple[str, ...]:
        """Give the kinds of log, each once."""
        return tuple(dict.fromkeys(kind.strip() for kind in self.log.split(",") if kind.strip()))


_SHORT, _SHORT_RATE, _LONG_RATE = 2, 0.004, 0.01
_INFINITY = float("inf")
_CHOICES = {
    "optimizer": ("sgd", "adamw"),
    "schedule": ("cosine", "steps"),
    "precision": ("auto", "32", "bf16"),
    "channels_last": ("auto", "yes", "no"),
    "strategy": ("auto", "ddp", "ddp_find_unused_parameters_true"),
}
_LOGS = ("csv", "tensorboard")
_RANGES = {
    "epochs": (0, _INFINITY, "0 or more"),
    "momentum": (0.0, 0.999999, "a number in [0, 1)"),
    "weight_decay": (0.0, _INFINITY, "0 or more"),
    "warmup_steps": (0, _INFINITY, "0 or more"),
    "clip_norm": (0.0, _INFINITY, "0 (no clipping) or more"),
    "distillation": (0.0, 1.0, "a number in [0, 1]"),
    "teacher_views": (0, _INFINITY, "0 (none) or more"),
    "ema": (0.0, 0.999999, "a number in [0, 1)"),
    "devices": (1, _INFINITY, "1 or more"),
    "recalibration_images": (0, _INFINITY, "0 (none) or more"),
}
