"""From a network to ONNX operators: the only file that calls the exporter of torch."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lissom.errors import ExportError
from lissom.export.difference import outputs_of
from lissom.export.redundant import remove_redundant


def program_of(
    model: nn.Module, example_inputs: Sequence[Tensor], *, opset: int = 20
) -> tuple[torch.export.ExportedProgram, tuple[str, ...]]:
    """Give the operators that ``onnx_content`` translates one by one, in eval mode.

    A node goes by the name that its value has in the ONNX file, unless the exporter fuses it with
    another.

    Returns:
        The program, for any batch, of a copy of ``model``; and the names that its inputs have in
        the file.

    Raises:
        ExportError: The network can't be expressed with a free batch.
    """
    network = copy.deepcopy(model).cpu().eval()
    inputs = with_batch(tuple(tensor.detach().cpu() for tensor in example_inputs), 2)
    try:
        exported = _export(network, inputs, opset, batch="free").exported_program
    except Exception as error:
        raise ExportError(
            f"{type(model).__name__}: can't be exported with a free batch "
            f"({innermost_reason(error)})"
        ) from error
    assert exported is not None
    return exported, tuple(_numbered("input", len(inputs)))


def translated(
    network: nn.Module, inputs: tuple[Tensor, ...], opset: int, *, batch: Literal["free", "fixed"]
) -> bytes:
    """Give the content of an ONNX file; nothing is checked.

    Args:
        network: In eval mode, on the CPU.
        inputs: At the batch size to trace with.
        opset: ONNX operator set.
        batch: Whether the file takes any batch size.
    """
    model = _export(network, inputs, opset, batch=batch).model_proto
    remove_redundant(model)
    for noted in (model, model.graph, *model.graph.node):  # lines of the user's code, with paths
        del noted.metadata_props[:]
        noted.doc_string = ""
    content: bytes = model.SerializeToString()
    return content


def _export(
    network: nn.Module, inputs: tuple[Tensor, ...], opset: int, *, batch: Literal["free", "fixed"]
) -> torch.onnx.ONNXProgram:
    free = tuple({0: torch.export.Dim.DYNAMIC} if tensor.dim() else {} for tensor in inputs)
    outputs = len(outputs_of(network, inputs))
    with _quiet():
        program = torch.onnx.export(
            network,
            inputs,
            input_names=_numbered("input", len(inputs)),
            output_names=_numbered("output", outputs),
            opset_version=opset,
            dynamo=True,
            external_data=False,
            dynamic_shapes=free if batch == "free" else None,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx gave no program")
    return program


def with_batch(inputs: tuple[Tensor, ...], size: int) -> tuple[Tensor, ...]:
    """Give ``size`` samples; repeated ones are weakened, so that samples differ."""
    return tuple(_resized(tensor, size) if tensor.dim() else tensor for tensor in inputs)


def _resized(tensor: Tensor, size: int) -> Tensor:
    index = torch.arange(size) % tensor.shape[0]
    rows = tensor[index]
    if not rows.is_floating_point():
        return rows
    turn = torch.arange(size) // tensor.shape[0]
    strength = (0.5**turn).to(rows.dtype).view(-1, *(1,) * (rows.dim() - 1))
    return (rows * strength).contiguous()


def _numbered(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}_{i}" for i in range(count)]


def innermost_reason(error: BaseException) -> str:
    """Give the innermost cause in one line: the exporter wraps it in advice on filing bugs."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's prints, warnings and log lines from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)
