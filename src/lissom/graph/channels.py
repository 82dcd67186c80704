"""Channel ids: numbers for the entries of tensor axes, and what is known about them.

An id stands for one entry along one axis of a parameter or buffer, or for one channel of an input.
Id 0 is no channel. Statements about ids (the same channel, frozen, balanced) are only collected
here; ``solve`` works out the classes once, at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lissom.graph.layers import Role

Ids = NDArray[np.int64]
Stated = TypeVar("Stated")


@dataclass(frozen=True, slots=True)
class Cause:
    """Why channels can't be cut.

    Attributes:
        reason: What stands in the way.
        where: Source line of the user's code, or "".
        remedy: What the user can change.
    """

    reason: str
    where: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.reason} ({self.where})" if self.where else self.reason
        return f"{text}; {self.remedy}" if self.remedy else text


@dataclass(slots=True)
class Slot:
    """One axis of one tensor (or one side of a channel map), with the ids of its entries.

    Attributes:
        tensor: State-dict name, or the module's name for a channel map.
        axis: The axis; for a channel map 0 is the output and 1 the input.
        ids: One id per entry.
        role: What the axis does, as far as operators have shown.
        layer: The layer that the operator belongs to ("" until one is seen).
        groups: Convolution groups that ``ids`` runs over (1 unless a grouped convolution's input).
        joins: Whether the entries belong to one channel group just because they share this axis.
        turn: Rank by the first operator that used the axis (-1: none has).
    """

    tensor: str
    axis: int
    ids: Ids
    role: Role = Role.VECTOR
    layer: str = ""
    groups: int = 1
    joins: bool = False
    turn: int = -1


@dataclass(frozen=True, slots=True)
class Value:
    """What is known of a tensor's channels.

    Attributes:
        shape: Shape of the tensor.
        facets: Independent labellings. Each has as many axes as the tensor, every axis either of
            full size or of size 1 (the ids do not vary along it). Removing an id removes the slice
            that it labels.
    """

    shape: tuple[int, ...]
    facets: tuple[Ids, ...] = ()


@dataclass(frozen=True, slots=True)
class Classes:
    """The solution: ``of[id]`` is an id's class; frozen, doubtful and inexact ones with a cause."""

    of: Ids
    frozen: dict[int, Cause]
    doubtful: dict[int, Cause]
    inexact: dict[int, str]


@dataclass(slots=True)
class ChannelIds:
    """Hands out ids and collects what operators say about them.

    Attributes:
        slots: Every axis that has ids, in order of creation.
        balances: (ids, part of each) pairs: kept ids must be equally many in every part.
    """

    slots: dict[tuple[str, int, int], Slot] = field(default_factory=dict)
    balances: list[tuple[Ids, Ids]] = field(default_factory=list)
    _count: int = 1
    _turns: int = 0
    _pairs: list[Ids] = field(default_factory=list)
    _frozen: list[tuple[Ids, Cause]] = field(default_factory=list)
    _doubtful: list[tuple[Ids, Cause]] = field(default_factory=list)
    _inexact: list[tuple[Ids, str]] = field(default_factory=list)
    _starts: list[tuple[int, Slot]] = field(default_factory=list)

    def fresh(self, count: int) -> Ids:
        """Give ``count`` ids that nobody has."""
        ids = np.arange(self._count, self._count + count, dtype=np.int64)
        self._count += count
        return ids

    def slot(self, tensor: str, axis: int, size: int, groups: int = 1) -> Slot:
        """Give the slot of an axis, creating it if need be. The key includes ``groups``."""
        key = (tensor, axis, groups)
        if key not in self.slots:
            self.slots[key] = Slot(tensor, axis, self.fresh(size), groups=groups)
            self._starts.append((int(self.slots[key].ids[0]), self.slots[key]))
        return self.slots[key]

    def next_turn(self) -> int:
        """Give the next rank in execution order."""
        self._turns += 1
        return self._turns

    def slots_of(self, ids: Ids) -> list[Slot]:
        """Give the slots in which these very ids were created."""
        if not ids.any():
            return []
        starts = np.array([start for start, _ in self._starts])
        found = np.unique(np.searchsorted(starts, np.unique(ids[ids > 0]), side="right") - 1)
        slots = [self._starts[index][1] for index in found if index >= 0]
        return [slot for slot in slots if np.isin(slot.ids, ids).any()]

    def tensor(self, name: str, shape: tuple[int, ...]) -> Value:
        """Give the value of a parameter or buffer: one facet for every axis longer than 1."""
        facets = []
        for axis, size in enumerate(shape):
            if size > 1:
                facets.append(spread(self.slot(name, axis, size).ids, axis, len(shape)))
        return Value(shape, tuple(facets))

    def unite(self, first: Ids, second: Ids) -> None:
        """State that ids at the same place are one channel (broadcasting; zeros don't count)."""
        a, b = (x.ravel() for x in np.broadcast_arrays(first, second))
        differ = (a != b) & (a != 0) & (b != 0)
        if differ.any():
            self._pairs.append(np.unique(np.stack([a[differ], b[differ]]), axis=1))

    def freeze(self, ids: Ids, cause: Cause) -> None:
        """State that these ids can't be cut."""
        if ids.any():
            self._frozen.append((np.unique(ids[ids != 0]), cause))

    def doubt(self, ids: Ids, cause: Cause) -> None:
        """State what is to blame if a trial cut of these ids fails."""
        if ids.any():
            self._doubtful.append((np.unique(ids[ids != 0]), cause))

    def blur(self, ids: Ids, operator: str) -> None:
        """State that an operator computes over these channels: removing one changes the others."""
        if ids.any():
            self._inexact.append((np.unique(ids[ids != 0]), operator))

    def balance(self, ids: Ids, parts: Ids) -> None:
        """State that as many ids must be kept in one part as in every other."""
        self.balances.append((ids, parts))

    def solve(self) -> Classes:
        """Work out the classes of ids that are one channel."""
        none = np.zeros((2, 0), dtype=np.int64)
        pairs = np.concatenate([none, *self._pairs], axis=1)
        of = components(self._count, pairs[0], pairs[1])
        return Classes(
            of,
            frozen=_first_by_class(of, self._frozen),
            doubtful=_first_by_class(of, self._doubtful),
            inexact=_first_by_class(of, self._inexact),
        )


def _first_by_class(of: Ids, statements: list[tuple[Ids, Stated]]) -> dict[int, Stated]:
    found: dict[int, Stated] = {}
    for ids, statement in statements:
        for label in np.unique(of[ids]).tolist():
            found.setdefault(label, statement)
    return found


def components(count: int, a: Ids, b: Ids) -> Ids:
    """Give for each of ``count`` nodes the smallest one that the edges (a, b) connect it with.

    Source:
        Hooking and pointer jumping as in Shiloach and Vishkin, J. Algorithms 3, 1982, over whole
        arrays.
    """
    parent = np.arange(count, dtype=np.int64)
    while True:
        first, second = parent[a], parent[b]
        open_edges = first != second
        if not open_edges.any():
            return parent
        low = np.minimum(first, second)[open_edges]
        np.minimum.at(parent, np.maximum(first, second)[open_edges], low)
        while not np.array_equal(parent, parent[parent]):
            parent = parent[parent]


def spread(ids: Ids, axis: int, ndim: int) -> Ids:
    """Lay 1-D ids along one axis of an array of ``ndim`` axes."""
    shape = [1] * ndim
    shape[axis] = len(ids)
    return ids.reshape(shape)


def varies(facet: Ids, axis: int) -> bool:
    """Tell whether the ids differ along an axis."""
    return facet.shape[axis] > 1


def shrink(facet: Ids) -> Ids:
    """Reduce axes of equal ids to size 1, but keep one axis that labels the tensor."""
    for axis in reversed(range(facet.ndim)):
        head = facet.take([0], axis=axis)
        if facet.shape[axis] > 1 and head.size > 1 and bool((facet == head).all()):
            facet = head
    return facet
