"""Several processes that do the same work and share out the training."""

from __future__ import annotations

import atexit
import gc
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lissom.errors import RecipeError
from lissom.train.settings import TrainSettings

T = TypeVar("T")

_FABRIC_PRECISION = {"32": "32-true", "bf16": "bf16-mixed"}
# A process that dies is noticed at once; this ends a wait for one that lives but never comes.
# The others wait while the first one measures and decides alone, which may take long.
_PATIENCE = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Weighed:
    """A loss, here and over the whole batch; nothing in it has waited for the device.

    Attributes:
        here: To be differentiated by this process.
        mean: Over the whole batch, without gradient.
        images: Of the whole batch.
        part: Share of them that is this process's; None: there is only one process.
    """

    here: Tensor
    mean: Tensor
    images: int | Tensor
    part: Tensor | None = None

    def plus(self, penalty: Tensor) -> Weighed:
        """Add what does not depend on the images; the mean that is told stays the images' loss."""
        return replace(self, here=self.here + penalty)


@dataclass(frozen=True, slots=True)
class Processes:
    """Which of how many processes this is.

    Attributes:
        rank: From 0.
        world: How many there are, over all machines.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls) -> Processes:
        """Give what holds now; one alone until ``join``."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Tell whether this is the process that writes files and talks."""
        return self.rank == 0

    def from_first(self, make: Callable[[], T]) -> T:
        """Let the first process make something, and give it to all; an error is raised by all.

        Args:
            make: Called in the first process alone, which gives the original; the others give
                copies.
        """
        if self.world == 1:
            return make()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = make()
            except Exception as error:  # whatever it is, the others wait for news
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0)
        made, failure = outcome
        if failure is not None:
            raise failure
        return made

    @torch.no_grad()
    def equalize(self, model: nn.Module) -> None:
        """Give every process the bits of the first one's parameters and buffers."""
        if self.world == 1:
            return
        device = _exchange_device()
        for tensor in model.state_dict().values():
            sent = tensor.detach().to(device).contiguous()
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)

    def weigh(self, loss: Tensor, images: int) -> Weighed:
        """Weigh the mean loss over a part such that averaged gradients are those of the batch.

        Args:
            loss: Mean over this process's images.
            images: How many they are.
        """
        if self.world == 1:
            return Weighed(loss, loss.detach(), images)
        own = torch.stack([loss.detach().float() * images, loss.new_tensor(float(images)).float()])
        sums = own.clone()
        dist.all_reduce(sums)
        part = own[1] / sums[1]
        return Weighed(loss * (part * self.world), sums[0] / sums[1], sums[1], part)

    @torch.no_grad()
    def average_statistics(self, model: nn.Module, part: Tensor | None) -> None:
        """Average the running statistics of batch norms over the processes' parts of a batch.

        The means are those of the whole batch; the variances lack that of the parts' means.

        Args:
            model: Its batch norms in training mode are changed.
            part: This process's share of the batch; None: there is only one process.
        """
        if part is None:
            return
        norms = (m for m in model.modules() if isinstance(m, _NormBase) and m.training)
        both = [b for norm in norms for b in (norm.running_mean, norm.running_var)]
        buffers = [buffer for buffer in both if buffer is not None]
        if buffers:
            flat = torch.cat([buffer.reshape(-1) for buffer in buffers]) * part
            dist.all_reduce(flat)
            sizes = [buffer.numel() for buffer in buffers]
            for buffer, values in zip(buffers, torch.split(flat, sizes), strict=True):
                buffer.copy_(values.view_as(buffer))


def join(settings: TrainSettings) -> Processes:
    """Start the processes that are asked for, or meet those that torchrun started.

    The first process starts the others by its own command line (``python -m ...`` or a script);
    they come here by the same way.

    Args:
        settings: ``devices``, ``strategy`` and ``device`` are read; under torchrun, its number of
            processes holds.

    Raises:
        RecipeError: There are not that many devices.
    """
    if world_size(settings) > 1 and not dist.is_initialized():
        kind = "cuda" if settings.device == "auto" and torch.cuda.is_available() else "cpu"
        accelerator = kind if settings.device == "auto" else torch.device(settings.device).type
        _launch(_several(settings, accelerator, "32"))
        # Said of weights that are channels-last and channels-first at once, which costs nothing.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    return Processes.here()


def world_size(settings: TrainSettings) -> int:
    """Count the processes that there will be, over all machines."""
    devices, machines = _extent(settings)
    return devices * machines


def fabric_for(settings: TrainSettings, device: torch.device, precision: str) -> Fabric:
    """Give the Fabric of one training.

    Args:
        settings: ``devices`` and ``strategy`` are read.
        device: Where this process trains.
        precision: ``32`` or ``bf16``.
    """
    if world_size(settings) > 1:
        return _launch(_several(settings, device.type, precision))
    return Fabric(
        accelerator=device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision=_FABRIC_PRECISION[precision],  # type: ignore[arg-type]
    )


def _several(settings: TrainSettings, accelerator: str, precision: str) -> Fabric:
    devices, machines = _extent(settings)
    strategy = DDPStrategy(
        timeout=_PATIENCE,
        forward_sync_buffers=False,
        find_unused_parameters=settings.strategy == "ddp_find_unused_parameters_true",
    )
    try:
        return Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=machines,
            strategy=strategy,
            precision=_FABRIC_PRECISION[precision],  # type: ignore[arg-type]
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise RecipeError(
            f"devices={devices}, device={settings.device!r}: not available here ({reason}); "
            "try fewer devices, or device=cpu"
        ) from error


def _launch(fabric: Fabric) -> Fabric:
    fabric.launch()
    atexit.unregister(_leave)
    atexit.register(_leave)
    return fabric


def _leave() -> None:
    """End the group's threads while Python still runs.

    A thread that lets go of a tensor while the interpreter is torn down aborts the process, now
    and then, with its work done (PyTorch pull request 179291).
    """
    if dist.is_initialized():
        dist.destroy_process_group()
    gc.collect()  # a DistributedDataParallel in a cycle holds the group, too


def _extent(settings: TrainSettings) -> tuple[int, int]:
    """Give the processes of this machine, and the number of machines."""
    if "LOCAL_WORLD_SIZE" in os.environ and "WORLD_SIZE" in os.environ:  # torchrun's
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    return settings.devices, 1


def _exchange_device() -> torch.device:
    """Where tensors must be to be sent."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
