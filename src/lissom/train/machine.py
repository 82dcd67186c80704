"""What the machine is good at: device, precision, memory format."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lissom.errors import RecipeError
from lissom.train.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Machine:
    """What a training runs on and in.

    Attributes:
        device: Where.
        precision: ``32`` or ``bf16``.
        channels_last: ``yes`` or ``no``.
    """

    device: torch.device
    precision: str
    channels_last: str

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of images and convolution weights."""
        return torch.channels_last if self.channels_last == "yes" else torch.contiguous_format

    def take(self, model: nn.Module) -> None:
        """Move ``model`` here, in place."""
        model.to(self.device)
        if self.channels_last == "yes":
            for parameter in model.parameters():
                if parameter.dim() == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def images(self, tensor: Tensor) -> Tensor:
        """Give 4-D inputs their memory format."""
        return tensor.contiguous(memory_format=self.memory_format) if tensor.dim() == 4 else tensor


def choose_machine(settings: TrainSettings) -> Machine:
    """Resolve everything that ``settings`` leave to the machine.

    Raises:
        RecipeError: The device is not available.
    """
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    return Machine(
        device, precision, choose_channels_last(settings.channels_last, device, precision)
    )


def choose_device(setting: str) -> torch.device:
    """Resolve ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...

    Raises:
        RecipeError: No such device here.
    """
    if setting == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(setting)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise RecipeError(
            f"device={setting!r}: not available here ({reason}); try auto or cpu"
        ) from error
    return device


def choose_precision(setting: str, device: torch.device) -> str:
    """Resolve ``auto`` to ``bf16`` where it is known to be faster, else to ``32``."""
    if setting != "auto":
        return setting
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    return "bf16" if device.type == "cpu" and _bf16_pays() else "32"


def _bf16_pays() -> bool:
    """Whether this CPU trains faster in bf16.

    Its matrix unit (AMX) makes it so, and AMD's vector instructions do: 1.6x on Zen 4. With
    Intel's, ResNet-20, VGG-16 and MobileNetV2 took 1.05-1.3x as long as in float32.
    """
    if torch.cpu._is_amx_tile_supported():
        return True
    return torch.cpu._is_avx512_bf16_supported() and _made_by("AuthenticAMD")


def _made_by(vendor: str) -> bool:
    try:
        return vendor in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False


def processor_name() -> str:
    """Give the model of the processor, as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def choose_channels_last(setting: str, device: torch.device, precision: str) -> str:
    """Resolve ``auto`` to ``yes`` or ``no``: fp32 on CUDA alone is faster with channels first."""
    if setting != "auto":
        return setting
    return "no" if device.type == "cuda" and precision == "32" else "yes"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Give the context in which a forward pass has the ``precision``."""
    if precision == "32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


@contextmanager
def lent(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put ``model`` on ``device`` for a while; afterwards place and modes are as they were."""
    first = next(iter((*model.parameters(), *model.buffers())), None)
    home = first.device if first is not None else device
    modes = {module: module.training for module in model.modules()}
    model.to(device)
    try:
        yield
    finally:
        model.to(home)
        for module, mode in modes.items():
            module.training = mode


def moved(batch: Any, device: torch.device) -> Any:
    """Copy every tensor of a nested tuple, list or dict to ``device``."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: moved(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(value, device) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(moved(value, device) for value in batch)
    return batch
