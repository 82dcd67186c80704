"""Networks and data on which int8 is tried, quick to run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lissom.export.int8 import Int8Data
from lissom.export.int8_operators import with_integer_kernels
from lissom.export.onnx import onnx_content
from lissom.task import Classification


def settled(model: nn.Module) -> nn.Module:
    """Give batch norms statistics and weights that matter, as after a training."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            size = module.num_features
            module.running_mean = torch.randn(size, generator=generator) * 0.1
            module.running_var = torch.rand(size, generator=generator) + 0.5
            module.weight.data = torch.rand(size, generator=generator) + 0.5
            module.bias.data = torch.randn(size, generator=generator) * 0.1
    return model.eval()


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a network whose weights do not depend on what ran before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return settled(make())


def plain() -> nn.Module:
    """Two convolutions, a pool and a classifier."""
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 24, 3, padding=1),
            nn.ReLU6(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(24, 5),
        )
    )


def images(count: int, size: int = 16, channels: int = 3, seed: int = 0) -> Tensor:
    """Give images of noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, size, size, generator=generator)


def sample_data(size: int = 16, channels: int = 3) -> Int8Data:
    """Give two calibration batches and a held-out one."""
    return Int8Data(
        calibration=[(images(16, size, channels, seed),) for seed in (1, 2)],
        held_out=[(images(32, size, channels, 3),)],
        distance=Classification().distance,
    )


def float_content(model: nn.Module, size: int = 16, channels: int = 3) -> bytes:
    """Give the simplified ONNX file of a network."""
    return with_integer_kernels(onnx_content(model, (images(1, size, channels),))[0])
