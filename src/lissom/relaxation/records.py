"""Records of a training's course as tensors, for a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def as_columns(records: Sequence[Mapping[str, float]]) -> dict[str, Tensor]:
    """Give records with the same keys as one tensor per key, for a checkpoint."""
    return {
        f"trajectory.{key}": torch.tensor([r[key] for r in records], dtype=torch.float64)
        for key in (records[0] if records else ())
    }


def as_records(state: Mapping[str, Tensor]) -> list[dict[str, float]]:
    """Undo ``as_columns``; other tensors are ignored."""
    start = "trajectory."
    columns = {k.removeprefix(start): v.tolist() for k, v in state.items() if k.startswith(start)}
    length = len(next(iter(columns.values()), []))
    return [{key: values[i] for key, values in columns.items()} for i in range(length)]


def as_bytes(facts: Mapping[str, Any]) -> Tensor:
    """Give JSON-ready facts as a tensor, for a checkpoint."""
    return torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8)


def from_bytes(state: Tensor) -> dict[str, Any]:
    """Undo ``as_bytes``."""
    facts: dict[str, Any] = json.loads(bytes(state.tolist()))
    return facts


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the entries whose names start so, without that."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
