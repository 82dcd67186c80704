"""The constant that a channel leaves whose filters alone have vanished: put it where it is added.

With zero filters a channel puts out its bias, and a batch norm behind makes it beta - gamma mu /
sigma; through the activation that is the same number at every position. A reader adds the sum of
its weights times that number, which goes into its bias, or off the running mean of the batch norm
behind it. Exact where the reader does not pad. Where it pads with zeros the border of the output
has seen fewer than all weights, and is off by the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lissom.graph.layers import ChannelGroup, Member, Role
from lissom.plan.surgery import find_tensor
from lissom.relaxation.block import CompressedAwareBlock, relaxed_tensor
from lissom.relaxation.neighbours import channels_first, layer_inputs, norms_behind

_SAME = 1e-5  # spread over positions, relative to the value, below which it counts as one number


@dataclass(frozen=True, slots=True)
class Folded:
    """What was done with constants.

    Attributes:
        kept: Per group a mask of the channels that must stay: what they leave is no constant, or
            has no place to go.
        inexact: Readers that pad, whose borders are off.
    """

    kept: Mapping[str, Tensor]
    inexact: tuple[str, ...]


def fold_constants(
    network: nn.Module,
    groups: Mapping[str, ChannelGroup],
    rows: Mapping[str, Tensor],
    example_inputs: tuple[Tensor, ...],
) -> Folded:
    """Add to every reader what the channels outside ``rows`` still give it, in place.

    Args:
        network: Relaxed, in eval mode; biases and running means change.
        groups: By name.
        rows: Per group a mask of the live channels.
        example_inputs: Inputs of any batch size.
    """
    concerned = {name: groups[name] for name, mask in rows.items() if not bool(mask.all())}
    readers = {n for group in concerned.values() for n in group.consumers}
    read = layer_inputs(network, readers, example_inputs)
    norms = norms_behind(network, readers, example_inputs)
    kept = {}
    inexact: list[str] = []
    for name, group in concerned.items():
        members = [member for member in group.members if member.role is Role.INPUT]
        constants = {m.tensor: _constants(m, rows[name], read) for m in members}
        stay = torch.zeros_like(rows[name])
        for member in members:
            values = constants[member.tensor]
            stuck = ~values.isfinite()
            if _place(network, _owner(member), norms) is None:
                stuck |= values.ne(0)
            labels = torch.tensor(member.labels)
            stay[labels[stuck & (labels >= 0)]] = True
        for member in members:
            values = _settled(constants[member.tensor], member, stay)
            if values.any():
                _add(network, member, values, norms)
                if _pads(network, _owner(member)):
                    inexact.append(_owner(member))
        kept[name] = stay
    return Folded(kept, tuple(inexact))


def _owner(member: Member) -> str:
    return member.tensor.rpartition(".")[0]


def _constants(member: Member, live: Tensor, read: Mapping[str, tuple[Tensor, ...]]) -> Tensor:
    """Give, per input of a reader, the number that a dead channel feeds it; NaN if there is none.

    0 for live channels and inputs of other groups.
    """
    labels = torch.tensor(member.labels)
    dead = (labels >= 0) & ~live[labels.clamp_min(0)]
    values = torch.zeros(len(labels))
    calls = read.get(_owner(member), ())
    if len(calls) != 1 or member.groups > 1:
        return torch.where(dead, torch.nan, values)
    seen = channels_first(calls[0], len(labels)).flatten(1)
    low, high = seen.min(dim=1).values, seen.max(dim=1).values
    same = high - low <= _SAME * (1 + seen.abs().amax(dim=1))
    found = torch.where(same, (low + high) / 2, torch.nan)
    return torch.where(dead, found.float().cpu(), values)


def _settled(values: Tensor, member: Member, stay: Tensor) -> Tensor:
    """Leave out the channels that stay."""
    labels = torch.tensor(member.labels)
    stays = (labels >= 0) & stay[labels.clamp_min(0)]
    return torch.where(stays, torch.zeros_like(values), values)


def _place(network: nn.Module, layer: str, norms: Mapping[str, str]) -> Tensor | None:
    """Give the tensor that takes a shift of a layer's outputs: its bias, or a running mean.

    None if there is none, or if a constant at the inputs is none at the outputs.
    """
    module = network.get_submodule(layer)
    last = module.last if isinstance(module, CompressedAwareBlock) else module
    if not isinstance(last, (nn.Conv2d, nn.Linear)):
        return None
    if isinstance(last.bias, Tensor):
        return last.bias
    norm = network.get_submodule(norms[layer]) if layer in norms else None
    return norm.running_mean if isinstance(norm, _BatchNorm) else None


@torch.no_grad()
def _add(network: nn.Module, member: Member, values: Tensor, norms: Mapping[str, str]) -> None:
    layer = _owner(member)
    weight = find_tensor(network, relaxed_tensor(network, member.tensor, member.axis)).detach()
    sums = weight.movedim(member.axis, 0).flatten(2).sum(dim=2) if weight.dim() > 2 else weight.T
    shift = values.to(sums) @ sums
    module = network.get_submodule(layer)
    if isinstance(module, CompressedAwareBlock):
        rows = module.coefficients
        shift = rows.reshape(*rows.shape[:2], -1).sum(dim=2) @ shift
    place = _place(network, layer, norms)
    assert place is not None
    if isinstance(place, nn.Parameter):
        place.add_(shift)
    else:
        place.sub_(shift)


def _pads(network: nn.Module, layer: str) -> bool:
    module = network.get_submodule(layer)
    parts = (module.first, module.last) if isinstance(module, CompressedAwareBlock) else (module,)
    windows = [part for part in parts if isinstance(part, nn.Conv2d)]
    return any(
        window.padding_mode == "zeros" and any(window._reversed_padding_repeated_twice)
        for window in windows
    )
