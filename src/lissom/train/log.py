"""The course of a training in files, epoch by epoch: CSV, TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from lightning_fabric.loggers.csv_logs import CSVLogger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger

from lissom.errors import LissomError, RecipeError
from lissom.train.history import EpochRecord

Writer: TypeAlias = CSVLogger | TensorBoardLogger
_WRITTEN = ("metrics.csv", "events.out.tfevents.*")


class TrainingLog:
    """Writes one row per epoch: loss, learning rate, images per second, a companion's scalars."""

    def __init__(self, kinds: Sequence[str], folder: Path | None) -> None:
        """Check what can be checked, write nothing yet.

        Args:
            kinds: ``csv``, ``tensorboard``; none: nothing is ever written.
            folder: Made with the first row. What an earlier training logged there is replaced.

        Raises:
            RecipeError: There is no folder, or TensorBoard's writer is not installed.
        """
        if kinds and folder is None:
            raise RecipeError(
                f"log={','.join(kinds)}: there is no folder to write to; expected one: "
                "Settings(logs=...), or train(logs=...)"
            )
        self._folder = folder
        self._writers = tuple(_writer(kind, folder) for kind in kinds if folder is not None)
        self._rows = 0

    def write(self, records: Sequence[EpochRecord]) -> None:
        """Write the rows that are not there yet.

        Args:
            records: Of the whole training so far, epochs before a resume included.

        Raises:
            LissomError: The folder can't be written to.
        """
        if not self._writers or self._folder is None:
            return
        try:
            if self._rows == 0:
                _clear(self._folder)
            for writer in self._writers:
                for record in records[self._rows :]:
                    writer.log_metrics(_row(record), step=record.epoch)
                writer.save()
        except OSError as error:
            raise LissomError(
                f"{self._folder}: the log can't be written ({error.strerror}); free some space or "
                "train without log"
            ) from error
        self._rows = len(records)

    def close(self) -> None:
        """Let go of the files."""
        if self._rows:
            for writer in self._writers:
                writer.finalize("success")


def _writer(kind: str, folder: Path) -> Writer:
    if kind == "csv":
        return CSVLogger(folder, name="", version="")
    try:
        return TensorBoardLogger(folder, name="", version="")
    except ModuleNotFoundError:
        raise RecipeError(
            "log=tensorboard: TensorBoard's writer is not installed; "
            "pip install 'lissom[tensorboard]', or log=csv"
        ) from None


def _clear(folder: Path) -> None:
    """Remove what an earlier training wrote: a resumed one repeats it."""
    for pattern in _WRITTEN:
        for path in folder.glob(pattern):
            path.unlink()


def _row(record: EpochRecord) -> dict[str, Any]:
    return {
        "loss": record.loss,
        "learning_rate": record.learning_rate,
        "images_per_second": record.images / max(record.seconds, 1e-9),
        **record.scalars,
    }
