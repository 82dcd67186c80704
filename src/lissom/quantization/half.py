"""Half precision where the outputs bear it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lissom.quantization.short import short_float

_HALF = 10  # explicit bits of float16's mantissa


def halve(
    model: nn.Module, settled: Iterable[str], inputs: tuple[Tensor, ...], tolerance: float
) -> None:
    """Round float32 tensors to float16: all that are not settled, or those that the outputs bear.

    Args:
        model: Changed in place.
        settled: Names of tensors that stay as they are.
        inputs: What the network is called with.
        tolerance: How far an output may move, relative to the largest.
    """
    own = model.state_dict(keep_vars=True)
    taken = {id(own[name]) for name in settled if name in own}
    left = {}
    for name, tensor in own.items():  # each once, whatever names it has
        if id(tensor) not in taken and tensor.dtype == torch.float32:
            left[name] = tensor
            taken.add(id(tensor))
    if not left:
        return
    expected = _outputs(model, inputs)

    def bears(names: Iterable[str]) -> bool:
        before = {name: left[name].detach().clone() for name in names}
        fill(model, {name: short_float(value, _HALF) for name, value in before.items()})
        if all(map(_near, _outputs(model, inputs), expected, [tolerance] * len(expected))):
            return True
        fill(model, before)
        return False

    if not bears(left):
        for name in left:
            bears([name])


def _near(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    limit = tolerance * expected.abs().max() if expected.numel() else 0
    return bool(((found - expected).abs() <= limit).all())


@torch.no_grad()
def _outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    training = {module: module.training for module in model.modules()}
    found = pytree.tree_leaves(model.eval()(*inputs))
    for module, mode in training.items():
        module.training = mode
    return [value for value in found if isinstance(value, Tensor)]


@torch.no_grad()
def fill(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Overwrite tensors of a state dict."""
    own = model.state_dict(keep_vars=True)
    for name, value in values.items():
        own[name].copy_(value)
