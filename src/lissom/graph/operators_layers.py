"""Rules of operators with weights: convolutions, linear layers, normalisations, matrix products."""

from __future__ import annotations

import numpy as np

from lissom.graph.call import Call, along, channel_line, join, others
from lissom.graph.channels import Ids, Value, spread, varies
from lissom.graph.layers import Role


def convolution(call: Call) -> Value:
    """Channels of the input meet axis 1 of the weight; axis 0 gives the output's."""
    x, weight = call.x, call.arguments["weight"]
    axis = len(x.shape) - (len(weight.shape) - 1)
    groups = call.integer("groups")
    produced = channel_line(call, weight, 0)
    read = channel_line(call, x, axis)
    call.role(produced, Role.OUTPUT)
    if groups == 1:
        consumed = channel_line(call, weight, 1)
        call.role(consumed, Role.INPUT)
        call.ids.unite(consumed, read)
    elif groups == x.shape[axis]:
        _depthwise(call, produced, read)
    else:
        _grouped_input(call, weight, read, groups)
        _equal_parts(call, produced, groups)
    if groups != x.shape[axis] or groups == 1:
        _joined(call, produced)
    _bias(call, produced)
    return _features(call, x, axis, produced)


def transposed_convolution(call: Call) -> Value:
    """As ``convolution``, but axis 0 of the weight is the input and axis 1 the output."""
    x, weight = call.x, call.arguments["weight"]
    axis = len(x.shape) - (len(weight.shape) - 1)
    groups = call.integer("groups")
    read, rows = channel_line(call, x, axis), channel_line(call, weight, 0)
    if groups == 1:
        call.role(rows, Role.INPUT)
        call.ids.unite(rows, read)
        produced = channel_line(call, weight, 1)
        call.role(produced, Role.OUTPUT)
        _joined(call, produced)
    elif groups == x.shape[axis] == call.shape[axis]:
        produced = rows
        call.role(rows, Role.OUTPUT)
        _depthwise(call, rows, read)
    else:
        produced = np.zeros(call.shape[axis], dtype=np.int64)
        call.freeze(read, f"a transposed convolution with groups={groups}", "use groups=1")
        call.freeze(rows, f"a transposed convolution with groups={groups}", "use groups=1")
    _bias(call, produced)
    return _features(call, x, axis, produced)


def linear(call: Call) -> Value:
    """Entries of the last axis meet axis 1 of the weight; axis 0 gives the output's."""
    x, weight = call.x, call.arguments["weight"]
    axis = len(x.shape) - 1
    produced, consumed = channel_line(call, weight, 0), channel_line(call, weight, 1)
    call.role(produced, Role.OUTPUT)
    call.role(consumed, Role.INPUT)
    call.ids.unite(consumed, channel_line(call, x, axis))
    _joined(call, produced)
    _bias(call, produced)
    return _features(call, x, axis, produced)


def _depthwise(call: Call, produced: Ids, read: Ids) -> None:
    multiplier = len(produced) // len(read)
    rows = produced.reshape(len(read), multiplier)
    call.ids.unite(rows, read[:, None])
    if not read.all():
        blind = rows[read == 0]
        call.freeze(blind, "a depthwise convolution of channels that nothing is known about")


def _grouped_input(call: Call, weight: Value, read: Ids, groups: int) -> None:
    """Give the input of a grouped convolution ids of its own: axis 1 holds one group's only."""
    owners = call.ids.slots_of(channel_line(call, weight, 1))
    if len(owners) != 1:
        call.freeze(read, f"groups={groups} with a weight that is computed")
        return
    slot = call.ids.slot(owners[0].tensor, 1, len(read), groups)
    slot.role, slot.layer = Role.INPUT, call.layer
    call.ids.unite(slot.ids, read)
    if not read.all():
        call.freeze(slot.ids, f"some of the input channels of groups={groups} are fixed")
    _equal_parts(call, slot.ids, groups)


def _equal_parts(call: Call, ids: Ids, parts: int) -> None:
    call.ids.balance(ids, np.arange(len(ids)) // (len(ids) // parts))


def _joined(call: Call, produced: Ids) -> None:
    for slot in call.ids.slots_of(produced):
        slot.joins = True


def _bias(call: Call, produced: Ids) -> None:
    bias = call.arguments.get("bias")
    if isinstance(bias, Value) and len(produced) > 1 and bias.shape:
        entries = channel_line(call, bias, 0)
        call.role(entries, Role.OUTPUT)
        call.ids.unite(entries, produced)
        for slot in call.ids.slots_of(entries):
            slot.joins = False


def _features(call: Call, x: Value, axis: int, produced: Ids) -> Value:
    """Give the output: new ids along the channel axis, what varies along other axes kept."""
    facets = [spread(produced, axis, len(call.shape))] if len(produced) > 1 else []
    for facet in others(x, axis):
        moved = [k for k in range(facet.ndim) if varies(facet, k)]
        if all(call.shape[k] == x.shape[k] for k in moved):
            if any(k > axis for k in moved):
                call.ids.blur(facet, call.name)
            facets.append(facet)
        else:
            call.freeze(facet, "runs over an axis of channels and changes its length")
    return Value(call.shape, tuple(facets))


def normalisation(call: Call) -> Value:
    """Batch and instance norm: one value per channel on axis 1, channels apart."""
    x = call.x
    line = channel_line(call, x, 1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        _per_channel(call, name, line)
    if call.name == "batch_norm":
        for facet in others(x, 1):
            call.ids.blur(facet, call.name)
    return Value(call.shape, x.facets)


def _per_channel(call: Call, name: str, line: Ids) -> None:
    vector = call.arguments.get(name)
    if isinstance(vector, Value):
        call.ids.unite(channel_line(call, vector, 0), line)


def group_norm(call: Call) -> Value:
    """Channels of one norm group are normalised together, so equally many must stay in each."""
    line = channel_line(call, call.x, 1)
    for name in ("weight", "bias"):
        _per_channel(call, name, line)
    call.ids.blur(line, call.name)
    groups = call.integer("num_groups")
    if groups > 1 and line.any():
        if not line.all():
            call.freeze(line, "some of the channels that it normalises are fixed")
        _equal_parts(call, line, groups)
    return Value(call.shape, call.x.facets)


def layer_norm(call: Call) -> Value:
    """Layer and RMS norm: computes over the last axes."""
    x, count = call.x, len(call.integers("normalized_shape"))
    for axis in range(len(x.shape) - count, len(x.shape)):
        line = channel_line(call, x, axis)
        call.ids.blur(line, call.name)
        for name in ("weight", "bias"):
            vector = call.arguments.get(name)
            if isinstance(vector, Value):
                call.ids.unite(channel_line(call, vector, axis - len(x.shape) + count), line)
    return Value(call.shape, x.facets)


def prelu(call: Call) -> Value:
    """One slope per channel on axis 1, or one for all."""
    weight = call.arguments["weight"]
    if weight.shape != (1,) and len(weight.shape) == 1:
        call.ids.unite(channel_line(call, weight, 0), channel_line(call, call.x, 1))
    return Value(call.shape, call.x.facets)


def matrix_product(call: Call) -> Value:
    """(..., n, k) times (..., k, m): k is summed over, everything else passes."""
    first, second = call.values[-2:]
    if min(len(first.shape), len(second.shape)) < 2:
        return _freeze_product(call)
    left = channel_line(call, first, len(first.shape) - 1)
    right = channel_line(call, second, len(second.shape) - 2)
    call.ids.unite(left, right)
    for line in (left, right):
        call.ids.blur(line, call.name)
    rows = Value((*first.shape[:-1], 1), tuple(others(first, len(first.shape) - 1)))
    columns = Value(
        (*second.shape[:-2], 1, second.shape[-1]), tuple(others(second, len(second.shape) - 2))
    )
    return join(call.ids, call.shape, (rows, columns))


def _freeze_product(call: Call) -> Value:
    for value in call.values:
        for facet in value.facets:
            call.freeze(facet, "a product with a vector")
    return Value(call.shape)


def attention(call: Call) -> Value:
    """Attention: query and key share their last axis, the output has the value's."""
    query, key, value = (call.arguments[name] for name in ("query", "key", "value"))
    last = len(query.shape) - 1
    lines = [channel_line(call, v, last) for v in (query, key)]
    call.ids.unite(lines[0], lines[1])
    for line in lines:
        call.ids.blur(line, call.name)
    for source in (query, key, value):
        for facet in others(source, last):
            call.freeze(facet, "channels on an axis of heads or positions")
    kept = tuple(f for f in value.facets if varies(f, last))
    return Value(
        call.shape, tuple(spread(along(call.ids, f, last), last, len(call.shape)) for f in kept)
    )
