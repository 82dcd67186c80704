"""Rules of operators that move, cut or join entries: the ids move in the same way."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate

import numpy as np

from lissom.graph.advice import instead_of_padding
from lissom.graph.call import Call, aligned, channel_line, join
from lissom.graph.channels import Ids, Value, shrink, spread, varies

LITERAL = "write the size as x.shape[...] or an attribute that surgery updates, not as a number"


def reshape(call: Call) -> Value:
    """View, reshape, flatten, unflatten, squeeze, unsqueeze: axes merge and split."""
    return Value(
        call.shape, tuple(reshaped(call, f, call.x.shape, call.shape) for f in call.x.facets)
    )


def reshaped(call: Call, facet: Ids, old: tuple[int, ...], new: tuple[int, ...]) -> Ids:
    """Give a facet after a view from shape ``old`` to shape ``new``."""
    if math.prod(old) == 0 or math.prod(old) != math.prod(new):
        call.freeze(facet, "an empty tensor, or a change of the number of elements")
        return np.zeros((1,) * len(new), dtype=np.int64)
    sizes: list[int] = []
    reach: list[int] = []
    for first, last, start, stop in _segments(old, new):
        fixed = not any(varies(facet, axis) for axis in range(first, last))
        reach += [1 if fixed else size for size in old[first:last]]
        sizes += [1] * (stop - start) if fixed else new[start:stop]
    full = np.broadcast_to(facet, reach).reshape(sizes)
    for first, last, start, stop in _segments(old, new):
        if any(varies(facet, axis) for axis in range(first, last)):
            full = _split(call, full, start, stop)
    return shrink(full)


def _segments(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Pair the shortest runs of axes of equal sizes: (first, last, start, stop)."""
    segments = []
    first = start = 0
    while first < len(old) or start < len(new):
        last, stop = min(first + 1, len(old)), min(start + 1, len(new))
        while math.prod(old[first:last]) != math.prod(new[start:stop]):
            if math.prod(old[first:last]) < math.prod(new[start:stop]):
                last += 1
            else:
                stop += 1
        segments.append((first, last, start, stop))
        first, start = last, stop
    return segments


def _split(call: Call, facet: Ids, start: int, stop: int) -> Ids:
    """Unite the ids along all but the longest of the axes that an axis of channels was split into.

    What is left after a cut must be a box again: rows of equal length. Cutting along the longest
        axis keeps the
    number of rows, which is what a view with a literal number of heads, groups or sub-pixels needs.
    """
    axes = [axis for axis in range(start, stop) if varies(facet, axis)]
    if len(axes) < 2 or not _differs(facet, axes):
        return facet
    longest = max(axes, key=lambda axis: facet.shape[axis])
    for axis in axes:
        if axis != longest:
            head = facet.take([0], axis=axis)
            call.ids.unite(facet, head)
            facet = head
    return facet


def _differs(facet: Ids, axes: list[int]) -> bool:
    """Tell whether the ids really vary along more than one of the axes."""
    return sum(bool((facet != facet.take([0], axis=axis)).any()) for axis in axes) > 1


def permute(call: Call) -> Value:
    """Reorder the axes."""
    order = [axis % len(call.shape) for axis in call.integers("dims")]
    return Value(call.shape, tuple(f.transpose(order) for f in call.x.facets))


def transpose(call: Call) -> Value:
    """Swap two axes."""
    if len(call.shape) < 2:
        return call.x
    names = list(call.arguments.values())[1:3] or [0, 1]
    first, second = (int(axis) % len(call.shape) for axis in names)
    return Value(call.shape, tuple(f.swapaxes(first, second) for f in call.x.facets))


def expand(call: Call) -> Value:
    """Repeat axes of size 1 without copying."""
    return Value(call.shape, tuple(aligned(call.x, len(call.shape))))


def repeat(call: Call) -> Value:
    """Tile the tensor."""
    counts = call.integers("repeats" if "repeats" in call.arguments else "dims")
    counts = [1] * (len(call.shape) - len(counts)) + counts
    facets = []
    for facet in aligned(call.x, len(call.shape)):
        facets.append(np.tile(facet, [c if varies(facet, k) else 1 for k, c in enumerate(counts)]))
    return Value(call.shape, tuple(facets))


def concatenate(call: Call) -> Value:
    """Lay tensors behind each other along an axis."""
    values = [v for v in call.arguments["tensors"] if v.shape != (0,)]
    axis = int(call.arguments["dim"]) % len(call.shape)
    rest, lines = [], []
    for value in values:
        flat = (*value.shape[:axis], 1, *value.shape[axis + 1 :])
        rest.append(Value(flat, tuple(f for f in value.facets if not varies(f, axis))))
        own = [f for f in value.facets if varies(f, axis)]
        for other in own[1:]:
            call.ids.unite(own[0], other)
        lines.append(
            own[0] if own else spread(np.zeros(value.shape[axis], dtype=np.int64), axis, len(flat))
        )
    facets = list(join(call.ids, call.shape, rest).facets)
    if any(line.any() for line in lines):
        facets.append(_behind(lines, axis))
    return Value(call.shape, tuple(facets))


def _behind(lines: list[Ids], axis: int) -> Ids:
    """Concatenate facets after making all other axes as long as the longest."""
    widest = [max(sizes) for sizes in zip(*(line.shape for line in lines), strict=True)]
    reach = [[*widest[:axis], line.shape[axis], *widest[axis + 1 :]] for line in lines]
    return np.concatenate([np.broadcast_to(f, r) for f, r in zip(lines, reach, strict=True)], axis)


def stack(call: Call) -> Value:
    """Lay tensors side by side along a new axis: they share what varies along the others."""
    axis = int(call.arguments["dim"]) % len(call.shape)
    rest = []
    for value in call.arguments["tensors"]:
        shape = (*value.shape[:axis], 1, *value.shape[axis:])
        rest.append(Value(shape, tuple(np.expand_dims(f, axis) for f in value.facets)))
    return join(call.ids, call.shape, rest)


def split(call: Call) -> tuple[Value, ...]:
    """Split, chunk, tensor_split: consecutive pieces along an axis."""
    axis = call.axis()
    sizes = [shape[axis] for shape in call.shapes]
    if len(set(sizes)) == 1:
        _balance(call, axis, sizes[0])
    else:
        _freeze_cut(call, axis, f"splits channels into unequal parts {sizes}")
    starts = [0, *accumulate(sizes)]
    pieces = []
    for start, stop, shape in zip(starts, starts[1:], call.shapes, strict=False):
        pieces.append(
            Value(shape, tuple(_piece(f, axis, slice(start, stop)) for f in call.x.facets))
        )
    return tuple(pieces)


def _balance(call: Call, axis: int, size: int) -> None:
    """State that pieces of equal size stay equal."""
    if size == call.x.shape[axis]:
        return
    for facet in call.x.facets:
        if varies(facet, axis):
            line = channel_line(call, Value(call.x.shape, (facet,)), axis)
            call.ids.balance(line, np.arange(len(line)) // size)


def _freeze_cut(call: Call, axis: int, reason: str) -> None:
    for facet in call.x.facets:
        if varies(facet, axis):
            call.freeze(facet, reason, "give each part a layer of its own")


def _piece(facet: Ids, axis: int, piece: slice) -> Ids:
    index: list[slice] = [slice(None)] * facet.ndim
    index[axis] = piece if varies(facet, axis) else slice(None)
    return facet[tuple(index)]


def slicing(call: Call) -> Value:
    """x[start:end:step] along one axis; a half, a third, ... of the channels stays one."""
    axis, size = call.axis(), call.x.shape[call.axis()]
    start, end = call.arguments.get("start"), call.arguments.get("end")
    step = int(call.arguments.get("step") or 1)
    window = slice(start, end, step)
    length = len(range(*window.indices(size)))
    if step == 1 and length and size % length == 0 and window.indices(size)[0] % length == 0:
        _balance(call, axis, length)
    else:
        _freeze_cut(call, axis, f"takes channels {start or 0} to {end} of {size}")
    return Value(call.shape, tuple(_piece(f, axis, window) for f in call.x.facets))


def narrow(call: Call) -> Value:
    """As a slice, by start and length."""
    start, length = int(call.arguments["start"]), call.integer("length")
    window = slice(start, start + length)
    if call.x.shape[call.axis()] % length == 0 and start % length == 0:
        _balance(call, call.axis(), length)
    else:
        _freeze_cut(call, call.axis(), f"takes {length} channels from {start}")
    return Value(call.shape, tuple(_piece(f, call.axis(), window) for f in call.x.facets))


def select(call: Call) -> Value:
    """One entry of an axis, by number."""
    axis = call.axis()
    kept = []
    for facet in call.x.facets:
        if varies(facet, axis):
            call.freeze(facet, "picks a channel by number", "read it from a layer of its own")
        else:
            kept.append(facet.squeeze(axis))
    return Value(call.shape, tuple(kept))


def unbind(call: Call) -> tuple[Value, ...]:
    """Every entry of an axis as a tensor of its own."""
    piece = select(call)
    return tuple(piece for _ in call.shapes)


def pad(call: Call) -> Value:
    """Add entries at the ends of axes; added channels are zeros."""
    amounts, size = call.integers("pad" if "pad" in call.arguments else "padding"), len(call.shape)
    widths = [(0, 0)] * size
    for k in range(len(amounts) // 2):
        widths[size - 1 - k] = (amounts[2 * k], amounts[2 * k + 1])
    facets = []
    for facet in call.x.facets:
        moved = [axis for axis in range(size) if varies(facet, axis) and widths[axis] != (0, 0)]
        plain = all(min(widths[axis]) >= 0 for axis in moved)
        if moved and (call.arguments.get("mode", "constant") != "constant" or not plain):
            call.freeze(facet, "mirrors, repeats or crops channels")
        else:
            for axis in moved:
                call.doubt(facet, instead_of_padding(call.layer, facet.shape[axis], *widths[axis]))
            widen = [widths[axis] if axis in moved else (0, 0) for axis in range(size)]
            facets.append(np.pad(facet, widen))
    return Value(call.shape, tuple(facets))


def flip(call: Call) -> Value:
    """Reverse axes."""
    axes = tuple(axis % len(call.shape) for axis in call.integers("dims"))
    return Value(call.shape, tuple(np.flip(f, axes) for f in call.x.facets))


def channel_shuffle(call: Call) -> Value:
    """(groups, n) channels become (n, groups): the n-th of every group are cut together."""
    groups, size = call.integer("groups"), call.shape[1]

    def mix(facet: Ids) -> Ids:
        apart = reshaped(call, facet, (size,), (groups, size // groups))
        return np.broadcast_to(apart, (groups, size // groups)).T.ravel()

    return _on_channels(call, mix)


def pixel_shuffle(call: Call) -> Value:
    """r^2 channels in a row become one channel of r times the height and width."""
    factor = call.integer("upscale_factor") ** 2

    def fold(line: Ids) -> Ids:
        rows = line.reshape(-1, factor)
        call.ids.unite(rows, rows[:, :1])
        return rows[:, 0]

    return _on_channels(call, fold)


def pixel_unshuffle(call: Call) -> Value:
    """One channel becomes r^2 channels in a row."""
    factor = call.integer("downscale_factor") ** 2
    return _on_channels(call, lambda line: np.repeat(line, factor))


def _on_channels(call: Call, move: Callable[[Ids], Ids]) -> Value:
    """Apply ``move`` to the ids along the channel axis; whatever varies along others is frozen."""
    axis, ndim = len(call.shape) - 3, len(call.shape)
    if call.name.endswith("channel_shuffle"):
        axis = 1
    for facet in call.x.facets:
        if any(varies(facet, k) for k in range(ndim) if k != axis):
            call.freeze(facet, "channels on a spatial axis")
    line = channel_line(call, call.x, axis)
    if not line.any():
        return Value(call.shape)
    moved = move(line)
    return Value(call.shape, (spread(moved, axis, ndim),) if len(moved) > 1 else ())
