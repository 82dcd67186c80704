"""The exported program of a network. The only file that knows torch.export."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from lissom.errors import ModelError


@dataclass(frozen=True, slots=True)
class Program:
    """A network as a list of ATen operators.

    Attributes:
        nodes: Operators and placeholders in execution order.
        tensors: For the node name of a parameter or buffer its state-dict name (the first alias).
        constants: Values of tensors that are neither, by node name.
        inputs: Nodes of the network's inputs.
        outputs: What the network returns, flattened; nodes, or constants.
        structure: How the outputs are nested.
        training: Whether it was exported in train mode.
    """

    nodes: tuple[fx.Node, ...]
    tensors: dict[str, str]
    constants: dict[str, Tensor]
    inputs: tuple[fx.Node, ...]
    outputs: tuple[Any, ...]
    structure: pytree.TreeSpec
    training: bool

    @property
    def used(self) -> frozenset[str]:
        """State-dict names of the parameters and buffers that some operator reads."""
        return frozenset(
            self.tensors[n.name] for n in self.nodes if n.name in self.tensors and n.users
        )


def private_copy(model: nn.Module) -> nn.Module:
    """Give a deep copy in eval mode.

    Raises:
        ModelError: ``model`` is no module, or holds something that can't be copied.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"a network is expected, got a {type(model).__name__}: pass a torch.nn.Module"
        )
    try:
        return copy.deepcopy(model).eval()
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} can't be copied ({type(error).__name__}: {error}); remove "
            "open files, locks, "
            "hooks or non-leaf tensors from its attributes"
        ) from error


def at_batch(inputs: tuple[Tensor, ...], batch: int) -> tuple[Tensor, ...]:
    """Give the inputs with ``batch`` samples: repeated or cut along axis 0.

    Inputs whose first axis is not as long as the first input's are left alone.

    Raises:
        ModelError: There is no input, or it has no batch axis.
    """
    if not inputs or not all(isinstance(x, Tensor) for x in inputs) or not inputs[0].ndim:
        kinds = ", ".join(type(x).__name__ for x in inputs) or "nothing"
        raise ModelError(
            f"example_inputs: a tuple of tensors with a batch axis is expected, got {kinds}"
        )
    size = inputs[0].shape[0]

    def resize(x: Tensor) -> Tensor:
        if not x.ndim or x.shape[0] != size:
            return x.detach()
        return x.detach().repeat(-(-batch // size), *[1] * (x.ndim - 1))[:batch]

    return tuple(resize(x) for x in inputs)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the random number generators and the user's screen as they are."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def trace(model: nn.Module, inputs: tuple[Tensor, ...], *, functional: bool = False) -> Program:
    """Export ``model`` in the mode that it is in.

    Args:
        model: A private copy: exporting may touch it.
        inputs: At the batch size to export for.
        functional: Replace operators that write into their inputs by ones that do not.

    Raises:
        ModelError: The exporter can't follow the network's code.
    """
    with undisturbed():
        try:
            exported = torch.export.export(model, inputs, strict=False)
            if functional:
                exported = exported.run_decompositions({})
        except Exception as error:
            first = str(error).strip().splitlines()
            raise ModelError(
                f"{type(model).__name__} can't be captured as a graph ({type(error).__name__}: "
                f"{first[0] if first else 'no message'}); avoid control flow that depends on "
                "tensor values"
            ) from error
    return _program(exported, first_names(model), training=model.training)


def _program(
    exported: torch.export.ExportedProgram, names: dict[str, str], *, training: bool
) -> Program:
    signature = exported.graph_signature
    tensors: dict[str, str] = {}
    constants: dict[str, Tensor] = {}
    for given in signature.input_specs:
        node, target = getattr(given.arg, "name", ""), given.target
        if given.kind in (InputKind.PARAMETER, InputKind.BUFFER) and target is not None:
            tensors[node] = names.get(target, target)
        elif given.kind is InputKind.CONSTANT_TENSOR and target is not None:
            constants[node] = exported.constants[target]
    nodes = tuple(exported.graph.nodes)
    by_name = {node.name: node for node in nodes}
    outputs = [
        by_name.get(getattr(given.arg, "name", ""), getattr(given.arg, "value", None))
        for given in signature.output_specs
        if given.kind is OutputKind.USER_OUTPUT
    ]
    return Program(
        nodes=nodes,
        tensors=tensors,
        constants=constants,
        inputs=tuple(by_name[str(name)] for name in signature.user_inputs if name in by_name),
        outputs=tuple(outputs),
        structure=exported.call_spec.out_spec,
        training=training,
    )


def first_names(model: nn.Module) -> dict[str, str]:
    """Give for every name of a parameter or buffer the first name of the same tensor."""
    first: dict[int, str] = {}
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def module_of(node: fx.Node) -> str:
    """Give the dotted name of the innermost module that the operator ran in."""
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""


def source_line(node: fx.Node) -> str:
    """Give ``file:line: code`` of the innermost line outside torch that called the operator."""
    frames = (node.meta.get("stack_trace") or "").split('File "')[1:]
    chosen = ""
    for frame in frames:
        head, _, code = frame.partition("\n")
        path, _, rest = head.partition('", line ')
        number = rest.partition(",")[0]
        if "/torch/nn/" not in path and "/torch/_" not in path and path.endswith(".py"):
            line = code.strip().splitlines()
            chosen = f"{path}:{number}: {line[0].strip()}" if line else f"{path}:{number}"
    return chosen
