"""Which channels a trial cut removes: a few, of every kind that a group has."""

from __future__ import annotations

from collections import Counter

from lissom.graph.layers import ChannelGroup


def trial_choice(group: ChannelGroup, number: int) -> tuple[int, ...] | None:
    """Give the channels to keep in a small cut that honours the balance; None if there is none.

    The cut removes one channel of every kind (a kind is held by the same axes), from its middle,
    and every other group loses its first channel too, so that groups that are not coupled lose
    different numbers.

    Args:
        group: The group.
        number: Its place among the groups.
    """
    kinds: dict[tuple[int, ...], list[int]] = {}
    holders = _holders(group)
    for channel in range(group.channels):
        kinds.setdefault(tuple(holders[channel]), []).append(channel)
    seeds = [channels[len(channels) // 2] for channels in kinds.values()]
    middle = group.channels // 2
    for wanted in ([*seeds, 0] if number % 2 else seeds, seeds, [middle], [0]):
        removed = evened(group, set(wanted))
        if removed is not None:
            return tuple(c for c in range(group.channels) if c not in removed)
    return None


def _holders(group: ChannelGroup) -> list[list[int]]:
    """Give for each channel the members that hold it, with repetition."""
    holders: list[list[int]] = [[] for _ in range(group.channels)]
    for position, member in enumerate(group.members):
        for label in member.labels:
            if label >= 0:
                holders[label].append(position)
    return holders


def evened(group: ChannelGroup, removed: set[int]) -> set[int] | None:
    """Remove more until all parts lose equally many; None if that leaves too little."""
    for _ in range(2 * len(group.balance) + 2):
        before = len(removed)
        for row in group.balance:
            if not _even_out(row, removed):
                return None
        if len(removed) == before:
            return removed if _leaves_some(group, removed) else None
    return None


def _even_out(row: tuple[int, ...], removed: set[int]) -> bool:
    counts = Counter(row[channel] for channel in removed if row[channel] >= 0)
    most = max(counts.values(), default=0)
    for part in sorted({p for p in row if p >= 0}):
        spare = [c for c, p in enumerate(row) if p == part and c not in removed]
        missing = most - counts[part]
        if missing > len(spare):
            return False
        middle = (len(spare) - missing) // 2
        removed.update(spare[middle : middle + missing])
    return True


def _leaves_some(group: ChannelGroup, removed: set[int]) -> bool:
    """Tell whether every axis, and every part, keeps at least one entry."""
    parts_left = all(
        {p for p in row if p >= 0} == {p for c, p in enumerate(row) if p >= 0 and c not in removed}
        for row in group.balance
    )
    axes_left = all(any(label not in removed for label in m.labels) for m in group.members)
    return parts_left and axes_left and len(removed) < group.channels
