"""Handwritten digits, 1,797 grey images of 8 x 8 pixels, shipped with scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits as embedded_digits

from lissom.data.assemble import assemble
from lissom.data.augment import Augmentation
from lissom.data.options import DataOptions, LoadedData, Normalization
from lissom.data.tensors import Images, split_by_class
from lissom.errors import DataError

_TEST, _HELD_OUT = 360, 180
_BRIGHTEST = 16  # pixels are 0..16 in the source


def load_digits(data_dir: Path | None, options: DataOptions) -> LoadedData:
    """Split the digits into about 70 % training, 10 % held-out and 20 % test, always the same way.

    Args:
        data_dir: Must be None: the images come with scikit-learn.
        options: ``held_out`` defaults to 180.

    Raises:
        DataError: A folder is given, or an option does not fit.

    Source:
        Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    if data_dir is not None:
        raise DataError(
            f"digits: come with scikit-learn, not from {data_dir}; give no data directory, or "
            "image_folder for images of your own"
        )
    pixels, labels = embedded_digits(return_X_y=True)
    grey = np.round(pixels.reshape(-1, 8, 8, 1) * (255 / _BRIGHTEST)).astype(np.uint8)
    images = Images(torch.from_numpy(grey), torch.from_numpy(labels).long())
    rest, test = split_by_class(images.targets, _TEST, seed=0)
    if options.held_out is None:
        options = replace(options, held_out=_HELD_OUT)
    return assemble(
        images[rest],
        images[test],
        tuple(str(digit) for digit in range(10)),
        Normalization((0.3053,), (0.3760,)),
        Augmentation(padding=1),
        options,
    )
