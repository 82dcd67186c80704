"""A folder of images, one sub-folder per class, decoded as they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from lissom.data.options import DataOptions, LoadedData, Normalization
from lissom.data.tensors import Batch, split_by_class
from lissom.errors import DataError
from lissom.task import Data

_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_SMALLEST_CROP = 0.35  # share of the largest possible crop
_HELD_OUT_SHARE = 10
_LAYOUT = "expected train/CLASS/IMAGE, test/CLASS/IMAGE and, if you have it, val/CLASS/IMAGE"


@dataclass(frozen=True, slots=True)
class Files:
    """Images on disk.

    Attributes:
        paths: The files.
        targets: (N,), int64 class indices.
    """

    paths: tuple[Path, ...]
    targets: Tensor

    def __getitem__(self, index: Tensor) -> Files:
        return Files(tuple(self.paths[i] for i in index.tolist()), self.targets[index])


def load_image_folder(data_dir: Path | None, options: DataOptions) -> LoadedData:
    """Read the folders ``train``, ``val`` and ``test``, each with a sub-folder per class.

    Without ``val``, or where ``held_out`` is given, the held-out images are taken from ``train``.

    Args:
        data_dir: The folder that holds them.
        options: Mean and std default to ImageNet's.

    Raises:
        DataError: A folder is missing or empty, or (while iterating) an image can't be decoded.
    """
    if data_dir is None:
        raise DataError(f"image_folder: needs its folder (--data-dir, data_dir=); {_LAYOUT}")
    if not (data_dir / "train").is_dir():
        raise DataError(f"{data_dir}: no folder train there; {_LAYOUT}")
    classes = tuple(sorted(path.name for path in (data_dir / "train").iterdir() if path.is_dir()))
    train, test = _scan(data_dir / "train", classes), _scan(data_dir / "test", classes)
    if (data_dir / "val").is_dir() and options.held_out is None:
        held_out = _scan(data_dir / "val", classes)
    else:
        count = options.held_out or max(1, len(train.paths) // _HELD_OUT_SHARE)
        rest, chosen = split_by_class(train.targets, count, options.split_seed)
        train, held_out = train[rest], train[chosen]
    evaluation = replace(options, batch_size=options.eval_batch_size)
    random = np.random.default_rng(options.split_seed)
    few = torch.from_numpy(random.permutation(len(train.paths))[: options.calibration_images])
    data = Data(
        train=ShuffledFolderLoader(train, options),
        held_out=FolderLoader(held_out, evaluation),
        test=FolderLoader(test, evaluation),
        calibration=ShuffledFolderLoader(train[few], options),
    )
    return LoadedData(data, (torch.zeros(1, 3, *options.image_size),), classes)


def _scan(folder: Path, classes: Sequence[str]) -> Files:
    """List the images below ``folder``."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {_LAYOUT}")
    unknown = sorted({p.name for p in folder.iterdir() if p.is_dir()} - set(classes))
    if unknown:
        raise DataError(f"{folder / unknown[0]}: a class that train does not have; {_LAYOUT}")
    paths: list[Path] = []
    targets: list[int] = []
    for target, name in enumerate(classes):
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in _SUFFIXES)
        paths += found
        targets += [target] * len(found)
    if not paths:
        raise DataError(f"{folder}: holds no images; {_LAYOUT}")
    return Files(tuple(paths), torch.tensor(targets, dtype=torch.int64))


class _Pixels(Dataset[tuple[Tensor, int] | DataError]):
    """Decoded images, (H, W, 3) uint8, with their classes; an error in place of a damaged one."""

    def __init__(self, files: Files, size: tuple[int, int], key: tuple[int, ...] | None) -> None:
        self._files, self._size, self._key = files, size, key

    def __getitem__(self, index: int) -> tuple[Tensor, int] | DataError:
        path = self._files.paths[index]
        try:
            with Image.open(path) as image:
                pixels = np.array(self._fitted(image.convert("RGB"), index))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return DataError(f"{path}: can't be decoded ({error}); repair or remove the file")
        return torch.from_numpy(pixels), int(self._files.targets[index])

    def _fitted(self, image: Image.Image, index: int) -> Image.Image:
        """Cut a window of the wanted proportions out, the middle or a random one, and resize it."""
        height, width = self._size
        factor = min(image.width / width, image.height / height)
        across, down, mirrored = 0.5, 0.5, False
        if self._key is not None:
            random = np.random.default_rng((*self._key, index))
            factor *= random.uniform(_SMALLEST_CROP, 1.0) ** 0.5
            across, down = random.uniform(size=2)
            mirrored = bool(random.integers(2))
        left = across * (image.width - factor * width)
        top = down * (image.height - factor * height)
        box = (left, top, left + factor * width, top + factor * height)
        fitted = image.resize((width, height), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
        return fitted.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else fitted


def _collated(items: list[tuple[Tensor, int] | DataError]) -> Any:
    """Stack a batch; give an error as it is, which a worker process would wrap if it raised it."""
    error = next((item for item in items if isinstance(item, DataError)), None)
    return default_collate(items) if error is None else error


class FolderLoader:
    """Iterate over images on disk in a fixed order; the middle of each is shown.

    Inputs are channels-last (N, 3, H, W) float32.
    """

    def __init__(self, files: Files, options: DataOptions) -> None:
        """Take batch size, image size, normalization and workers from ``options``."""
        imagenet = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        normalization = options.normalization(imagenet)
        mean, std = torch.tensor(normalization.mean), torch.tensor(normalization.std)
        self._factor, self._offset = normalization.scale / std, -mean / std
        self.files = files
        self.options = options

    def __len__(self) -> int:
        """Count the batches; the last one may be smaller."""
        return -(-len(self.files.paths) // self.options.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield (inputs, targets)."""
        return self._batches(torch.arange(len(self.files.paths)), key=None)

    def _batches(self, order: Tensor, key: tuple[int, ...] | None) -> Iterator[Batch]:
        loader = DataLoader(
            _Pixels(self.files, self.options.image_size, key),
            batch_size=self.options.batch_size,
            sampler=order.tolist(),
            num_workers=self.options.workers,
            collate_fn=_collated,
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            pixels, targets = batch
            inputs = torch.addcmul(self._offset, pixels.float(), self._factor)
            yield inputs.permute(0, 3, 1, 2), targets


class ShuffledFolderLoader(FolderLoader):
    """Shuffle, crop at random and mirror, all as functions of (seed, epoch) alone."""

    def __init__(self, files: Files, options: DataOptions) -> None:
        """Start at epoch 0."""
        super().__init__(files, options)
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
        random = np.random.default_rng((self.options.seed, self.epoch))
        return torch.from_numpy(random.permutation(len(self.files.paths)))

    def __iter__(self) -> Iterator[Batch]:
        """Yield (inputs, targets) of one epoch."""
        view = self.epoch % self.views if self.views else self.epoch
        key = (self.options.seed, view) if self.options.augment else None
        return self._batches(self.order(), key)
