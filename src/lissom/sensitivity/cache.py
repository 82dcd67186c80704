"""Measured harms kept on disk, keyed by everything that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from lissom.errors import LissomError


def fingerprint(model: nn.Module, facts: Mapping[str, Any]) -> str:
    """Hash the network's tensors and ``facts`` (JSON-ready)."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()[:32]


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """Hash tensors by name and value."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()[:16]


class HarmCache:
    """Harms per candidate and calibration batch, in one JSON file or, without a folder, in memory.

    Attributes:
        harms: For each candidate key its harms, one per batch measured so far.
    """

    def __init__(self, folder: Path | None, key: str) -> None:
        self._path = None if folder is None else folder / f"harms-{key}.json"
        self.harms: dict[str, list[float]] = {}
        if self._path is not None and self._path.exists():
            self.harms = _read(self._path)

    def save(self) -> None:
        """Write to disk, whole or not at all, with what others have written there meanwhile.

        Raises:
            LissomError: The folder can't be written to.
        """
        if self._path is None:
            return
        temporary = self._path.with_suffix(".tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self._path.with_suffix(".lock")):
                for key, values in (_read(self._path) if self._path.exists() else {}).items():
                    if len(values) > len(self.harms.get(key, ())):
                        self.harms[key] = values
                temporary.write_text(json.dumps(self.harms))
                temporary.replace(self._path)
        except OSError as error:
            raise LissomError(
                f"{self._path}: the measured sensitivities can't be kept ({error.strerror}); free "
                "some space, or name another folder in the environment variable LISSOM_CACHE"
            ) from error


def _read(path: Path) -> dict[str, list[float]]:
    """Give what a file holds; a damaged one costs a new measurement, not the run."""
    try:
        found = json.loads(path.read_text())
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: values for key, values in found.items() if _are_harms(values)}


def _are_harms(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, float) for value in values)


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
