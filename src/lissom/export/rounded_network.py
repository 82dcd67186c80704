"""What a network computes in int8, in torch and with gradients: the file to be, while it learns."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from lissom.export.graph import OnnxGraph
from lissom.export.int8_places import chosen_places, find_places, rounded_tensors
from lissom.export.qdq import Int8Layout
from lissom.export.translate import program_of
from lissom.quantization.activation_ranges import Range
from lissom.quantization.channel_levels import ChannelLevels
from lissom.quantization.learned_range import LearnedRange

_WITH_CHANNELS_IN_FRONT = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)


class RoundedNetwork(nn.Module):
    """A network whose weights and activations are rounded where its ONNX file in int8 rounds them.

    It runs the very operators that the exporter translates, in eval mode: batch norms keep their
    running statistics, and learn their scales and shifts. Biases, which the file holds in 32 bits,
    are not rounded.

    Attributes:
        network: What is trained, in place; its tensors stay float.
        ranges: By the tensor's name in the file, dots as ``/``.
        levels: By layer, dots as ``/``.
    """

    def __init__(
        self,
        network: nn.Module,
        example_inputs: Sequence[Tensor],
        content: bytes,
        layout: Int8Layout,
    ) -> None:
        """Round nothing yet.

        Args:
            network: Is kept.
            example_inputs: Inputs with the batch in front.
            content: The network as ``write_qdq`` takes it.
            layout: Where the ranges begin, and what is rounded.

        Raises:
            ExportError: The network can't be expressed with a free batch.
        """
        super().__init__()
        self.network = network
        exported, inputs = program_of(network, example_inputs)
        graph = OnnxGraph(content)
        observed = rounded_tensors(chosen_places(graph, find_places(graph), layout.layers))
        self.ranges, self.levels = nn.ModuleDict(), nn.ModuleDict()
        self._program = _Program(exported, inputs)
        self._rounding: dict[str, str] = {}
        for name, source in observed.items():
            node = self._program.node_of(name)
            if node is None:
                continue
            self._rounding[node] = _key(source)
            if _key(source) not in self.ranges:
                self.ranges[_key(source)] = LearnedRange(layout.ranges[source])
        for node, layer in self._program.weights.items():
            if layer in layout.layers:
                self._rounding[node] = _key(layer)
                weight = network.get_parameter(f"{layer}.weight")
                self.levels[_key(layer)] = ChannelLevels(weight, layout.weight_levels)
        for place, value in enumerate(self._program.constants.values()):
            self.register_buffer(f"constant{place}", value, persistent=False)

    @property
    def learned(self) -> dict[str, Range]:
        """Give the ranges by the tensors' names in the file."""
        return {_name(key): module.range for key, module in _typed(self.ranges, LearnedRange)}

    def learned_ranges(self) -> list[LearnedRange]:
        """Give what learns them."""
        return [module for _, module in _typed(self.ranges, LearnedRange)]

    def hardened(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Give levels and steps of each rounded layer, as ``ChannelLevels.hardened`` does."""
        return {
            _name(key): module.hardened(self.network.get_parameter(f"{_name(key)}.weight"))
            for key, module in _typed(self.levels, ChannelLevels)
        }

    def forward(self, *inputs: Tensor) -> Any:
        """Give what the network gives, rounded."""
        bound = [self.get_buffer(f"constant{i}") for i in range(len(self._program.constants))]
        constants = dict(zip(self._program.constants, bound, strict=True))
        modules = {
            node: self.ranges[key] if key in self.ranges else self.levels[key]
            for node, key in self._rounding.items()
        }
        return self._program.run(self.network, inputs, constants, modules)


class _Program:
    """An exported program that reads its tensors from a living network."""

    def __init__(self, exported: torch.export.ExportedProgram, inputs: Sequence[str]) -> None:
        signature = exported.graph_signature
        self._graph = exported.graph_module
        self._structure = exported.call_spec.out_spec
        self._outputs = len(signature.user_outputs)
        nodes: dict[str, fx.Node] = {node.name: node for node in exported.graph.nodes}
        self._placeholders = [name for name, node in nodes.items() if node.op == "placeholder"]
        self._tensors: dict[str, str] = {}
        self.constants: dict[str, Tensor] = {}
        for given in signature.input_specs:
            name, target = getattr(given.arg, "name", ""), given.target
            if given.kind in (InputKind.PARAMETER, InputKind.BUFFER) and target is not None:
                self._tensors[name] = target
            elif given.kind is InputKind.CONSTANT_TENSOR and target is not None:
                self.constants[name] = exported.constants[target].detach().clone()
        self._inputs = [str(name) for name in signature.user_inputs]
        self._names = {name: name for name in nodes}
        self._names |= dict(zip(inputs, self._inputs, strict=True))
        # The parts of a split have names of their own in a file.
        for node in nodes.values():
            if node.target is operator.getitem:
                split, part = node.args
                self._names[f"{split}_split_{part}"] = node.name
        self.weights = {
            weight: target.removesuffix(".weight")
            for weight in map(_weight, nodes.values())
            if (target := self._tensors.get(weight, "")).endswith(".weight")
        }

    def node_of(self, tensor: str) -> str | None:
        """Give the node that computes a tensor of the file; None where it is the file's own."""
        return self._names.get(tensor)

    def run(
        self,
        network: nn.Module,
        inputs: Sequence[Tensor],
        constants: Mapping[str, Tensor],
        modules: Mapping[str, nn.Module],
    ) -> Any:
        """Run with a network's tensors; what a node in ``modules`` gives passes through them."""
        given = {**constants, **dict(zip(self._inputs, inputs, strict=True))}
        for name, target in self._tensors.items():
            owner, _, leaf = target.rpartition(".")
            given[name] = getattr(network.get_submodule(owner), leaf)
        values = _Rounding(self._graph, modules).run(*(given[one] for one in self._placeholders))
        outputs = list(values)[-self._outputs :] if self._outputs else []
        return pytree.tree_unflatten(outputs, self._structure)


def _weight(node: fx.Node) -> str:
    """Name the node of a layer's weight; "" for another node."""
    weight = node.args[1] if node.target in _WITH_CHANNELS_IN_FRONT else None
    return weight.name if isinstance(weight, fx.Node) else ""


class _Rounding(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, modules: Mapping[str, nn.Module]) -> None:
        super().__init__(graph)
        self._modules = modules

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        return self._modules[n.name](value) if n.name in self._modules else value


def _typed(modules: nn.ModuleDict, kind: type) -> list[tuple[str, Any]]:
    return [(key, module) for key, module in modules.items() if isinstance(module, kind)]


def _key(name: str) -> str:
    return name.replace(".", "/")


def _name(key: str) -> str:
    return key.replace("/", ".")
