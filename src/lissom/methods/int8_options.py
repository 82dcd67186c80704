"""Settings of the int8 method."""

from __future__ import annotations

from dataclasses import dataclass

from lissom.errors import RecipeError
from lissom.quantization.activation_ranges import ESTIMATORS

AUTO = "auto"
_LEAST_BITS, _MOST_BITS = 2, 8
_TUNING = ("epochs", "rate_factor", "range_rate")
_SHARE = 5  # a fifth of the run's epochs


@dataclass(frozen=True, slots=True)
class Int8Options:
    """How a network is tuned for int8.

    Attributes:
        weight_bits: 2 to 8, sign included; runtimes compute with all of them in int8, and the
            packed file stores what there is. None: 8, and levels that a stage before has chosen
            stay as they are.
        activation_bits: 8: runtimes have no faster kernels for fewer.
        estimator: Of the ranges that training begins with: ``min_max``, ``percentile``, ``mse``;
            ``auto``: the one that does the least harm.
        calibration_images: They are observed on, and harm is measured on.
        epochs: Of the tuning; None: a fifth of the run's, rounded up; 0: ranges as observed.
        rate_factor: Of the tuning's peak learning rate, as a multiple of ``recover.learning_rate``,
            0.004 where that is not set.
        range_rate: Learning rate of the ranges' logarithms.
        keep_float: How many layers stay float, those that harm most alone.
        reduce_range: Weights in at most 7 bits, for CPUs without VNNI.
    """

    weight_bits: int | None = None
    activation_bits: int = 8
    estimator: str = AUTO
    calibration_images: int = 512
    epochs: int | None = None
    rate_factor: float = 0.1
    range_rate: float = 1e-3
    keep_float: int = 0
    reduce_range: bool = False

    def __post_init__(self) -> None:
        if self.weight_bits is not None and not _LEAST_BITS <= self.weight_bits <= _MOST_BITS:
            raise RecipeError(f"weight_bits={self.weight_bits}: expected 2 to 8")
        if self.activation_bits != _MOST_BITS:
            raise RecipeError(
                f"activation_bits={self.activation_bits}: expected 8; ONNX Runtime has no faster "
                "kernels for fewer"
            )
        if self.estimator not in (AUTO, *ESTIMATORS):
            raise RecipeError(
                f"estimator={self.estimator}: expected {AUTO}, {', '.join(ESTIMATORS)}"
            )
        for name, least in (("calibration_images", 1), ("epochs", 0), ("keep_float", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise RecipeError(f"{name}={value}: expected at least {least}")
        for name in ("rate_factor", "range_rate"):
            if not getattr(self, name) > 0:
                raise RecipeError(f"{name}={getattr(self, name)}: expected more than 0")

    @property
    def bits(self) -> int:
        """Give the bits of weights that have no levels yet."""
        return _MOST_BITS if self.weight_bits is None else self.weight_bits

    @property
    def tuning(self) -> tuple[str, ...]:
        """Name the options that are set otherwise and matter only where something is tuned."""
        plain = Int8Options()
        names = [name for name in _TUNING if getattr(self, name) != getattr(plain, name)]
        return tuple(name for name in names if name != "epochs" or self.epochs != 0)

    def tuning_epochs(self, run: int) -> int:
        """Give the epochs of the tuning.

        Args:
            run: Epochs of a recovery.
        """
        return -(-run // _SHARE) if self.epochs is None else self.epochs
