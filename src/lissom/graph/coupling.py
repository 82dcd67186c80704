"""Walk over the operators of a program and collect what they say about channels."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from lissom.graph.call import Call, channel_line
from lissom.graph.channels import Cause, ChannelIds, Value, spread
from lissom.graph.layers import Role
from lissom.graph.operators import Result, rule_of
from lissom.graph.trace import Program, module_of, source_line
from lissom.plan.surgery import ChannelMap


def couple(program: Program, model: nn.Module, ids: ChannelIds) -> None:
    """Run every operator's rule once, in order.

    Args:
        program: What ``model`` does.
        model: The network; only asked which modules are channel maps, and who owns a tensor.
        ids: Receives the statements. Shared by the programs of eval and train mode.
    """
    maps = {name: m for name, m in model.named_modules() if isinstance(m, ChannelMap)}
    walk = _Walk(program, ids, maps)
    for node in program.nodes:
        walk.visit(node)
    for node in program.outputs:
        if isinstance(node, fx.Node):
            walk.freeze(node, Cause("the network returns these channels"))


class _Walk:
    """The values of a program's nodes, as far as they are known."""

    def __init__(self, program: Program, ids: ChannelIds, maps: dict[str, Any]) -> None:
        self._program = program
        self._ids = ids
        self._maps = maps
        self._known: dict[fx.Node, Any] = {}
        self._mapped: dict[str, Value] = {}
        self._layers = _layer_names(program)

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._known[node] = self._placeholder(node)
        elif node.op == "call_function":
            self._known[node] = self._map(node) or self._call(node)

    def freeze(self, node: fx.Node, cause: Cause) -> None:
        value = self._known.get(node)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Value):
                for facet in one.facets:
                    self._ids.freeze(facet, cause)

    def _placeholder(self, node: fx.Node) -> Any:
        tensor = node.meta.get("val")
        if not isinstance(tensor, Tensor):
            return tensor
        shape = tuple(tensor.shape)
        name = self._program.tensors.get(node.name)
        if name is not None:
            return self._ids.tensor(name, shape)
        if node not in self._program.inputs or len(shape) < 2 or shape[1] == 1:
            return Value(shape)
        channels = self._ids.fresh(shape[1])
        self._ids.freeze(channels, Cause(f"they are joined with the network's input {node.name}"))
        return Value(shape, (spread(channels, 1, len(shape)),))

    def _call(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            source, index = node.args[0], cast("int", node.args[1])
            pieces = self._known[source] if isinstance(source, fx.Node) else source
            return pieces[index] if isinstance(pieces, tuple) else pieces
        if not isinstance(node.target, torch._ops.OpOverload):
            return None
        call = self._described(node, node.target)
        if call is None:
            return None
        if not call.values:
            return _plain(call)
        return rule_of(call.name)(call)

    def _described(self, node: fx.Node, target: torch._ops.OpOverload) -> Call | None:
        shapes = tuple(_shapes(node.meta.get("val")))
        if not shapes:
            return None
        arguments: dict[str, Any] = {}
        for position, argument in enumerate(target._schema.arguments):
            default = argument.default_value if argument.has_default_value() else None
            given = (
                node.args[position]
                if position < len(node.args)
                else node.kwargs.get(argument.name, default)
            )
            arguments[argument.name] = map_arg(given, self._known.get)
        name = target._schema.name.partition("::")[2]
        return Call(
            self._ids,
            name,
            arguments,
            shapes,
            source_line(node),
            self._layers.get(node, module_of(node)),
        )

    def _map(self, node: fx.Node) -> Value | None:
        """Treat a module that keeps its own channel map as one operator."""
        stack = node.meta.get("nn_module_stack") or {}
        for key, (name, _) in stack.items():
            if name in self._maps:
                inside = self._mapped.get(key) or self._enter_map(node, name)
                if inside is None:
                    return None
                self._mapped[key] = inside
                shape = next(_shapes(node.meta.get("val")), ())
                return Value(shape, tuple(f for f in inside.facets if f.ndim == len(shape)))
        return None

    def _enter_map(self, node: fx.Node, name: str) -> Value | None:
        """Give the output of a channel map; None if the operator does not read its input."""
        module = self._maps[name]
        inputs = [v for n in node.all_input_nodes if isinstance(v := self._known.get(n), Value)]
        given = next(
            (v for v in inputs if len(v.shape) > 1 and v.shape[1] == module.in_channels), None
        )
        if given is None:
            return None
        source = np.asarray(module.source, dtype=np.int64)
        outside = self._ids.slot(name, 0, len(source))
        inside = self._ids.slot(name, 1, module.in_channels)
        outside.role = inside.role = Role.MAP
        call = Call(self._ids, "channel_map", {"x": given}, (given.shape,), source_line(node), name)
        self._ids.unite(inside.ids, channel_line(call, given, 1))
        copied = source >= 0
        self._ids.unite(outside.ids[copied], inside.ids[source[copied]])
        return Value(given.shape, (spread(outside.ids, 1, len(given.shape)),))


def _plain(call: Call) -> Result:
    values = tuple(Value(s) for s in call.shapes)
    return values if len(values) != 1 else values[0]


def _shapes(value: Any) -> Iterator[tuple[int, ...]]:
    if isinstance(value, Tensor):
        yield tuple(int(size) for size in value.shape)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _shapes(one)


def _layer_names(program: Program) -> dict[fx.Node, str]:
    """Give for an operator with a weight of its own the module that owns the weight."""
    names: dict[fx.Node, str] = {}
    for node in program.nodes:
        if node.op == "call_function":
            names[node] = owner_of(node, program)
    return names


def owner_of(node: fx.Node, program: Program) -> str:
    """Give the layer that an operator belongs to: the innermost module, or who owns its weight."""
    inner = module_of(node)
    owned = {
        program.tensors[n.name].rpartition(".")[0]
        for n in node.all_input_nodes
        if n.name in program.tensors
    }
    return inner if not owned or inner in owned else min(owned)
