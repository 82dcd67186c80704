"""From training and test images in memory to the four sets."""

from __future__ import annotations

from dataclasses import replace

import torch

from lissom.data.augment import Augmentation
from lissom.data.options import DataOptions, LoadedData, Normalization
from lissom.data.tensors import (
    AugmentedLoader,
    FixedBatches,
    Images,
    TensorLoader,
    split_by_class,
)
from lissom.task import Data


def assemble(
    train: Images,
    test: Images,
    classes: tuple[str, ...],
    normalization: Normalization,
    augmentation: Augmentation,
    options: DataOptions,
) -> LoadedData:
    """Set held-out images aside and build the loaders.

    Args:
        train: All training images.
        test: All test images.
        classes: Names of the classes.
        normalization: The set's default.
        augmentation: The set's default.
        options: What the user asks for; ``held_out`` must be given.

    Raises:
        DataError: An option does not fit the set.
    """
    normalization = options.normalization(normalization)
    padding = options.crop_padding if options.crop_padding is not None else augmentation.padding
    augmentation = replace(augmentation, padding=padding, reflect=options.padding_mode == "reflect")
    if not options.augment:
        augmentation = Augmentation()
    rest, chosen = split_by_class(train.targets, options.held_out or 0, options.split_seed)
    kept, held_out = train[rest], train[chosen]

    def shuffled(seed: int) -> AugmentedLoader:
        return AugmentedLoader(
            kept, options.batch_size, normalization, augmentation=augmentation, seed=seed
        )

    data = Data(
        train=shuffled(options.seed),
        held_out=TensorLoader(held_out, options.eval_batch_size, normalization),
        test=TensorLoader(test, options.eval_batch_size, normalization),
        calibration=FixedBatches(shuffled(options.seed + 1), options.calibration_images),
    )
    _, height, width, channels = train.pixels.shape
    return LoadedData(data, (torch.zeros(1, channels, height, width),), classes)
