"""Where the numbers of a report come from: versions, machine, time."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from lissom.report.report import Provenance
from lissom.train.machine import processor_name

_PACKAGES = ("lissom", "torch", "numpy", "onnx", "onnxruntime")


def gather_provenance(
    seed: int, plan_json: str, seconds: Mapping[str, float], **machine: Any
) -> Provenance:
    """Collect seed, versions, machine, plan hash and time.

    Args:
        seed: Seed of the run.
        plan_json: Text of plan.json; its SHA-256 identifies the plan.
        seconds: Wall time per phase, s.
        **machine: Further facts on how the run was done (``device``, ``precision``).
    """
    facts = {
        "processor": processor_name(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }
    return Provenance(
        seed=seed,
        plan_hash=hashlib.sha256(plan_json.encode()).hexdigest(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"python": platform.python_version()}
        | {name: _version(name) for name in _PACKAGES},
        machine=facts | machine,
        seconds={phase: round(value, 3) for phase, value in seconds.items()},
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
