"""The channels of a group: what each is worth, how it vanishes, and whether that is exact."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lissom.graph.layers import ChannelGroup, Member, Role
from lissom.plan.surgery import find_tensor
from lissom.relaxation.block import relaxed_tensor
from lissom.relaxation.neighbours import channels_first, layer_inputs
from lissom.relaxation.shrink import shrink_factors

_SMALLEST = 1e-12


@dataclass(slots=True)
class Part:
    """A tensor with one entry, or one filter, per channel.

    Attributes:
        parameter: One axis holds the channels.
        labels: (n,) channel of each entry along that axis; -1 belongs to another group.
        floor: Whether only what exceeds 0 counts: the shift of a batch norm in front of a ReLU.
        axis: Which one: 1 for the filters of a transposed convolution, else 0.
    """

    parameter: nn.Parameter
    labels: Tensor
    floor: bool
    axis: int = 0

    def squares(self, channels: int) -> Tensor:
        """Give the sum of squares that each channel has here, (channels,)."""
        values = self.parameter.detach().movedim(self.axis, 0)
        counted = values.clamp_min(0) if self.floor else values
        energy = counted.square().flatten(1).sum(dim=1) if values.dim() > 1 else counted.square()
        # What belongs to another group goes to a place of its own: a mask would make a GPU wait.
        places = self._labels_beside(values).remainder(channels + 1)
        return energy.new_zeros(channels + 1).index_add_(0, places, energy)[:channels]

    def scale(self, factors: Tensor) -> None:
        """Multiply each channel's entries; a shift below its floor of 0 stays."""
        values = self.parameter.data.movedim(self.axis, 0)
        mine = torch.cat([factors, factors.new_ones(1)])[self._labels_beside(values)]
        spread = mine.reshape(-1, *[1] * (values.dim() - 1))
        if self.floor:
            spread = torch.where(values > 0, spread, torch.ones_like(spread))
        values.mul_(spread)

    def _labels_beside(self, values: Tensor) -> Tensor:
        self.labels = self.labels.to(values.device)
        return self.labels


class Rows:
    """The channels of one group, each with everything that must vanish for it to go.

    The strength of a channel is ||(gamma_i, max(beta_i, 0))|| over all batch norms of the group,
    relative to the root of the sum of squares over the channels at the start; over filters and
    biases where no batch norm follows.

    Attributes:
        group: The channels.
        parts: What vanishes.
        silent: Whether readers get zeros from a channel that has vanished; else a constant.
        total: Root of the sum of squares over the channels at the start, the unit of a strength.
    """

    def __init__(self, group: ChannelGroup, parts: Sequence[Part], *, silent: bool = True) -> None:
        """Fix the unit in which strengths are measured."""
        self.group, self.parts, self.silent = group, tuple(parts), silent
        self.total = 1.0
        self.total = max(float(self.strengths().norm()), _SMALLEST)

    @property
    def device(self) -> torch.device:
        """Give where the parts are."""
        return self.parts[0].parameter.device

    @torch.no_grad()
    def strengths(self) -> Tensor:
        """Give the strength of each channel, (channels,); exactly 0 once it has vanished."""
        channels = self.group.channels
        squares = sum((part.squares(channels) for part in self.parts), torch.zeros(()))
        return torch.as_tensor(squares).sqrt() / self.total

    @torch.no_grad()
    def shrink(self, amount: Tensor, power: int) -> None:
        """Make the penalty's step (``shrink_factors``); ``amount``: a scalar, or one for each."""
        strengths = self.strengths()
        factors = shrink_factors(strengths, amount.to(strengths), power)
        for part in self.parts:
            part.scale(factors)

    @torch.no_grad()
    def keep(self, mask: Tensor) -> None:
        """Let the channels outside ``mask`` (channels,) vanish."""
        for part in self.parts:
            part.scale(mask.to(part.parameter))


def learnable_rows(
    model: nn.Module,
    groups: Iterable[ChannelGroup],
    example_inputs: tuple[Tensor, ...],
) -> tuple[list[Rows], dict[str, str]]:
    """Find, per group, the least that must vanish for its consumers to read exact zeros.

    Tried on the network itself: scale and shift of the group's batch norms, shifts only down to 0
    (a ReLU follows); then all of the shifts; then the producers' filters and biases as well. What
    else has one value per channel (other norms, layer scales) is made to show meanwhile: a shift
    that is 0 before the training need not be so after it.

    Args:
        model: In eval mode; its values are put back.
        groups: Candidates; frozen, inexact and balanced ones are refused.
        example_inputs: Inputs of any batch size.

    Returns:
        The rows, and for every group that got none the reason.
    """
    refused = {}
    open_groups = []
    for group in groups:
        reason = _refusal(group)
        if reason:
            refused[group.name] = reason
        else:
            open_groups.append(group)
    found: dict[str, Rows] = {}
    for floor in (True, False):
        for filters in (False, True):
            tried = {
                group.name: parts
                for group in open_groups
                if group.name not in found
                and (parts := _parts(model, group, floor=floor, filters=filters))
            }
            for group in _silent(model, open_groups, tried, example_inputs):
                found[group.name] = Rows(group, tried[group.name])
    for group in open_groups:
        if group.name not in found:
            refused[group.name] = (
                "its consumers do not read zeros when its batch norms (or filters) vanish"
            )
    return [found[group.name] for group in open_groups if group.name in found], refused


def filter_rows(model: nn.Module, groups: Iterable[ChannelGroup]) -> list[Rows]:
    """Give the rows whose filters and biases vanish, whatever follows: what stays is a constant."""
    found = []
    for group in groups:
        parts = [_filters(model, m, floor=False) for m in group.members if m.role is Role.OUTPUT]
        if parts and not _refusal(group):
            found.append(Rows(group, parts, silent=False))
    return found


def _refusal(group: ChannelGroup) -> str:
    if group.frozen_because is not None:
        return group.frozen_because
    if not group.exact:
        return "an operator computes over its channels, so that removing one changes the others"
    if group.balance:
        return "its channels can only go several at a time (equally many in each part)"
    return ""


def _parts(model: nn.Module, group: ChannelGroup, *, floor: bool, filters: bool) -> list[Part]:
    """List what would vanish; empty if there is nothing of the kind."""
    norms = {m.tensor: m for m in group.members if m.role is Role.VECTOR}
    parts = []
    for tensor, member in norms.items():
        owner, _, key = tensor.rpartition(".")
        module = model.get_submodule(owner)
        if isinstance(module, _BatchNorm) and key in ("weight", "bias"):
            parts.append(_part(module, key, member, floor=floor and key == "bias"))
    if parts and not filters:
        return parts
    if not filters:
        return []
    for member in group.members:
        if member.role is Role.OUTPUT:
            parts.append(_filters(model, member, floor=floor))
    return parts


def _filters(model: nn.Module, member: Member, *, floor: bool) -> Part:
    owner, _, key = relaxed_tensor(model, member.tensor, member.axis).rpartition(".")
    return _part(model.get_submodule(owner), key, member, floor=floor and key == "bias")


def _part(module: nn.Module, key: str, member: Member, *, floor: bool) -> Part:
    return Part(getattr(module, key), torch.tensor(member.labels), floor, member.axis)


def _silent(
    model: nn.Module,
    groups: Collection[ChannelGroup],
    tried: dict[str, list[Part]],
    example_inputs: tuple[Tensor, ...],
) -> list[ChannelGroup]:
    """Let every other channel vanish, run, and give the groups whose consumers read zeros there."""
    chosen = [group for group in groups if group.name in tried]
    changed: list[Tensor] = [part.parameter for parts in tried.values() for part in parts]
    changed += [tensor for group in chosen for tensor in _vectors(model, group).values()]
    before = [tensor.detach().clone() for tensor in changed]
    try:
        with torch.no_grad():
            for group in chosen:
                _silence(model, group, tried[group.name])
            consumers = {name for group in chosen for name in group.consumers}
            read = layer_inputs(model, consumers, example_inputs)
    finally:
        with torch.no_grad():
            for tensor, values in zip(changed, before, strict=True):
                tensor.copy_(values)
    return [group for group in chosen if _reads_zeros(group, read)]


def _silence(model: nn.Module, group: ChannelGroup, parts: Sequence[Part]) -> None:
    """Let every other channel of a group vanish."""
    vanishing = {id(part.parameter) for part in parts}
    for name, tensor in _vectors(model, group).items():
        if id(tensor) not in vanishing:
            tensor.fill_(-1 if name.endswith("running_mean") else 1)  # what a ReLU lets through
    mask = torch.arange(group.channels) % 2 == 1
    for part in parts:
        part.scale(mask.to(part.parameter))
        _lower(part, mask)


def _vectors(model: nn.Module, group: ChannelGroup) -> dict[str, Tensor]:
    """Give the parameters and buffers with one value per channel."""
    names = [member.tensor for member in group.members if member.role is Role.VECTOR]
    return {name: find_tensor(model, relaxed_tensor(model, name, 0)) for name in names}


def _lower(part: Part, kept: Tensor) -> None:
    """Put shifts that may stay below 0 there, so that the run shows whether a ReLU follows."""
    if part.floor:
        mine = part.labels.cpu()
        gone = (mine >= 0) & ~kept[mine.clamp_min(0)]
        part.parameter.data[gone.to(part.parameter.device)] = -1.0


def _reads_zeros(group: ChannelGroup, read: Mapping[str, tuple[Tensor, ...]]) -> bool:
    for member in group.members:
        if member.role is not Role.INPUT:
            continue
        labels = torch.tensor(member.labels)
        gone = torch.nonzero((labels >= 0) & (labels % 2 == 0)).flatten()
        inputs = read.get(member.tensor.rpartition(".")[0], ())
        if not inputs or any(channels_first(part, len(labels))[gone].any() for part in inputs):
            return False
    return True
