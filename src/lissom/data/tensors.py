"""Sets that fit into memory: whole-tensor augmentation, every epoch reproducible by its number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from lissom.data.augment import Augmentation, crop_and_flip, draw
from lissom.data.options import Normalization
from lissom.errors import DataError
from lissom.train.share import share

Batch = tuple[Tensor, Tensor]
_NOTHING = Augmentation()
_ORDER, _AUGMENTATION = 0, 1  # streams of random numbers


@dataclass(frozen=True, slots=True)
class Images:
    """Images in memory.

    Attributes:
        pixels: (N, H, W, C), uint8.
        targets: (N,), int64 class indices.
    """

    pixels: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.dim() != 4:
            raise ValueError(f"pixels: expected uint8 (N, H, W, C), got {self.pixels.dtype}")
        if len(self.pixels) != len(self.targets):
            raise DataError(f"{len(self.pixels)} images but {len(self.targets)} labels")

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Tensor) -> Images:
        return Images(self.pixels[index], self.targets[index])


class TensorLoader:
    """Iterate over images in memory in a fixed order, as they are.

    Inputs are channels-last (N, C, H, W) float32.
    """

    def __init__(self, images: Images, batch_size: int, normalization: Normalization) -> None:
        """Keep references, copy nothing.

        Raises:
            DataError: There are no images.
        """
        if len(images) == 0:
            raise DataError("the set holds no images; expected at least one")
        self.images = images
        self.batch_size = batch_size
        mean, std = torch.tensor(normalization.mean), torch.tensor(normalization.std)
        self._factor = normalization.scale / std
        self._offset = -mean / std

    def __len__(self) -> int:
        """Count the batches; the last one may be smaller."""
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield (inputs, targets)."""
        for start in range(0, len(self.images), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield self.normalized(self.images.pixels[part]), self.images.targets[part]

    def normalized(self, pixels: Tensor) -> Tensor:
        """Turn pixels (N, H, W, C) into inputs (N, C, H, W)."""
        return torch.addcmul(self._offset, pixels.float(), self._factor).permute(0, 3, 1, 2)


class AugmentedLoader(TensorLoader):
    """Shuffle and augment, both as functions of (seed, epoch) alone.

    So a resumed run sees the batches that it would have seen. With ``fix_views(k)`` there are only
    k augmented versions of each image: epoch e shows version e mod k, in an order of its own.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        normalization: Normalization,
        *,
        augmentation: Augmentation = _NOTHING,
        seed: int = 0,
    ) -> None:
        """Start at epoch 0."""
        super().__init__(images, batch_size, normalization)
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = 0
        self.views = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose what the next iteration yields."""
        self.epoch = epoch

    def fix_views(self, count: int) -> None:
        """Show only ``count`` augmented versions of each image, in turn; 0: ever new ones."""
        self.views = count

    def order(self) -> Tensor:
        """Give the image numbers in the order in which this epoch yields them, shape (images,)."""
        return torch.randperm(len(self.images), generator=_generator(self.seed, self.epoch, _ORDER))

    def __iter__(self) -> Iterator[Batch]:
        """Yield (inputs, targets) of one epoch."""
        return self.parts(0, 1)

    def parts(self, rank: int, world: int) -> Iterator[Batch]:
        """Yield, of every batch of one epoch, the images of process ``rank`` of ``world``."""
        view = self.epoch % self.views if self.views else self.epoch
        generator = _generator(self.seed, view, _AUGMENTATION)
        draws = draw(len(self.images), self.augmentation, generator)
        for batch in torch.split(self.order(), self.batch_size):
            index = batch[share(len(batch), rank, world)]
            pixels = self.images.pixels[index]
            if self.augmentation.padding or self.augmentation.flip:
                pixels = crop_and_flip(pixels, self.augmentation, draws[index])
            yield self.normalized(pixels), self.images.targets[index]


class FixedBatches:
    """The first full batches of an epoch, kept once they have been made.

    Every pass over them gives the same tensors, so statistics taken from them can be compared.
    """

    def __init__(self, source: Iterable[Batch], images: int) -> None:
        """Take batches from ``source`` at the first use until ``images`` have been seen."""
        self._source = source
        self._images = images
        self._batches: list[Batch] = []

    def __iter__(self) -> Iterator[Batch]:
        """Yield (inputs, targets)."""
        if not self._batches:
            self._batches = list(_full_batches(self._source, self._images))
        return iter(self._batches)


def _full_batches(source: Iterable[Batch], images: int) -> Iterator[Batch]:
    batches = iter(source)
    first = next(batches)
    yield first
    size = len(first[1])
    wanted = max(1, images // size) - 1
    yield from (batch for batch in islice(batches, wanted) if len(batch[1]) == size)


def split_by_class(targets: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Choose ``count`` samples with every class in proportion.

    Args:
        targets: (N,), class indices.
        count: How many to choose, in 1 .. N-1.
        seed: Of the choice.

    Returns:
        Indices of the rest and of the chosen, both ascending.

    Raises:
        DataError: ``count`` is out of range.
    """
    total = len(targets)
    if not 0 < count < total:
        raise DataError(f"can't set {count} of {total} images aside: expected 1 .. {total - 1}")
    shuffled = torch.randperm(total, generator=_generator(seed))
    by_class = shuffled[torch.argsort(targets[shuffled], stable=True)]
    # Equally spaced places in the list sorted by class: proportional to within one image per class.
    places = (torch.arange(count) * total + total // 2) // count
    chosen = torch.zeros(total, dtype=torch.bool)
    chosen[by_class[places]] = True
    return torch.nonzero(~chosen).flatten(), torch.nonzero(chosen).flatten()


def _generator(*key: int) -> torch.Generator:
    """Seed a generator such that neighbouring keys give unrelated numbers."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
