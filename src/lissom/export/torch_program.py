"""A network as a torch.export program, which needs none of its Python classes to run."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lissom.errors import ExportError
from lissom.export.files import write_files


@dataclass(frozen=True, slots=True)
class TorchCheck:
    """How a saved program compares with its network.

    Attributes:
        max_difference: Largest absolute difference of the program, loaded back, to the network.
        dynamic_batch: Whether it takes any batch size.
        size_bytes: Bytes of the file.
    """

    max_difference: float
    dynamic_batch: bool
    size_bytes: int


def export_torch(
    model: nn.Module, example_inputs: Sequence[Tensor], path: Path, *, tolerance: float = 1e-5
) -> TorchCheck:
    """Write ``model`` as ``torch.export.save`` does, with a free batch where it allows one.

    The file gets its name only once it has been loaded back and computes the same. ``model`` is not
    changed.

    Args:
        model: Any network; a copy of it is exported on the CPU in eval mode.
        example_inputs: Inputs with the batch in front.
        path: Where the file goes.
        tolerance: Largest difference allowed, relative to the largest output.

    Raises:
        ExportError: The network can't be exported, or the program computes something else.
        LissomError: The file can't be written.
    """
    network = copy.deepcopy(model).cpu().eval()
    inputs = tuple(_two(tensor.detach().cpu()) for tensor in example_inputs)
    program, free = _program(network, inputs)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    content = buffer.getvalue()
    difference = _difference(network, content, inputs, 3 if free else 2, tolerance)
    write_files({path: content})
    return TorchCheck(difference, free, len(content))


def _program(
    network: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[torch.export.ExportedProgram, bool]:
    free = tuple({0: torch.export.Dim.AUTO} if tensor.dim() else {} for tensor in inputs)
    try:
        program = torch.export.export(network, inputs, dynamic_shapes=free)
    # torch.export raises many unrelated types.
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else "no reason"
        raise ExportError(
            f"{type(network).__name__}: torch.export can't express this network ({reason}); "
            "replace what it names, or use --to onnx"
        ) from error
    given = program.graph_signature.user_inputs
    values = [node.meta["val"] for node in program.graph.nodes if node.name in given]
    return program, any(
        isinstance(value, Tensor) and value.dim() > 0 and not isinstance(value.shape[0], int)
        for value in values
    )


def _difference(
    network: nn.Module, content: bytes, inputs: tuple[Tensor, ...], batch: int, tolerance: float
) -> float:
    loaded = torch.export.load(io.BytesIO(content)).module()
    given = tuple(tensor.repeat(2, *(1,) * (tensor.dim() - 1))[:batch] for tensor in inputs)
    with torch.no_grad():
        expected = [one for one in pytree.tree_leaves(network(*given)) if isinstance(one, Tensor)]
        found = [one for one in pytree.tree_leaves(loaded(*given)) if isinstance(one, Tensor)]
    pairs = list(zip(expected, found, strict=True))
    difference = max((a.double() - b.double()).abs().max().item() for a, b in pairs)
    scale = max(tensor.abs().max().item() for tensor in expected)
    if not difference <= tolerance * scale:
        raise ExportError(
            f"the exported program differs from the network by {difference:.3g} where outputs "
            f"reach {scale:.3g}; no file was written: look for an operator that is random or "
            "depends on the batch"
        )
    return difference


def _two(tensor: Tensor) -> Tensor:
    """Give two different samples: torch.export takes a batch of 1 for a constant."""
    if not tensor.dim():
        return tensor
    first = tensor[:1]
    if first.is_floating_point():
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(first.shape, generator=generator, dtype=torch.float32).to(first.dtype)
        return torch.cat((first, first + noise)).contiguous()
    return first.repeat(2, *(1,) * (first.dim() - 1))
