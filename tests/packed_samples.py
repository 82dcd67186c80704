"""Tensors that look like those of a quantized network, made without any file."""

import numpy as np
import torch
from numpy.typing import NDArray

from lissom.packed.tensors import Levels, Packable, Stored


def kernels(shape: tuple[int, ...], density: float, seed: int = 0) -> NDArray[np.int32]:
    """Levels whose rows and columns differ in scale and whose kernels are smooth."""
    draw = np.random.default_rng(seed)
    values = draw.standard_normal(shape)
    if len(shape) == 4:
        values = values + 1.5 * draw.standard_normal((*shape[:2], 1, 1))
    for axis in (0, 1):
        scales = np.exp(0.5 * draw.standard_normal(shape[axis]))
        values *= np.expand_dims(scales, [i for i in range(len(shape)) if i != axis])
    step = np.quantile(np.abs(values), 1 - density) / 0.65
    return (np.sign(values) * np.floor(np.abs(values) / step + 0.35)).astype(np.int32)


def order_zero_bits(levels: NDArray[np.int32]) -> float:
    """Zeroth-order entropy of all levels together, in bits."""
    counts = np.unique(levels, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def small_network() -> dict[str, Packable]:
    """One tensor of every kind that a packed file can hold; a few kB."""
    draw = torch.Generator().manual_seed(7)
    return {
        "conv.weight": Levels(torch.from_numpy(kernels((8, 6, 3, 3), 0.3)), torch.tensor(0.125)),
        "conv.bias": Stored(torch.randn(8, generator=draw).half().float()),
        "conv.short_bias": Stored(torch.randint(-40, 40, (16,), generator=draw) / 64),
        "norm.running_mean": Stored(torch.randn(8, generator=draw)),
        "norm.running_var": Stored(torch.rand(8, generator=draw).bfloat16().float()),
        "norm.num_batches_tracked": Stored(torch.tensor(3910)),
        "point.weight": Levels(
            torch.from_numpy(kernels((12, 8), 0.5, seed=1)), torch.rand(12, generator=draw)
        ),
        "head.weight": Stored(torch.randn(10, 12, generator=draw)),
        "mask": Stored(torch.rand(5, generator=draw) > 0.5),
        "half": Stored(torch.randn(3, 3, generator=draw).half()),
        "double": Stored(torch.randn(2, generator=draw, dtype=torch.float64)),
        "empty": Stored(torch.zeros(0, 3)),
    }


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors agree in type, shape and every bit."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    pair = [one.contiguous().reshape(-1) for one in (left, right)]
    return not left.numel() or torch.equal(*(one.view(torch.uint8) for one in pair))
