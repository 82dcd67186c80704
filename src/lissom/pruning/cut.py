"""Choose the channels of a group: how much each is worth, how many may stay, which ones."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lissom.errors import UnsupportedLayer
from lissom.graph.cut import keep_channels as keep_channels
from lissom.graph.layers import ChannelGroup, Member, Role
from lissom.plan.alignment import aligned_counts
from lissom.plan.surgery import find_tensor
from lissom.pruning.importance import aggregate, bn_scale, fpgm, l1, l2, taylor
from lissom.pruning.reconstruct import Reader, removal_harms


class Criterion(StrEnum):
    """What a channel is worth."""

    RECONSTRUCTION = "reconstruction"  # what its loss costs the layers that read it, repaired
    L1 = "l1"  # of the producers' filters
    L2 = "l2"
    GROUP_L2 = "group_l2"  # of producers and consumers
    FPGM = "fpgm"
    BN_SCALE = "bn_scale"
    TAYLOR = "taylor"


_NORMS = {Criterion.L1: l1, Criterion.L2: l2, Criterion.GROUP_L2: l2, Criterion.FPGM: fpgm}


def group_importance(
    model: nn.Module,
    group: ChannelGroup,
    criterion: Criterion | str = Criterion.RECONSTRUCTION,
    gradients: Mapping[str, Tensor] | None = None,
    *,
    covariances: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Score the channels of a group.

    * ``reconstruction``: greedy backward elimination; the relative output error of all consumers
      together, each reconstructed, at which a channel goes.
    * ``l1``, ``l2``, ``fpgm`` of the producers' filters, ``group_l2`` of the consumers' too; each
      tensor divided by its mean, then the mean over tensors.
    * ``bn_scale``: of the group's batch normalizations, likewise.
    * ``taylor``: |sum w . g| over the consumers' weights, which is the loss that the channel's
      removal adds, to first order.

    Args:
        model: The network that the group was found in.
        group: The channels.
        criterion: One of the above.
        gradients: For ``taylor``: gradients by state-dict name.
        covariances: For ``reconstruction``: E[x x^T] by layer name; a consumer without one counts
            its inputs as independent and equally strong.

    Returns:
        (channels,), double precision, on the CPU; higher = keep.

    Raises:
        ValueError: ``criterion`` is unknown, or ``taylor`` has no gradients.
        UnsupportedLayer: The group has nothing that the criterion could read.
    """
    chosen = Criterion(criterion)
    if chosen is Criterion.RECONSTRUCTION:
        return _reconstruction(model, group, covariances or {})
    if chosen is Criterion.TAYLOR:
        return _taylor(model, group, gradients or {})
    if chosen is Criterion.BN_SCALE:
        scales = [_vector(model, group, member) for member in _scales(model, group)]
        scores = [bn_scale(scale) for scale in scales]
    else:
        roles = {Role.OUTPUT, Role.INPUT} if chosen is Criterion.GROUP_L2 else {Role.OUTPUT}
        rows = [_rows(model, group, member) for member in _weights(model, group, roles)]
        scores = [_NORMS[chosen](one) for one in rows]
    if not scores:
        raise _nothing_to_read(group, chosen)
    return aggregate(scores)


def admissible_counts(group: ChannelGroup, round_to: int | str = "auto") -> tuple[int, ...]:
    """List how many channels a group may keep, in ascending order; all of them come last.

    Multiples of the step, or where ``balance`` forbids one the next count that it allows.

    Args:
        group: The channels.
        round_to: ``auto`` (8 up to 64 channels, 16 above), or the step; 1 leaves counts free.

    Raises:
        ValueError: ``round_to`` means nothing.
    """
    balanced = _balanced_counts(group)
    wanted = aligned_counts(group.channels, round_to)
    return tuple(sorted({balanced[bisect_left(balanced, count)] for count in wanted}))


def choose_kept(scores: Tensor, keep: int, group: ChannelGroup) -> tuple[int, ...]:
    """Choose the channels with the highest scores, equally many in every part of the balance.

    Args:
        scores: (channels,).
        keep: How many; a count that the balance allows (``admissible_counts`` lists such).
        group: The channels.

    Returns:
        The kept channels, ascending.

    Raises:
        ValueError: There are not ``channels`` scores, or the balance does not allow ``keep``.
    """
    if scores.shape != (group.channels,):
        raise ValueError(
            f"{group.name} has {group.channels} channels, got scores of shape {tuple(scores.shape)}"
        )
    cells, free = _cells(group)
    worth = scores.tolist()
    # Stable sorting: of equal scores the lower channel stays, whatever the thread count.
    ranked = [sorted(part, key=lambda channel: -worth[channel]) for part in (*cells, free)]
    shares = _shares(cells)
    best: tuple[float, list[int]] | None = None
    for share in range(1, shares + 1) if cells else [0]:
        quotas = [len(cell) * share // shares for cell in cells]
        rest = keep - sum(quotas)
        if not 0 <= rest <= len(free):
            continue
        parts = zip(ranked, [*quotas, rest], strict=True)
        kept = [channel for part, count in parts for channel in part[:count]]
        total = sum(worth[channel] for channel in kept)
        if best is None or total > best[0]:
            best = total, kept
    if best is None or keep < 1:
        raise ValueError(
            f"{group.name}: {keep} of {group.channels} channels can't be kept in balance; allowed "
            "are "
            f"{list(_balanced_counts(group))[:12]}"
        )
    return tuple(sorted(best[1]))


def _cells(group: ChannelGroup) -> tuple[list[list[int]], list[int]]:
    """Split the channels by all balance rows together; the unconstrained ones stand apart.

    The same share of every cell keeps every row balanced, because a row's parts are equally large.
    """
    cells: dict[tuple[int, ...], list[int]] = {}
    for channel in range(group.channels):
        cells.setdefault(tuple(row[channel] for row in group.balance), []).append(channel)
    free = [key for key in cells if all(part < 0 for part in key)]
    unconstrained = [channel for key in free for channel in cells.pop(key)]
    return list(cells.values()), unconstrained


def _shares(cells: Sequence[Sequence[int]]) -> int:
    """Give the number of steps in which every cell can shrink by the same share."""
    return math.gcd(*(len(cell) for cell in cells)) if cells else 0


def _balanced_counts(group: ChannelGroup) -> tuple[int, ...]:
    cells, free = _cells(group)
    shares = _shares(cells)
    step = sum(map(len, cells)) // shares if shares else 0
    bases = [step * share for share in range(1, shares + 1)] or [0]
    counts = {base + extra for base in bases for extra in range(len(free) + 1)}
    return tuple(sorted(counts - {0}))


def _reconstruction(
    model: nn.Module, group: ChannelGroup, covariances: Mapping[str, Tensor]
) -> Tensor:
    readers = []
    for member in _weights(model, group, {Role.INPUT}):
        layer = member.tensor.rpartition(".")[0]
        weight = find_tensor(model, member.tensor).detach()
        covariance = covariances.get(layer)
        if member.axis == 1 and member.groups == 1 and covariance is not None:
            readers.append(Reader(weight, covariance, member.labels))
        else:
            rows = _entries(weight, member)  # (indices, width)
            readers.append(Reader(rows.T, None, member.labels))
    if not readers:
        raise _nothing_to_read(group, Criterion.RECONSTRUCTION)
    return removal_harms(readers, group.channels)


def _taylor(model: nn.Module, group: ChannelGroup, gradients: Mapping[str, Tensor]) -> Tensor:
    members = [one for one in _weights(model, group, {Role.INPUT}) if one.tensor in gradients]
    if not members:
        raise ValueError(
            f"{group.name}: the criterion taylor needs the gradients of its consumers "
            f"({', '.join(group.consumers)}), got none of them"
        )
    changes = [
        taylor(
            _grouped_rows(find_tensor(model, one.tensor).detach(), one, group.channels),
            _grouped_rows(gradients[one.tensor], one, group.channels),
        )
        for one in members
    ]
    return torch.stack(changes).sum(0).abs()


def _weights(model: nn.Module, group: ChannelGroup, roles: set[Role]) -> list[Member]:
    """List the group's weight axes; biases and other vectors say too little."""
    return [
        member
        for member in group.members
        if member.role in roles and find_tensor(model, member.tensor).ndim > 1
    ]


def _scales(model: nn.Module, group: ChannelGroup) -> list[Member]:
    members = [one for one in group.members if one.tensor.rpartition(".")[2] == "weight"]
    return [
        member
        for member in members
        if isinstance(model.get_submodule(member.tensor.rpartition(".")[0]), _BatchNorm)
    ]


def _vector(model: nn.Module, group: ChannelGroup, member: Member) -> Tensor:
    return _rows(model, group, member).abs().amax(1)


def _rows(model: nn.Module, group: ChannelGroup, member: Member) -> Tensor:
    return _grouped_rows(find_tensor(model, member.tensor).detach(), member, group.channels)


def _grouped_rows(tensor: Tensor, member: Member, channels: int) -> Tensor:
    """Give (channels, width): what the tensor has for each channel, short ones padded by zeros."""
    entries = _entries(tensor, member)
    counts = Counter(label for label in member.labels if label >= 0)
    most = max(counts.values(), default=1)
    rows = entries.new_zeros(channels, most, entries.shape[1])
    seen: Counter[int] = Counter()
    for index, label in enumerate(member.labels):
        if label >= 0:
            rows[label, seen[label]] = entries[index]
            seen[label] += 1
    return rows.flatten(1)


def _entries(tensor: Tensor, member: Member) -> Tensor:
    """Give (indices, width): the tensor's entries for each index of the member's axis."""
    values = tensor.to("cpu", torch.float64)
    if member.groups == 1:
        return values.movedim(member.axis, 0).reshape(len(member.labels), -1)
    # Input axis of a grouped convolution: the rows of group j hold j's own inputs.
    parts = values.reshape(member.groups, -1, *values.shape[1:])  # (g, T / g, S / g, ...)
    return parts.transpose(1, 2).flatten(0, 1).flatten(1)  # (S, T / g * K)


def _nothing_to_read(group: ChannelGroup, criterion: Criterion) -> UnsupportedLayer:
    return UnsupportedLayer(
        f"{group.name}: the criterion {criterion} finds nothing to read among the tensors of this "
        f"group; choose another, {Criterion.L2} say"
    )
