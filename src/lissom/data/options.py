"""What a data set is asked for, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lissom.errors import DataError
from lissom.task import Data


@dataclass(frozen=True, slots=True)
class Normalization:
    """Pixels 0..255 to inputs: (scale * pixel - mean) / std.

    Attributes:
        mean: Per channel, in units of the scaled pixel.
        std: Per channel, in units of the scaled pixel.
        scale: Factor on the pixels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise DataError(
                f"mean={self.mean}, std={self.std}: expected a mean and a positive std per channel"
            )


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Options that all built-in sets share. None stands for the set's own default.

    Attributes:
        batch_size: Images per training and calibration batch.
        eval_batch_size: Images per batch of the held-out and test sets.
        held_out: Training images set aside for choices (per class in proportion), never trained on.
        calibration_images: Size of the calibration set; full batches only.
        augment: Random crops and flips of training images, where the set has them.
        crop_padding: Pixels added on every side before the random crop.
        padding_mode: ``zero`` or ``reflect``.
        mean: Normalization, see ``Normalization``.
        std: Likewise.
        scale: Likewise.
        image_size: Height and width that the images of an image folder are brought to.
        workers: Processes that decode the images of an image folder.
        seed: Of order and augmentation.
        split_seed: Of the choice of the held-out images; apart from ``seed``, so that a network
            trained with another seed has not seen them either.
    """

    batch_size: int = 128
    eval_batch_size: int = 500
    held_out: int | None = None
    calibration_images: int = 2048
    augment: bool = True
    crop_padding: int | None = None
    padding_mode: str = "zero"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    image_size: tuple[int, int] = (224, 224)
    workers: int = 0
    seed: int = 0
    split_seed: int = 0

    def __post_init__(self) -> None:
        for field in ("batch_size", "eval_batch_size", "calibration_images"):
            if getattr(self, field) < 1:
                raise DataError(f"data option {field}={getattr(self, field)}: expected at least 1")
        if self.padding_mode not in ("zero", "reflect"):
            raise DataError(
                f"data option padding_mode={self.padding_mode!r}: expected 'zero' or 'reflect'"
            )

    def normalization(self, default: Normalization) -> Normalization:
        """Give the set's ``default`` with the fields that are asked for replaced.

        Raises:
            DataError: The number of channels differs.
        """
        chosen = Normalization(
            tuple(self.mean) if self.mean is not None else default.mean,
            tuple(self.std) if self.std is not None else default.std,
            self.scale if self.scale is not None else default.scale,
        )
        if len(chosen.mean) != len(default.mean):
            raise DataError(
                f"mean={chosen.mean}, std={chosen.std}: the images have {len(default.mean)} "
                "channels, expected as many values"
            )
        return chosen


@dataclass(frozen=True, slots=True)
class LoadedData:
    """A data set, ready to be used.

    Attributes:
        data: The four sets; batches are (inputs (N, C, H, W) float32, targets (N,) int64).
        example_inputs: One batch of one image of zeros.
        classes: Names, in the order of the logits.
    """

    data: Data
    example_inputs: tuple[Tensor, ...]
    classes: tuple[str, ...]
