"""Whole runs with changed tensors, for networks that can't be captured as a graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lissom.errors import ModelError
from lissom.graph.replay import Replay
from lissom.graph.trace import first_names, private_copy, undisturbed


class WholeRun:
    """Stands in for ``Replay`` where the network's code can't be followed: every run is whole.

    Overrides are written into a private copy and taken out again; torch.func.functional_call does
    not accept scripted networks, which are among those that can't be exported.

    Attributes:
        runs: How many times ``run`` was called.
        equivalent_forwards: What those runs cost, in forward passes: one each.
    """

    def __init__(self, model: nn.Module, example_inputs: tuple[Tensor, ...]) -> None:
        """Copy ``model`` in eval mode.

        Args:
            model: The network.
            example_inputs: Of the shapes that ``record`` will be called with.

        Raises:
            ModelError: The network can't be copied.
        """
        self._model = private_copy(model)
        self._first = first_names(self._model)
        self._tensors: dict[str, Tensor] = {
            **dict(self._model.named_parameters()),
            **dict(self._model.named_buffers()),
        }
        self._buffers = {n: b.detach().clone() for n, b in self._model.named_buffers()}
        self._shapes = tuple(tuple(x.shape) for x in example_inputs)
        self._inputs: tuple[Tensor, ...] = ()
        self.runs = 0
        self.equivalent_forwards = 0.0

    def record(self, inputs: tuple[Tensor, ...]) -> Any:
        """Run the network and keep the inputs.

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
        self._inputs = tuple(x.detach().clone() for x in inputs)
        return self._forward({})

    def run(self, overrides: Mapping[str, Tensor]) -> Any:
        """Run the network with other values in the overridden tensors.

        Args:
            overrides: New values by state-dict name (any alias), of the same shapes.

        Returns:
            The network's outputs.

        Raises:
            ValueError: Nothing was recorded, a name does not exist, or a shape differs.
        """
        if not self._inputs:
            raise ValueError("run: there are no inputs yet; call record first")
        named = {self._name(name): tensor for name, tensor in overrides.items()}
        for name, tensor in named.items():
            expected = tuple(self._tensors[name].shape)
            if tuple(tensor.shape) != expected:
                raise ValueError(f"run: {name} has shape {expected}, got {tuple(tensor.shape)}")
        self.runs += 1
        self.equivalent_forwards += 1.0
        return self._forward(named)

    def affected(self, names: Iterable[str]) -> float:
        """Give 1.0: whatever is overridden, everything is run.

        Raises:
            ValueError: A name does not exist.
        """
        for name in names:
            self._name(name)
        return 1.0

    def _name(self, name: str) -> str:
        first = self._first.get(name)
        if first is None:
            raise ValueError(
                f"the network has no parameter or buffer {name!r}; use state-dict names"
            )
        return first

    def _forward(self, overrides: Mapping[str, Tensor]) -> Any:
        kept = {name: self._tensors[name].detach().clone() for name in overrides}
        with torch.no_grad(), undisturbed():
            try:
                self._write(overrides)
                return self._model(*(x.clone() for x in self._inputs))
            finally:
                self._write(self._buffers | kept)

    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._tensors[name].copy_(value)


def replay_of(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> Replay | WholeRun:
    """Give the cheapest way to run ``model`` again and again with changed tensors.

    Args:
        model: The network; it is copied, not kept.
        example_inputs: At the batch size that ``record`` will be called with.

    Returns:
        A ``Replay``; a ``WholeRun`` if the network can't be captured as a graph.

    Raises:
        ModelError: The network can't be copied.
    """
    try:
        return Replay(model, example_inputs)
    except ModelError:
        return WholeRun(model, example_inputs)
