"""From chosen channels to decisions: the indices to keep along every axis, group after group."""

from __future__ import annotations

from collections.abc import Sequence

from lissom.graph.layers import ChannelGroup, Member
from lissom.plan.keep_channels import AxisCut, KeepChannels

Choice = tuple[ChannelGroup, Sequence[int]]


def keep_channels(groups_and_kept: Sequence[Choice]) -> tuple[KeepChannels, ...]:
    """Give one decision per group, for application one after another.

    Several groups may have channels on one axis (after a concatenation), so each decision's
    indices refer to what the ones before it have left.

    Args:
        groups_and_kept: Each group once, with the channels to keep (labels of the group, any
            order).

    Raises:
        ValueError: A group is frozen, or comes twice; a channel does not exist; the balance is
            violated; nothing is left.
    """
    left: dict[tuple[str, int, int], list[int]] = {}
    decisions: dict[str, KeepChannels] = {}
    for group, kept in groups_and_kept:
        _check(group, kept)
        if group.name in decisions:
            raise ValueError(
                f"the channel group {group.name} was given twice; choose its channels once"
            )
        decisions[group.name] = KeepChannels(group.name, _cuts(group, frozenset(kept), left))
    return tuple(decisions.values())


def _cuts(
    group: ChannelGroup, kept: frozenset[int], left: dict[tuple[str, int, int], list[int]]
) -> tuple[AxisCut, ...]:
    same: dict[tuple[tuple[int, ...], int, int], list[tuple[str, int]]] = {}
    for member in group.members:
        remaining = left.setdefault(_key(member), list(range(len(member.labels))))
        keep = [
            position
            for position, index in enumerate(remaining)
            if member.labels[index] < 0 or member.labels[index] in kept
        ]
        if len(keep) == len(remaining):
            continue
        cut = (tuple(keep), len(remaining), member.groups)
        same.setdefault(cut, []).append((member.tensor, member.axis))
        left[_key(member)] = [remaining[position] for position in keep]
    return tuple(
        AxisCut(keep, size, tuple(axes), groups) for (keep, size, groups), axes in same.items()
    )


def _key(member: Member) -> tuple[str, int, int]:
    return member.tensor, member.axis, member.groups


def _check(group: ChannelGroup, kept: Sequence[int]) -> None:
    if group.frozen_because is not None:
        raise ValueError(f"{group.name} can't be cut: {group.frozen_because}")
    chosen = frozenset(kept)
    if not chosen or min(chosen) < 0 or max(chosen) >= group.channels:
        raise ValueError(
            f"{group.name} has {group.channels} channels; expected at least one of 0 .. "
            f"{group.channels - 1} to keep, "
            f"got {sorted(chosen)[:8]}"
        )
    for row in group.balance:
        counts = {part: 0 for part in row if part >= 0}
        for channel in chosen:
            if row[channel] >= 0:
                counts[row[channel]] += 1
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"{group.name}: equally many channels must be kept in each of {len(counts)} "
                "parts, got "
                f"{list(counts.values())[:8]}"
            )
