"""Weights files: read safely, fitted strictly."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lissom.errors import WeightsError


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copy the tensors of a file into ``model``, all or none.

    Args:
        model: Changed in place, once everything has been checked.
        path: ``.safetensors``, or ``.pt`` / ``.pth`` read without running any code. A state dict
            nested under ``state_dict`` or ``model`` is found, and the prefix ``module.`` removed.

    Raises:
        WeightsError: Missing, truncated or unsafe file; missing, unexpected or misshapen tensor;
            NaN or infinity. The first offending tensor is named.
    """
    path = Path(path)
    found = read_weights(path)
    expected = model.state_dict()
    _check_keys(path, expected, found)
    for name, tensor in found.items():
        _check_tensor(path, name, tensor, expected[name])
    model.load_state_dict(expected | found)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the state dict in a file, without running any code of it.

    Raises:
        WeightsError: Missing, truncated or unsafe file, or no state dict in it.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; give a .safetensors, .pt or .pth file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(
                f"{path}: truncated or not a safetensors file ({error}); copy or download it again"
            ) from error
    return _state_dict(path, _unpickled(path))


def _unpickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        first_line = str(error).strip().partition("\n")[0]
        raise WeightsError(
            f"{path}: damaged, or it holds objects besides tensors, which is refused because "
            f"loading them would run their code ({first_line}); save model.state_dict() alone"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path}: truncated or not a PyTorch file ({error}); copy or save it again"
        ) from error


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    for nested in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(nested), Mapping):
            content = content[nested]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(
            f"{path}: holds a {type(content).__name__}, expected a state dict (name to tensor)"
        )
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor):
            raise WeightsError(
                f"{path}: {name!r} is a {type(tensor).__name__}, expected a tensor; "
                "save model.state_dict()"
            )
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _check_keys(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    # Files of very old versions of torch lack the counters, which eval mode does not read.
    missing = [n for n in expected if n not in found and not n.endswith("num_batches_tracked")]
    unexpected = [name for name in found if name not in expected]
    if not missing and not unexpected:
        return
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(expected)} tensors are missing, first {missing[0]!r}")
    if unexpected:
        parts.append(f"{len(unexpected)} are unexpected, first {unexpected[0]!r}")
    raise WeightsError(f"{path}: {'; '.join(parts)}: the file belongs to another network")


def _check_tensor(path: Path, name: str, tensor: Tensor, expected: Tensor) -> None:
    if tensor.shape != expected.shape:
        raise WeightsError(
            f"{path}: {name} has shape {tuple(tensor.shape)}, the network expects "
            f"{tuple(expected.shape)}: the file belongs to another network, or "
            "to other arguments of it (number of classes?)"
        )
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise WeightsError(
            f"{path}: {name} holds {bad} NaN or infinite of {tensor.numel()} values, expected "
            "finite ones: the training that made it diverged; use an earlier checkpoint"
        )
