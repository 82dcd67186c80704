"""Decomposed convolutions that compute as one layer while they are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lissom.lowrank.families import family_named
from lissom.plan.functional import apply_with, in_format
from lissom.plan.separable import FilterCP, does_more, filter_cp_whole

# In a training step a multiplication of a depthwise convolution takes as long as so many of a
# dense one. On a CPU, forward and backward, it is from 20 (512 channels, 7 x 7) to some 1,000 (64
# channels, 56 x 56); a low figure leaves the parts alone where they may be faster.
_DEPTHWISE = 60
_WHOLE = "_lissom_whole"  # of a layer's attributes


@contextmanager
def as_one(model: nn.Module) -> Iterator[tuple[str, ...]]:
    """Let filter-wise CP compute as the one convolution that it stands for, for a while.

    Function and gradients are the same. The parts' few multiplications are most of them depthwise,
    for which no processor is made: trained part by part, ResNet-56 at half of its MACs takes three
    times as long a step as the original. A layer computes in parts where these are estimated to be
    faster, and where they do more than that, such as hooks; a copy made meanwhile has the parts.

    Args:
        model: Changed in place; as before afterwards.

    Yields:
        Names of the layers that compute as one.
    """
    chosen: dict[str, tuple[nn.Module, nn.Conv2d]] = {}
    for name, module in model.named_modules():
        whole = filter_cp_whole(module)
        if whole is not None and _pays(module, whole):
            chosen[name] = module, whole
    for module, whole in chosen.values():
        module.__class__ = _AsOne
        # In a tuple, for it is no part of the network.
        module.__dict__[_WHOLE] = (whole,)
    try:
        yield tuple(chosen)
    finally:
        for module, _whole in chosen.values():
            module.__class__ = nn.Sequential
            del module.__dict__[_WHOLE]


class _AsOne(nn.Sequential):
    first: nn.Conv2d
    core: nn.Conv2d
    last: nn.Conv2d

    def forward(self, inputs: Tensor) -> Tensor:
        found = vars(self).get(_WHOLE)  # a slice has none
        if found is None or any(map(does_more, self)):
            for part in self:
                inputs = part(inputs)
            return inputs
        parts = {"first": self.first, "core": self.core, "last": self.last}
        factors = {f"{name}.weight": part.weight for name, part in parts.items()}
        # Of what autocast rounds to bf16 the product loses more than the layer itself would.
        with torch.autocast(inputs.device.type, enabled=False):
            weight = family_named(FilterCP.kind).compose(factors)
        return apply_with(found[0], inputs, in_format(weight, inputs), self.last.bias)

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        state = {name: value for name, value in vars(self).items() if name != _WHOLE}
        return nn.Sequential, (), state


def _pays(parts: nn.Module, whole: nn.Conv2d) -> bool:
    height, width = whole.kernel_size
    rank = parts.get_parameter("last.weight").shape[1]
    in_parts = rank * (whole.in_channels + _DEPTHWISE * (height + width))
    return in_parts > whole.in_channels * height * width
