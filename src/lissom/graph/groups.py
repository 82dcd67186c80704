"""From solved channel classes to channel groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lissom.graph.channels import Cause, ChannelIds, Classes, Ids, Slot, components
from lissom.graph.layers import ChannelGroup, Member, Role


@dataclass(frozen=True, slots=True)
class Found:
    """A group and what froze it.

    Attributes:
        group: The group.
        cause: ``group.frozen_because`` in parts, or None.
        doubt: What is to blame if a trial cut fails, or None if nothing is known.
    """

    group: ChannelGroup
    cause: Cause | None
    doubt: Cause | None = None


def channel_groups(ids: ChannelIds) -> tuple[Found, ...]:
    """Gather the classes into groups: those that share a producer's output axis or a balance.

    Returns:
        Groups with at least one producer, in the order of their first producer.
    """
    classes = ids.solve()
    family = _families(ids, classes)
    by_turn = sorted(ids.slots.values(), key=lambda slot: slot.turn)
    slots = [(slot, classes.of[slot.ids]) for slot in by_turn]
    order: dict[int, list[tuple[Slot, Ids]]] = {}
    for slot, of in slots:
        if slot.role is Role.OUTPUT and not _is_bias(slot):
            for group in dict.fromkeys(family[of].tolist()):
                order.setdefault(group, [])
    for slot, of in slots:
        if len(slot.ids) == slot.groups and slot.groups > 1:
            continue
        for group in np.unique(family[of]).tolist():
            if group in order:
                order[group].append((slot, of))
    return tuple(_group(held, family, number, ids, classes) for number, held in order.items())


def _is_bias(slot: Slot) -> bool:
    return slot.tensor.rpartition(".")[2] == "bias"


def _families(ids: ChannelIds, classes: Classes) -> Ids:
    """Give for every class the smallest class of its group."""
    chains = [classes.of[slot.ids] for slot in ids.slots.values() if slot.joins]
    chains += [classes.of[line[line != 0]] for line, _ in ids.balances]
    none = np.zeros(0, dtype=np.int64)
    first = np.concatenate([none, *(chain[:-1] for chain in chains)])
    second = np.concatenate([none, *(chain[1:] for chain in chains)])
    return components(len(classes.of), first, second)


def _group(
    held: list[tuple[Slot, Ids]], family: Ids, number: int, ids: ChannelIds, classes: Classes
) -> Found:
    producing = [(s, of) for s, of in held if s.role is Role.OUTPUT and not _is_bias(s)]
    ordered = sorted(held, key=lambda pair: (pair[0].role is not Role.OUTPUT, _is_bias(pair[0])))
    every = np.concatenate([of[family[of] == number] for _, of in ordered])
    members_of, first = np.unique(every, return_index=True)
    ranked = members_of[np.argsort(first)]
    label = np.full(len(classes.of), -1, dtype=np.int64)
    label[ranked] = np.arange(len(ranked))
    producers = tuple(dict.fromkeys(s.layer for s, _ in producing))
    cause = _first(ranked, classes.frozen)
    balance, uneven = _balances(label, len(ranked), ids, classes)
    cause = cause or uneven
    if cause is None and len(ranked) == 1:
        cause = Cause("it is a single channel, or all its channels can only be removed together")
    group = ChannelGroup(
        name=producers[0],
        channels=len(ranked),
        members=tuple(
            Member(s.tensor, s.axis, s.role, tuple(label[of].tolist()), s.groups) for s, of in held
        ),
        producers=producers,
        consumers=tuple(dict.fromkeys(s.layer for s, _ in held if s.role is Role.INPUT)),
        balance=balance,
        exact=not any(c in classes.inexact for c in ranked.tolist()),
        frozen_because=None if cause is None else str(cause),
    )
    return Found(group, cause, _first(ranked, classes.doubtful))


def _first(ranked: Ids, causes: dict[int, Cause]) -> Cause | None:
    return next((causes[c] for c in ranked.tolist() if c in causes), None)


def _balances(
    label: Ids, channels: int, ids: ChannelIds, classes: Classes
) -> tuple[tuple[tuple[int, ...], ...], Cause | None]:
    """Give the balances of a group, or why one of them can't be expressed by a part per channel."""
    found: dict[tuple[int, ...], None] = {}
    for line, parts in ids.balances:
        channel = label[classes.of[line]]
        own = (channel >= 0) & (line != 0)
        if not own.any():
            continue
        counts = np.zeros((channels, int(parts.max()) + 1), dtype=np.int64)
        np.add.at(counts, (channel[own], parts[own]), 1)
        row = _parts(counts)
        if row is None or not own.all():
            return (), Cause(
                "its parts must stay equally large, but channels are shared unevenly between them"
            )
        if max(row) >= 0:
            found[row] = None
    return tuple(found), None


def _parts(counts: Ids) -> tuple[int, ...] | None:
    """Give the part that each channel counts in, -1 for all alike, None if neither holds."""
    even = (counts == counts[:, :1]).all(axis=1)
    single = (counts > 0).sum(axis=1) == 1
    if not (even | single).all() or len(set(counts.max(axis=1)[~even].tolist())) > 1:
        return None
    return tuple(np.where(even, -1, counts.argmax(axis=1)).tolist())
