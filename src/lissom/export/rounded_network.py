"""What a network computes in int8, in torch and with gradients: the file to be, while it learns."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
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
_VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)


class RoundedNetwork(nn.Module):
    """A network whose weights and activations are rounded where its ONNX file in int8 rounds them.

    It runs the very operators that the exporter translates, in eval mode: batch norms keep their
    running statistics, and learn their scales and shifts. Biases, which the file holds in 32 bits,
    are not rounded.

    Attributes:
        network: What is trained, in place; its tensors stay float.
        ranges: Of tensors, in any order.
        levels: Of layers, in any order.
    """

    def __init__(
        self,
        network: nn.Module,
        example_inputs: Sequence[Tensor],
        content: bytes,
        layout: Int8Layout,
        kept: Collection[str] = (),
    ) -> None:
        """Round nothing yet.

        Args:
            network: Is kept.
            example_inputs: Inputs with the batch in front.
            content: The network as ``write_qdq`` takes it.
            layout: Where the ranges begin, and what is rounded.
            kept: Layers whose weights lie on levels already.

        Raises:
            ExportError: The network can't be expressed with a free batch.
        """
        super().__init__()
        self.network = network
        exported, inputs = program_of(network, example_inputs)
        graph = OnnxGraph(content)
        observed = rounded_tensors(chosen_places(graph, find_places(graph), layout.layers))
        self.ranges, self.levels = nn.ModuleList(), nn.ModuleList()
        self._program = _Program(exported, inputs)
        # A module's place in its list by what it rounds, and by node what that gives.
        self._of_tensor: dict[str, int] = {}
        self._of_layer: dict[str, int] = {}
        self._rounding: dict[str, tuple[str, int]] = {}
        for name, source in observed.items():
            node = self._program.node_of(name)
            if node is None:
                continue
            if source not in self._of_tensor:
                self._of_tensor[source] = len(self.ranges)
                self.ranges.append(LearnedRange(layout.ranges[source]))
            self._rounding[node] = ("ranges", self._of_tensor[source])
        for node, layer in self._program.weights.items():
            if layer in layout.layers and layer not in kept:
                weight = network.get_parameter(f"{layer}.weight")
                self._of_layer[layer] = len(self.levels)
                self._rounding[node] = ("levels", len(self.levels))
                self.levels.append(ChannelLevels(weight, layout.weight_levels))
        for place, value in enumerate(self._program.constants.values()):
            self.register_buffer(f"constant{place}", value, persistent=False)

    @property
    def learned(self) -> dict[str, Range]:
        """Give the ranges by the tensors' names in the file."""
        modules = self.learned_ranges()
        return {name: modules[place].range for name, place in self._of_tensor.items()}

    def learned_ranges(self) -> list[LearnedRange]:
        """Give what learns them."""
        return [module for module in self.ranges if isinstance(module, LearnedRange)]

    def hardened(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Give levels and steps of each rounded layer, as ``ChannelLevels.hardened`` does."""
        found = {}
        for layer, place in self._of_layer.items():
            module = self.levels[place]
            assert isinstance(module, ChannelLevels)
            found[layer] = module.hardened(self.network.get_parameter(f"{layer}.weight"))
        return found

    def forward(self, *inputs: Tensor) -> Any:
        """Give what the network gives, rounded."""
        bound = [self.get_buffer(f"constant{i}") for i in range(len(self._program.constants))]
        constants = dict(zip(self._program.constants, bound, strict=True))
        modules = {
            node: getattr(self, kind)[place] for node, (kind, place) in self._rounding.items()
        }
        return self._program.run(self.network, inputs, constants, modules)


class _Program:
    """An exported program that reads its tensors from a living network."""

    def __init__(self, exported: torch.export.ExportedProgram, inputs: Sequence[str]) -> None:
        signature = exported.graph_signature
        self._graph = exported.graph_module
        self._structure = exported.call_spec.out_spec
        self._outputs = len(signature.user_outputs)
        _take_any_layout(exported.graph_module)
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
        device = inputs[0].device if inputs else None
        values = _Rounding(self._graph, modules, device).run(
            *(given[one] for one in self._placeholders)
        )
        outputs = list(values)[-self._outputs :] if self._outputs else []
        return pytree.tree_unflatten(outputs, self._structure)


def _weight(node: fx.Node) -> str:
    """Name the node of a layer's weight; "" for another node."""
    weight = node.args[1] if node.target in _WITH_CHANNELS_IN_FRONT else None
    return weight.name if isinstance(weight, fx.Node) else ""


class _Rounding(fx.Interpreter):
    def __init__(
        self,
        graph: fx.GraphModule,
        modules: Mapping[str, nn.Module],
        device: torch.device | None,
    ) -> None:
        super().__init__(graph)
        self._modules, self._device = modules, device

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        return self._modules[n.name](value) if n.name in self._modules else value

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("device") is not None:  # that of the trace
            kwargs = {**kwargs, "device": self._device}
        return super().call_function(target, args, kwargs)


def _take_any_layout(graph: fx.GraphModule) -> None:
    """Let views copy where strides ask for it: trainings run channels last, the trace did not."""
    for node in graph.graph.nodes:
        if node.target in _VIEWS:
            node.target = torch.ops.aten.reshape.default
    graph.recompile()
