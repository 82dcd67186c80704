import pytest
import torch
from torch import nn

from lissom.data.augment import Augmentation
from lissom.data.options import Normalization
from lissom.data.tensors import AugmentedLoader, Images, TensorLoader
from lissom.task import Data


def stripes(count, seed):
    """Images of 6 x 6 pixels with a bright row (class 0) or a bright column (class 1)."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(100, (count, 6, 6, 1), dtype=torch.uint8, generator=generator)
    targets = torch.arange(count) % 2
    for i in range(count):
        where = 1 + i % 4
        (pixels[i, where] if targets[i] == 0 else pixels[i, :, where]).fill_(220)
    return Images(pixels, targets)


@pytest.fixture
def data():
    shift = Normalization((0.3,), (0.3,))
    augmentation = Augmentation(padding=1)
    train = AugmentedLoader(stripes(60, 0), 16, shift, augmentation=augmentation)
    held_out, test = (
        TensorLoader(stripes(40, 1), 20, shift),
        TensorLoader(stripes(40, 2), 20, shift),
    )
    return Data(train=train, held_out=held_out, test=test, calibration=held_out)


@pytest.fixture
def network():
    """A factory of equal small networks with batch norm and dropout."""

    def build(seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Conv2d(1, 6, 3, padding=1, bias=False),
                nn.BatchNorm2d(6),
                nn.ReLU(),
                nn.AdaptiveMaxPool2d(2),
                nn.Flatten(),
                nn.Dropout(0.1),
                nn.Linear(24, 2),
            )

    return build
