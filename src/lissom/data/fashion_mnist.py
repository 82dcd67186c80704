"""Fashion-MNIST in its public form, four ``idx`` files under gzip."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lissom.data.assemble import assemble
from lissom.data.augment import Augmentation
from lissom.data.options import DataOptions, LoadedData, Normalization
from lissom.data.tensors import Images
from lissom.errors import DataError

_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_HELD_OUT_SHARE = 10  # one in ten: 6,000 of the 60,000


def load_fashion_mnist(data_dir: Path | None, options: DataOptions) -> LoadedData:
    """Read 60,000 training and 10,000 test images, 28 x 28, grey.

    Args:
        data_dir: Folder of ``{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz``.
        options: ``held_out`` defaults to a tenth of the training images.

    Raises:
        DataError: Folder or file missing, truncated or misshapen.

    Source:
        Xiao, Rasul and Vollgraf, arXiv:1708.07747.
    """
    if data_dir is None:
        raise DataError(
            "fashion_mnist is not embedded: give the folder of its four files "
            "({train,t10k}-{images-idx3,labels-idx1}-ubyte.gz) with --data-dir or data_dir="
        )
    train, test = _read(data_dir, "train"), _read(data_dir, "t10k")
    if options.held_out is None:
        options = replace(options, held_out=max(1, len(train) // _HELD_OUT_SHARE))
    return assemble(
        train,
        test,
        _CLASSES,
        Normalization((0.2860,), (0.3530,)),
        Augmentation(padding=2, flip=True),
        options,
    )


def _read(folder: Path, part: str) -> Images:
    labels_path = folder / f"{part}-labels-idx1-ubyte.gz"
    pixels = read_idx(folder / f"{part}-images-idx3-ubyte.gz", dimensions=3)
    labels = read_idx(labels_path, dimensions=1).long()
    if len(labels) and int(labels.max()) >= len(_CLASSES):
        raise DataError(f"{labels_path}: holds the label {int(labels.max())}, expected 0..9")
    return Images(pixels[..., None], labels)


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read a gzipped ``idx`` file of unsigned bytes.

    Args:
        path: The file.
        dimensions: How many it must have.

    Raises:
        DataError: Missing, truncated, or not such a file.

    Source:
        LeCun, Cortes and Burges, The MNIST database, section "File formats".
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected the data set's files under gzip") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: truncated or not gzip ({error}); download it again") from error
    header = 4 * (1 + dimensions)
    magic = bytes((0, 0, 8, dimensions))
    if content[:4] != magic or len(content) < header:
        raise DataError(f"{path}: not an idx file of bytes in {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != int(np.prod(shape, dtype=np.int64)):
        raise DataError(
            f"{path}: holds {len(content) - header} values, its header says {shape}; "
            "download it again"
        )
    values = np.frombuffer(content, dtype=np.uint8, offset=header)
    return torch.from_numpy(values.copy()).view(shape)
