"""Residual branches that can go as a whole: seen in the program, then tried out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from lissom.errors import ModelError
from lissom.graph.coupling import owner_of
from lissom.graph.trace import Program, at_batch, private_copy, trace, undisturbed
from lissom.plan.drop_residual import DropResidual

_BATCH = 2
_TOLERANCE = 1e-4  # of the largest output; the two sides compute the same sums
_ADDITIONS = ("add.Tensor", "add_.Tensor")
_WITHOUT_EFFECT = ("dropout", "alias", "detach", "contiguous", "clone")


@dataclass(frozen=True, slots=True)
class Branch:
    """F of x + F(x), where x and F(x) have the same shape.

    Attributes:
        name: What its layers' names have in common, or that of its last layer where another branch
            has the same.
        layers: Its layers with parameters, in execution order; the last one's output is F(x).
    """

    name: str
    layers: tuple[str, ...]

    @property
    def decision(self) -> DropResidual:
        """Give the decision that removes it."""
        return DropResidual(self.layers[:-1], self.layers[-1])


def residual_branches(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> tuple[Branch, ...]:
    """Find the branches whose removal leaves a network that runs and adds nothing in their place.

    Args:
        model: Any network; it is looked at in eval mode and not changed.
        example_inputs: What it is called with, with a batch axis first.

    Returns:
        In execution order. None if the network's code can't be followed.

    Raises:
        ModelError: The network can't be copied.
    """
    private = private_copy(model)
    inputs = at_batch(example_inputs, _BATCH)
    try:
        program = trace(private, inputs)
    except ModelError:
        return ()
    found = tuple(_Finder(program).branches())
    shared = {one.name for one in found if [other.name for other in found].count(one.name) > 1}
    named = (
        replace(branch, name=branch.layers[-1]) if branch.name in shared else branch
        for branch in found
    )
    return tuple(branch for branch in named if _survives(private, branch, inputs))


class _Finder:
    """Looks for branches in a program."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._owned: dict[str, set[fx.Node]] = {}
        for node in program.nodes:
            if self._weights(node):
                self._owned.setdefault(owner_of(node, program), set()).add(node)

    def branches(self) -> Iterator[Branch]:
        for node in self._program.nodes:
            if str(node.target).removeprefix("aten.") not in _ADDITIONS:
                continue
            sides = [one for one in node.args if isinstance(one, fx.Node)]
            if len(sides) == 2 and _shape(sides[0]) == _shape(sides[1]):
                layers = self._layers(node, *sides) or self._layers(node, *sides[::-1])
                if layers:
                    yield Branch(_common(layers), layers)

    def _layers(self, addition: fx.Node, start: fx.Node, end: fx.Node) -> tuple[str, ...]:
        """List the layers between ``start`` and ``end``; none unless nothing else is touched."""
        inside = self._between(start, end)
        if not inside or any(set(one.users) - inside - {addition} for one in inside):
            return ()
        ordered = [one for one in self._program.nodes if one in inside]
        layers = tuple(
            dict.fromkeys(owner_of(one, self._program) for one in ordered if self._weights(one))
        )
        last = end
        while any(word in str(last.target) for word in _WITHOUT_EFFECT):
            last = last.all_input_nodes[0]
        elsewhere = any(self._owned[name] - inside for name in layers)
        if not layers or elsewhere or last not in self._owned[layers[-1]]:
            return ()
        return layers

    def _between(self, start: fx.Node, end: fx.Node) -> set[fx.Node]:
        """Collect what ``end`` is computed from, back to ``start``; nothing if it needs more."""
        inside: set[fx.Node] = set()
        waiting, met = [end], False
        while waiting:
            node = waiting.pop()
            if node is start:
                met = True
            elif node in self._program.inputs:
                return set()
            elif node not in inside and not self._given(node):
                inside.add(node)
                waiting.extend(node.all_input_nodes)
        return inside if met else set()

    def _given(self, node: fx.Node) -> bool:
        return node.name in self._program.tensors or node.name in self._program.constants

    def _weights(self, node: fx.Node) -> bool:
        return any(one.name in self._program.tensors for one in node.all_input_nodes)


def _survives(model: nn.Module, branch: Branch, inputs: tuple[Tensor, ...]) -> bool:
    """Tell whether the network without the branch computes what it does where F is zero."""
    silent, dropped = copy.deepcopy(model), copy.deepcopy(model)
    for parameter in silent.get_submodule(branch.layers[-1]).parameters():
        nn.init.zeros_(parameter)
    try:
        branch.decision.apply(dropped)
        with undisturbed(), torch.no_grad():
            pairs = list(zip(_tensors(silent(*inputs)), _tensors(dropped(*inputs)), strict=True))
            dropped.train()(*inputs)
    # What the user's code raises when a shape is not what it expects is anybody's guess.
    except Exception:
        return False
    return all(_close(one, other) for one, other in pairs)


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    scale = one.abs().max().item() if one.numel() else 0.0
    return not one.numel() or bool((one - other).abs().max().item() <= _TOLERANCE * scale)


def _tensors(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _common(layers: tuple[str, ...]) -> str:
    """Give the dotted prefix that names have in common; the first name where there is none."""
    parts = [name.split(".") for name in layers]
    shared = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return ".".join(shared) or layers[0]
