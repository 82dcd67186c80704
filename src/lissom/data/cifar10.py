"""CIFAR-10 in its public form, the folder ``cifar-10-batches-py``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lissom.data.assemble import assemble
from lissom.data.augment import Augmentation
from lissom.data.options import DataOptions, LoadedData, Normalization
from lissom.data.tensors import Images
from lissom.data.unpickle import read_pickle
from lissom.errors import DataError

_FOLDER = "cifar-10-batches-py"
_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
_HELD_OUT_SHARE = 10  # one in ten: 5,000 of the 50,000


def load_cifar10(data_dir: Path | None, options: DataOptions) -> LoadedData:
    """Read the five training batches and the test batch.

    Args:
        data_dir: ``cifar-10-batches-py`` or the folder that holds it.
        options: ``held_out`` defaults to a tenth of the training images (5,000).

    Raises:
        DataError: Folder or file missing, truncated, refused or misshapen.

    Source:
        Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    folder = _find(data_dir)
    parts = [_read(folder / name) for name in _TRAIN]
    train = Images(
        torch.cat([part.pixels for part in parts]), torch.cat([part.targets for part in parts])
    )
    if options.held_out is None:
        options = replace(options, held_out=max(1, len(train) // _HELD_OUT_SHARE))
    return assemble(
        train,
        _read(folder / "test_batch"),
        _class_names(folder / "batches.meta"),
        Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        Augmentation(padding=4, flip=True),
        options,
    )


def _find(data_dir: Path | None) -> Path:
    layout = f"a folder {_FOLDER} with {_TRAIN[0]} .. {_TRAIN[-1]}, test_batch and batches.meta"
    if data_dir is None:
        raise DataError(
            f"cifar10 is not embedded: give its folder (--data-dir, data_dir=); it holds {layout}"
        )
    for folder in (data_dir, data_dir / _FOLDER):
        if (folder / _TRAIN[0]).is_file():
            return folder
    raise DataError(f"{data_dir}: no CIFAR-10 there; expected {layout}")


def _read(path: Path) -> Images:
    content = read_pickle(path)
    pixels, labels = _field(path, content, b"data"), _field(path, content, b"labels")
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.shape[1:] != (3072,)
    ):
        raise DataError(
            f"{path}: data: expected a uint8 array of N rows of 3072 pixels; get the original"
        )
    if not isinstance(labels, list) or not all(
        isinstance(label, int) and 0 <= label < 10 for label in labels
    ):
        raise DataError(f"{path}: labels: expected a list of integers 0..9; get the original")
    if len(labels) != len(pixels):
        raise DataError(f"{path}: {len(pixels)} images but {len(labels)} labels; get the original")
    planes = torch.from_numpy(pixels.copy()).view(-1, 3, 32, 32)
    return Images(planes.permute(0, 2, 3, 1).contiguous(), torch.tensor(labels, dtype=torch.int64))


def _field(path: Path, content: Any, name: bytes) -> Any:
    if not isinstance(content, dict) or name not in content:
        raise DataError(f"{path}: has no field {name.decode()!r}; expected a batch of CIFAR-10")
    return content[name]


def _class_names(path: Path) -> tuple[str, ...]:
    names = _field(path, read_pickle(path), b"label_names")
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise DataError(f"{path}: label_names: expected a list of names; get the original")
    return tuple(name.decode("ascii", errors="replace") for name in names)
