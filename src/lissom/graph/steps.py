"""What a replay runs in one go: an operator, or several whose values between nobody reads."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

_ATEN = torch.ops.aten
_CONVOLUTION = _ATEN.conv2d.default
_NORM = _ATEN._native_batch_norm_legit_no_training.default
_RELU = _ATEN.relu.default
_AXES = 4  # of a batch of maps
_FRESH = (_ATEN.add.Tensor,)  # give memory of their own, that a ReLU may overwrite

Values = Mapping[fx.Node, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """Operators that run in one go.

    Attributes:
        nodes: In order; only the last one's value is kept.
        sources: What they read that is not among them.
    """

    nodes: tuple[fx.Node, ...]
    sources: tuple[fx.Node, ...]

    @property
    def end(self) -> fx.Node:
        """Give the node whose value is kept."""
        return self.nodes[-1]

    def __call__(self, values: Values) -> Any:
        """Compute the value of the last node."""
        first, *others = self.nodes
        if not others:
            return _called(first, values)
        if first.target is not _CONVOLUTION:
            return _called(first, values).relu_()
        found = _folded(first, others[0], values)
        return found.relu_() if self.end.target is _RELU else found


def steps_of(nodes: Iterable[fx.Node], kept: Iterable[object]) -> list[Step]:
    """Divide operators into steps: a convolution with its batch norm and ReLU, a sum with its ReLU.

    Args:
        nodes: Of a program in eval mode, in order.
        kept: Nodes whose values are asked for.
    """
    outputs = {one for one in kept if isinstance(one, fx.Node)}
    calls = [node for node in nodes if node.op == "call_function"]
    taken: set[fx.Node] = set()
    steps = []
    for node in calls:
        if node not in taken:
            chain = _chain(node, outputs)
            taken.update(chain)
            steps.append(_step(chain))
    # A chain runs where its last node stood: by then all that it reads is there.
    place = {node: number for number, node in enumerate(calls)}
    return sorted(steps, key=lambda step: place[step.end])


def last_reads(steps: Sequence[Step], kept: Iterable[object]) -> dict[fx.Node, list[fx.Node]]:
    """Give per end of a step the values of other steps that nobody reads after it.

    Args:
        steps: That will run, in order.
        kept: Nodes whose values are asked for.
    """
    found: dict[fx.Node, list[fx.Node]] = {}
    left = {step.end for step in steps} - {one for one in kept if isinstance(one, fx.Node)}
    for step in reversed(steps):
        for source in step.sources:
            if source in left:
                left.discard(source)
                found.setdefault(step.end, []).append(source)
    return found


def _step(chain: tuple[fx.Node, ...]) -> Step:
    read = (source for node in chain for source in node.all_input_nodes)
    return Step(chain, tuple(dict.fromkeys(one for one in read if one not in chain)))


def _chain(node: fx.Node, outputs: set[fx.Node]) -> tuple[fx.Node, ...]:
    chain = [node]
    if node.target is _CONVOLUTION and not node.kwargs:
        norm = _sole_reader(node, outputs, _NORM)
        value = None if norm is None else _sole_reader(norm, outputs, operator.getitem)
        if norm is None or value is None or norm.args[0] is not node or value.args[1] != 0:
            return (node,)
        if not _foldable(node, norm):
            return (node,)
        chain += [norm, value]
    elif node.target not in _FRESH:
        return (node,)
    relu = _sole_reader(chain[-1], outputs, _RELU)
    return (*chain, relu) if relu is not None else tuple(chain)


def _foldable(convolution: fx.Node, norm: fx.Node) -> bool:
    """Whether all is of one type, and the norm's channels are the convolution's."""
    read = (*convolution.all_input_nodes, *norm.all_input_nodes)
    values = [node.meta.get("val") for node in read]
    types = {value.dtype for value in values if isinstance(value, Tensor)}
    maps = convolution.meta.get("val")
    return len(types) == 1 and isinstance(maps, Tensor) and maps.ndim == _AXES


def _sole_reader(node: fx.Node, outputs: set[fx.Node], target: object) -> fx.Node | None:
    """Give the only node that reads another one's value, where it is of a kind."""
    if len(node.users) != 1 or node in outputs:
        return None
    (reader,) = node.users
    return reader if reader.target is target else None


def _called(node: fx.Node, values: Values) -> Any:
    target = cast("Callable[..., Any]", node.target)
    return target(*_read(node.args, values), **_read(node.kwargs, values))


def _read(arguments: Any, values: Values) -> Any:
    return map_arg(arguments, values.__getitem__)


def _folded(convolution: fx.Node, norm: fx.Node, values: Values) -> Tensor:
    """Run a convolution with the batch norm behind it in its weights."""
    x, weight, *others = _read(convolution.args, values)
    bias, *shape = others or (None,)
    gain, shift, mean, variance, _momentum, epsilon = _read(norm.args[1:], values)
    scale = torch.rsqrt(variance + epsilon)
    scale = scale if gain is None else scale * gain
    offset = -mean if bias is None else bias - mean
    offset = offset * scale if shift is None else offset * scale + shift
    return _CONVOLUTION(x, weight * scale.view(-1, 1, 1, 1), offset, *shape)
