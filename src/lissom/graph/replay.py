"""Replay: re-run a network from the tensors that changed, instead of from its inputs."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from lissom.graph.observe import node_macs
from lissom.graph.steps import Step, last_reads, steps_of
from lissom.graph.trace import first_names, private_copy, trace, undisturbed


class Replay:
    """A network's operators with the activations of one batch, re-run only where something changed.

    Example:
        replay = Replay(model, images)
        reference = replay.record(images)
        changed = replay.run({"layer3.0.conv1.weight": masked})   # layers 1 and 2 are not run again

    Attributes:
        runs: How many times ``run`` was called.
        equivalent_forwards: What those runs cost, in forward passes of the whole network (by MACs).
    """

    def __init__(self, model: nn.Module, example_inputs: tuple[Tensor, ...]) -> None:
        """Export ``model`` in eval mode; it is copied, not kept.

        Args:
            model: The network.
            example_inputs: At the batch size that ``record`` will be called with.

        Raises:
            ModelError: The network can't be captured as a graph.
        """
        private = private_copy(model)
        self._names = first_names(private)
        self._program = trace(private, example_inputs, functional=True)
        self._shapes = tuple(tuple(x.shape) for x in example_inputs)
        self._values: dict[fx.Node, Any] = {}
        self._recorded = False
        self._steps = steps_of(self._program.nodes, self._program.outputs)
        self._ancestors = _ancestors(self._program.nodes)
        macs = node_macs(self._program, example_inputs[0].shape[0])
        self._total = max(sum(macs.values()), 1)
        self._macs = macs
        self.runs = 0
        self.equivalent_forwards = 0.0
        self._bind(private)

    def _bind(self, model: nn.Module) -> None:
        state: dict[str, Tensor] = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        self._tensor_nodes: dict[str, fx.Node] = {}
        for node in self._program.nodes:
            name = self._program.tensors.get(node.name)
            if name is not None:
                self._values[node] = state[name].detach()
                self._tensor_nodes[name] = node
            elif node.name in self._program.constants:
                self._values[node] = self._program.constants[node.name].detach()

    def record(self, inputs: tuple[Tensor, ...]) -> Any:
        """Run everything once and keep the activations.

        Args:
            inputs: Of the same shapes as ``example_inputs``.

        Returns:
            The network's outputs.

        Raises:
            ValueError: A shape differs.
        """
        shapes = tuple(tuple(x.shape) for x in inputs)
        if shapes != self._shapes:
            raise ValueError(f"record: inputs of shapes {self._shapes} are expected, got {shapes}")
        for node, x in zip(self._program.inputs, inputs, strict=True):
            self._values[node] = x.detach()
        self._execute(self._steps, self._values)
        self._recorded = True
        return self._outputs(self._values)

    def run(self, overrides: Mapping[str, Tensor]) -> Any:
        """Run again what depends on the overridden tensors.

        Args:
            overrides: New values by state-dict name (any alias), of the same shapes.

        Returns:
            The network's outputs, those of a full run with these values up to rounding: batch norms
            run in the weights of the convolutions before them.

        Raises:
            ValueError: Nothing was recorded, a name does not exist, or a shape differs.
        """
        if not self._recorded:
            raise ValueError("run: there are no activations yet; call record first")
        values: dict[fx.Node, Any] = {}
        for name, tensor in overrides.items():
            node = self._node(name)
            if node is None:
                continue
            expected = tuple(self._values[node].shape)
            if tuple(tensor.shape) != expected:
                raise ValueError(f"run: {name} has shape {expected}, got {tuple(tensor.shape)}")
            values[node] = tensor.detach()
        changed = self._downstream(frozenset(values))
        self.runs += 1
        self.equivalent_forwards += self._share(changed)
        layered = ChainMap(values, self._values)
        self._execute(changed, layered, last_reads(changed, self._program.outputs))
        return self._outputs(layered)

    def affected(self, names: Iterable[str]) -> float:
        """Give the share of the network's MACs that a run with these overrides executes, in [0, 1].

        Raises:
            ValueError: A name does not exist.
        """
        nodes = [node for name in names if (node := self._node(name)) is not None]
        return self._share(self._downstream(frozenset(nodes)))

    def _node(self, name: str) -> fx.Node | None:
        """Give the placeholder of a tensor; None if no operator reads it."""
        first = self._names.get(name)
        if first is None:
            raise ValueError(
                f"the network has no parameter or buffer {name!r}; use state-dict names"
            )
        return self._tensor_nodes.get(first)

    def _downstream(self, roots: frozenset[fx.Node]) -> list[Step]:
        mask = sum(self._ancestors[root] for root in roots)
        return [step for step in self._steps if self._ancestors[step.end] & mask]

    def _share(self, steps: Iterable[Step]) -> float:
        nodes = (node for step in steps for node in step.nodes)
        return sum(self._macs.get(node, 0) for node in nodes) / self._total

    def _execute(
        self,
        steps: Iterable[Step],
        values: MutableMapping[fx.Node, Any],
        done: Mapping[fx.Node, Sequence[fx.Node]] = MappingProxyType({}),
    ) -> None:
        """Run operators.

        Args:
            steps: They, in order.
            values: Of what they read; gets theirs.
            done: Per end of a step the values that nobody reads after it: memory that is given back
                at once is still in the cache when the next operator takes it.
        """
        with torch.no_grad(), undisturbed():
            for step in steps:
                values[step.end] = step(values)
                for read in done.get(step.end, ()):
                    del values[read]

    def _outputs(self, values: Mapping[fx.Node, Any]) -> Any:
        leaves = [values[o] if isinstance(o, fx.Node) else o for o in self._program.outputs]
        return pytree.tree_unflatten(leaves, self._program.structure)


def _ancestors(nodes: Iterable[fx.Node]) -> dict[fx.Node, int]:
    """Give for each node the placeholders that it depends on, one bit each."""
    above: dict[fx.Node, int] = {}
    for node in nodes:
        if node.op == "placeholder":
            above[node] = 1 << len(above)
        else:
            above[node] = 0
            for source in node.all_input_nodes:
                above[node] |= above[source]
    return above
