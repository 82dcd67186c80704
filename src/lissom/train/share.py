"""Which images of a batch each of several processes works on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data.distributed import DistributedSampler

from lissom.errors import DataError

_LEAST = 2  # images per process: batch norm knows no variance of one


@runtime_checkable
class Divisible(Protocol):
    """A loader that makes only what one process needs."""

    def parts(self, rank: int, world: int) -> Iterator[Any]:
        """Yield, of every batch, what ``share`` gives to process ``rank`` of ``world``."""


def share(images: int, rank: int, world: int) -> slice:
    """Give a process its images of a batch, as many as every other one, give or take one.

    A batch too small to be divided is worked on whole by every process.

    Args:
        images: In the batch.
        rank: Of the process, from 0.
        world: How many processes there are.
    """
    if images < _LEAST * world:
        return slice(0, images)
    return slice(images * rank // world, images * (rank + 1) // world)


def parts(loader: Iterable[Any], rank: int, world: int) -> Iterator[Any]:
    """Yield one process's part of every batch of a loader; the batches stay as they were.

    A loader with a ``DistributedSampler`` has divided the set already and is left alone. Any other
    one makes whole batches in every process, in the same order, and each takes its images of them.

    Raises:
        DataError: A tensor of a batch does not have the images in front.
    """
    if world == 1 or isinstance(getattr(loader, "sampler", None), DistributedSampler):
        yield from loader
    elif isinstance(loader, Divisible):
        yield from loader.parts(rank, world)
    else:
        for batch in loader:
            yield _part(batch, rank, world)


def _part(batch: Any, rank: int, world: int) -> Any:
    tensors = [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)]
    lengths = {len(tensor) if tensor.dim() else 0 for tensor in tensors}
    if len(lengths) != 1:
        raise DataError(
            f"the training set: a batch holds tensors of {sorted(lengths)} entries; to divide it "
            f"among {world} processes, every tensor needs one entry per image: give the loader a "
            "torch.utils.data.DistributedSampler, or use devices=1"
        )
    own = share(lengths.pop(), rank, world)
    return pytree.tree_map_only(Tensor, lambda tensor: tensor[own], batch)
