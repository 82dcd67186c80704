"""A network as a torch.export program, which needs none of its Python classes to run."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lissom.errors import ExportError
from lissom.export.difference import largest_difference, outputs_of
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
    # Two samples: torch.export takes a batch of 1 for a constant.
    inputs = tuple(varied(tensor.detach().cpu(), 2) for tensor in example_inputs)
    free_batch = tuple({0: torch.export.Dim.AUTO} if tensor.dim() else {} for tensor in inputs)
    program = program_of(network, inputs, free_batch)
    free = _takes_any_batch(program)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    content = buffer.getvalue()
    difference = _difference(network, content, inputs, 3 if free else 2, tolerance)
    write_files({path: content})
    return TorchCheck(difference, free, len(content))


def program_of(
    network: nn.Module, inputs: tuple[Tensor, ...], free: tuple[dict[int, Any], ...] | None = None
) -> torch.export.ExportedProgram:
    """Export a network in eval mode.

    Args:
        network: On the CPU.
        inputs: Its arguments.
        free: Per input the dimensions that may differ; None: none.

    Raises:
        ExportError: torch.export can't express it.
    """
    try:
        return torch.export.export(network, inputs, dynamic_shapes=free)
    # torch.export raises many unrelated types.
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else "no reason"
        raise ExportError(
            f"{type(network).__name__}: torch.export can't express this network ({reason}); "
            "replace what it names, or use --to onnx"
        ) from error


def varied(tensor: Tensor, count: int) -> Tensor:
    """Give so many samples that differ from the first one, which noise is added to.

    Args:
        tensor: The batch in front; one without dimensions is given back, integers are repeated.
        count: At least 1.
    """
    if not tensor.dim():
        return tensor
    first = tensor[:1]
    samples = first.repeat(count, *(1,) * (first.dim() - 1))
    if not first.is_floating_point():
        return samples
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(samples.shape, generator=generator, dtype=torch.float32)
    noise[0] = 0
    return (samples + noise.to(samples.dtype)).contiguous()


def _takes_any_batch(program: torch.export.ExportedProgram) -> bool:
    given = program.graph_signature.user_inputs
    values = [node.meta["val"] for node in program.graph.nodes if node.name in given]
    return any(
        isinstance(value, Tensor) and value.dim() > 0 and not isinstance(value.shape[0], int)
        for value in values
    )


def _difference(
    network: nn.Module, content: bytes, inputs: tuple[Tensor, ...], batch: int, tolerance: float
) -> float:
    loaded = torch.export.load(io.BytesIO(content)).module()
    given = tuple(tensor.repeat(2, *(1,) * (tensor.dim() - 1))[:batch] for tensor in inputs)
    difference, scale = largest_difference(outputs_of(network, given), outputs_of(loaded, given))
    if not difference <= tolerance * scale:
        raise ExportError(
            f"the exported program differs from the network by {difference:.3g} where outputs "
            f"reach {scale:.3g}; no file was written: look for an operator that is random or "
            "depends on the batch"
        )
    return difference
