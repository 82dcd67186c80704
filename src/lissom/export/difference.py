"""What a network computes, in torch or elsewhere: its outputs, and how far two runs differ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lissom.errors import ExportError
from lissom.task import on_copies


def outputs_of(network: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Give the tensors among a network's outputs, in the order in which exporters flatten them.

    Args:
        network: In eval mode; may write into its inputs.
        inputs: Stay as they are.
    """
    with torch.no_grad():
        leaves = pytree.tree_leaves(on_copies(network, tuple(inputs)))
    return [one for one in leaves if isinstance(one, Tensor)]


def largest_difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> tuple[float, float]:
    """Compare outputs.

    Returns:
        The largest absolute difference, NaN where either has one, and the largest magnitude that
        was expected.

    Raises:
        ExportError: They are not as many, or not of the same shapes.
    """
    if [one.shape for one in expected] != [one.shape for one in found]:
        shapes = [[tuple(one.shape) for one in outputs] for outputs in (expected, found)]
        raise ExportError(
            f"the file gives outputs of shapes {shapes[1]}, the network {shapes[0]}; no file was "
            "written: use another --to, or let the network return tensors alone"
        )
    pairs = zip(expected, found, strict=True)
    differences = [(a.double() - b.double()).abs().flatten() for a, b in pairs]
    scale = max(one.double().abs().max().item() for one in expected)
    return torch.cat(differences).max().item(), scale
