"""Decomposed convolutions that compute as one layer while they are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.lowrank.families import family_named
from lissom.plan.separable import FilterCP, filter_cp_whole

# In a training step a multiplication of a depthwise convolution takes as long as so many of a
# dense one. On a CPU, forward and backward, it is from 20 (512 channels, 7 x 7) to some 1,000 (64
# channels, 56 x 56); a low figure leaves the parts alone where they may be faster.
_DEPTHWISE = 60


@contextmanager
def as_one(model: nn.Module) -> Iterator[tuple[str, ...]]:
    """Let filter-wise CP compute as the one convolution that it stands for, for a while.

    Function and gradients are the same. The parts' few multiplications are most of them depthwise,
    for which no processor is made: trained part by part, ResNet-56 at half of its MACs takes three
    times as long a step as the original. A network is left as it is where the parts are estimated
    to be faster, and where they have hooks or parametrizations.

    Args:
        model: Changed in place; as before afterwards.

    Yields:
        Names of the layers that compute as one.
    """
    chosen: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        whole = filter_cp_whole(module)
        if whole is not None and _pays(module, whole):
            chosen[name] = module
            module.__class__ = _AsOne
            # In a tuple, for it is no part of the network.
            module.__dict__["whole"] = (whole,)
    try:
        yield tuple(chosen)
    finally:
        for module in chosen.values():
            module.__class__ = nn.Sequential
            del module.__dict__["whole"]


def apply_with(
    layer: nn.Conv2d | nn.Linear, inputs: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Apply a layer with another weight and bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(inputs, weight, bias)
    return layer._conv_forward(inputs, weight, bias)


def in_format(weight: Tensor, like: Tensor) -> Tensor:
    """Give a kernel the memory format of another."""
    if weight.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last):
        return weight.contiguous(memory_format=torch.channels_last)
    return weight


class _AsOne(nn.Sequential):
    first: nn.Conv2d
    core: nn.Conv2d
    last: nn.Conv2d
    whole: tuple[nn.Conv2d]

    def forward(self, inputs: Tensor) -> Tensor:
        parts = {"first": self.first, "core": self.core, "last": self.last}
        factors = {f"{name}.weight": part.weight for name, part in parts.items()}
        # Of what autocast rounds to bf16 the product loses more than the layer itself would.
        with torch.autocast(inputs.device.type, enabled=False):
            weight = family_named(FilterCP.kind).compose(factors)
        weight = in_format(weight, inputs)
        return apply_with(self.whole[0], inputs, weight, self.last.bias)


def _pays(parts: nn.Module, whole: nn.Conv2d) -> bool:
    height, width = whole.kernel_size
    rank = parts.get_parameter("last.weight").shape[1]
    in_parts = rank * (whole.in_channels + _DEPTHWISE * (height + width))
    return in_parts > whole.in_channels * height * width
