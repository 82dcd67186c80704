"""One operator call as the rules see it, and what most rules need: joining, reducing, refusing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lissom.graph.channels import Cause, ChannelIds, Ids, Value, varies
from lissom.graph.layers import Role


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an ATen operator.

    Attributes:
        ids: Where statements about channels go.
        name: Operator without overload, for example ``conv2d``.
        arguments: By parameter name, defaults filled in; tensors are Values.
        shapes: Shapes of the output tensors.
        where: The user's source line.
        layer: Name of the module that it runs in.
    """

    ids: ChannelIds
    name: str
    arguments: dict[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    where: str
    layer: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first output."""
        return self.shapes[0]

    @property
    def x(self) -> Value:
        """The first argument, which must be a tensor."""
        return next(iter(self.arguments.values()))

    @property
    def values(self) -> tuple[Value, ...]:
        """Every tensor among the arguments, lists included."""
        return tuple(_values(self.arguments.values()))

    def integer(self, name: str) -> int:
        """Give an integer argument."""
        return int(self.arguments[name])

    def integers(self, name: str) -> list[int]:
        """Give an argument that is one integer or a list of them."""
        value = self.arguments[name]
        return [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]

    def axis(self, name: str = "dim") -> int:
        """Give an axis argument, counted from the front."""
        return self.integer(name) % max(len(self.x.shape), 1)

    def freeze(self, facet: Ids, reason: str, remedy: str = "") -> None:
        """Freeze the ids of a facet, on account of this call."""
        self.ids.freeze(facet, Cause(f"{self.name}: {reason}", self.where, remedy))

    def doubt(self, facet: Ids, remedy: str) -> None:
        """Name the source line and the remedy if a trial cut of these ids fails."""
        self.ids.doubt(facet, Cause("", self.where, remedy))

    def role(self, ids: Ids, role: Role) -> None:
        """Give the slots in which ``ids`` were created a role."""
        for slot in self.ids.slots_of(ids):
            slot.role = role
            slot.layer = self.layer
            if slot.turn < 0:
                slot.turn = self.ids.next_turn()


def _values(arguments: Any) -> Iterator[Value]:
    for argument in arguments:
        if isinstance(argument, Value):
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from _values(argument)


def aligned(value: Value, ndim: int) -> list[Ids]:
    """Give the facets with axes of size 1 added in front, as broadcasting does."""
    return [f.reshape((1,) * (ndim - f.ndim) + f.shape) for f in value.facets]


def share_axis(first: Ids, second: Ids) -> bool:
    """Tell whether there is an axis along which both vary."""
    return any(a > 1 and b > 1 for a, b in zip(first.shape, second.shape, strict=True))


def merge(ids: ChannelIds, first: Ids, second: Ids) -> Ids:
    """Unite two facets position by position; where one has no channel the other's stays."""
    ids.unite(first, second)
    return np.where(first != 0, first, second)


def join(ids: ChannelIds, shape: tuple[int, ...], values: Sequence[Value]) -> Value:
    """Give the result of an element-wise operator with broadcasting.

    A facet of a raw parameter whose axis another operand fills without channels is dropped: nobody
        cuts it (the
    positions of a position embedding that is added to features).
    """
    ndim = len(shape)
    facets: list[Ids] = []
    for value in values:
        for facet in aligned(value, ndim):
            for k, other in enumerate(facets):
                if share_axis(facet, other):
                    facets[k] = merge(ids, other, facet)
                    break
            else:
                facets.append(facet)
    kept = [f for f in facets if _carried(f, values, ndim) or not _only_vector(ids, f)]
    return Value(shape, tuple(kept))


def _carried(facet: Ids, values: Sequence[Value], ndim: int) -> bool:
    """Tell whether every operand that has the facet's axes at full size has channels there."""
    axes = [axis for axis in range(ndim) if varies(facet, axis)]
    for value in values:
        sizes = (1,) * (ndim - len(value.shape)) + value.shape
        full = all(sizes[axis] > 1 for axis in axes)
        if full and not any(share_axis(facet, other) for other in aligned(value, ndim)):
            return False
    return True


def _only_vector(ids: ChannelIds, facet: Ids) -> bool:
    slots = ids.slots_of(facet)
    return bool(slots) and all(slot.role is Role.VECTOR for slot in slots)


def along(ids: ChannelIds, facet: Ids, axis: int) -> Ids:
    """Give 1-D ids along one axis; ids that differ along the others are united."""
    line = np.moveaxis(facet, axis, 0).reshape(facet.shape[axis], -1)
    first = np.where(line[:, 0] != 0, line[:, 0], line.max(axis=1))
    ids.unite(line, first[:, None])
    return first


def channel_line(call: Call, value: Value, axis: int) -> Ids:
    """Give the ids of a tensor's entries along an axis, over all its facets; zeros if unknown."""
    lines = [along(call.ids, f, axis) for f in value.facets if varies(f, axis)]
    if not lines:
        return np.zeros(value.shape[axis], dtype=np.int64)
    for other in lines[1:]:
        call.ids.unite(lines[0], other)
    return lines[0]


def others(value: Value, axis: int) -> list[Ids]:
    """Give the facets that do not vary along an axis."""
    return [f for f in value.facets if not varies(f, axis)]
