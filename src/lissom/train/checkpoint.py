"""Where an interrupted training continues: one safetensors file with JSON inside."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lissom.errors import LissomError, RecipeError, WeightsError

_FILE = "train.safetensors"
_FORMAT = "1"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a training between two epochs.

    Attributes:
        tensors: By name.
        facts: JSON values: records of the epochs, numbers.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder in which training leaves its state after every epoch, and where it looks for one.

    Attributes:
        folder: Made when it is needed.
        fingerprint: What the run depends on besides the training settings (recipe, plan, teacher):
            any string. If it is a JSON object, a refusal names the keys that differ.
    """

    folder: Path
    fingerprint: str = ""

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / _FILE

    def save(self, snapshot: Snapshot, settings: Mapping[str, Any]) -> None:
        """Replace the stored state; a kill at any moment leaves the old or the new one whole.

        Args:
            snapshot: The state.
            settings: JSON values that a run must share to continue from it.

        Raises:
            LissomError: The file can't be written.
        """
        metadata = {
            "format": _FORMAT,
            "identity": json.dumps(self._identity(settings)),
            "facts": json.dumps(snapshot.facts),
        }
        tensors = {name: tensor.detach().clone() for name, tensor in snapshot.tensors.items()}
        content = save({n: t.contiguous().cpu() for n, t in tensors.items()}, metadata)
        temporary = self.path.with_suffix(".tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_through(temporary, content)
            temporary.replace(self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise LissomError(
                f"{self.path}: can't write the training state, {len(content):,} bytes "
                f"({error.strerror}); free some space or choose another folder, then resume"
            ) from error

    def load(self, settings: Mapping[str, Any]) -> Snapshot | None:
        """Read the stored state, or None if there is none yet.

        Raises:
            RecipeError: It belongs to a run with other settings; they are named.
            WeightsError: The file is damaged.
        """
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            stored, facts = json.loads(metadata["identity"]), json.loads(metadata["facts"])
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise WeightsError(
                f"{self.path}: damaged or not a training state ({error}); remove it to start anew"
            ) from error
        differing = _differences(stored, self._identity(settings))
        if differing:
            raise RecipeError(
                f"{self.path}: was left by another run: {'; '.join(differing)}; repeat that run's "
                "settings to resume it, or remove the file to start anew"
            )
        return Snapshot(tensors, facts)

    def _identity(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Flatten fingerprint and settings to comparable JSON values."""
        try:
            own = json.loads(self.fingerprint)
        except ValueError:
            own = self.fingerprint
        parts = own if isinstance(own, dict) else {"fingerprint": own}
        return {"format": _FORMAT, **parts, **settings}


def _differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say, per key, what the stored run had and what this one has."""
    keys = [*stored, *(key for key in now if key not in stored)]
    return [
        f"{key} was {_short(stored.get(key))}, is {_short(now.get(key))}"
        for key in keys
        if stored.get(key) != now.get(key)
    ]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _write_through(path: Path, content: bytes) -> None:
    """Write such that the bytes are on the disk, not in a cache, before the file gets its name."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
