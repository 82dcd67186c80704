"""A network as an ExecuTorch program for phones, for whom the extra ``executorch`` is installed."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lissom.errors import ExportError
from lissom.export.difference import largest_difference, outputs_of
from lissom.export.files import write_files
from lissom.export.quiet import quiet
from lissom.export.torch_program import program_of, varied

_DELEGATE, _MEMORY = "executorch_call_delegate", ("alloc", "getitem", "executorch_call_delegate")


@dataclass(frozen=True, slots=True)
class ExecutorchCheck:
    """How an ExecuTorch file compares with the network.

    Attributes:
        max_difference: Largest absolute difference of the file, run by ExecuTorch, to torch.
        size_bytes: Bytes of the file.
        batch: The samples that it takes at once, no more and no fewer.
        delegated: Parts of the network that XNNPACK runs.
        portable: How often each operator runs outside of them, in ExecuTorch's portable, slower
            form.
        runtime: Name and version.
    """

    max_difference: float
    size_bytes: int
    batch: int
    delegated: int
    portable: Mapping[str, int]
    runtime: str


def export_executorch(
    model: nn.Module,
    example_inputs: Sequence[Tensor],
    path: Path,
    *,
    batch: int = 1,
    tolerance: float = 1e-4,
) -> ExecutorchCheck:
    """Write ``model`` as a .pte file in float32, for ExecuTorch with its XNNPACK backend.

    The file gets its name only once ExecuTorch has run it and computes what torch does.

    Args:
        model: Any network; a copy of it is exported on the CPU in eval mode.
        example_inputs: Inputs with the batch in front.
        path: Ends in ``.pte``.
        batch: Samples at once. Memory is laid out for them when the file is made, hence it is
            fixed.
        tolerance: Largest difference allowed, relative to the largest output.

    Raises:
        ExportError: ExecuTorch is not installed, can't express the network, or computes something
            else.
        LissomError: The file can't be written.
    """
    if path.suffix != ".pte":
        raise ExportError(f"{path}: ExecuTorch's files are called NAME.pte; expected such a name")
    with quiet():
        exir = _part("executorch.exir")
        backend = _part("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    runtime = f"executorch {version('executorch')}"
    network = copy.deepcopy(model).cpu().eval()
    inputs = tuple(varied(tensor.detach().cpu(), batch) for tensor in example_inputs)
    program = program_of(network, inputs)
    try:
        with quiet():
            lowered = exir.to_edge_transform_and_lower(
                program, partitioner=[backend.XnnpackPartitioner()]
            ).to_executorch()
            content = bytes(lowered.buffer)
            found = executorch_call(content)(*inputs)
    # ExecuTorch's exceptions share no public base class.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ExportError(
            f"{path}: {runtime} can't express this network ({reason}); use --to onnx"
        ) from error
    difference, scale = largest_difference(outputs_of(network, inputs), found)
    if not difference <= tolerance * scale:
        raise ExportError(
            f"{path}: ExecuTorch differs from torch by {difference:.3g} where outputs reach "
            f"{scale:.3g}; no file was written: use --to onnx"
        )
    operators = Counter(_operators(lowered.exported_program().graph_module))
    write_files({path: content})
    return ExecutorchCheck(
        difference,
        len(content),
        batch,
        operators.get(_DELEGATE, 0),
        {name: count for name, count in sorted(operators.items()) if name not in _MEMORY},
        runtime,
    )


def executorch_call(
    program: bytes | Path, *, threads: int | None = None
) -> Callable[..., tuple[Tensor, ...]]:
    """Load a file and give the network as a function of tensors.

    Args:
        program: A .pte file, or its content.
        threads: Of the runtime, in this whole process from here on; None: as they are.

    Raises:
        ExportError: ExecuTorch is not installed.
    """
    with quiet():
        runtime = _part("executorch.runtime")
        if threads is not None:
            _part("executorch.extension.pybindings.portable_lib")._unsafe_reset_threadpool(threads)
    content = program.read_bytes() if isinstance(program, Path) else program
    return _Method(content, runtime.Runtime.get().load_program(content))


class _Method:
    """A program's only method, with all that it reads: ExecuTorch keeps pointers, no references."""

    def __init__(self, content: bytes, program: Any) -> None:
        self._content, self._program = content, program
        self._method = program.load_method("forward")

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        # The method writes into the same memory again and again.
        outputs = self._method.execute([one.detach().contiguous() for one in inputs])
        return tuple(one.clone() for one in outputs if isinstance(one, Tensor))


def _operators(graph: torch.fx.GraphModule) -> Iterator[str]:
    for node in graph.graph.nodes:
        if node.op == "call_function":
            name = getattr(node.target, "__name__", str(node.target))
            yield name.removeprefix("aten.").partition(".")[0]


def _part(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ExportError(
            "ExecuTorch is not installed: pip install 'lissom[executorch]', or use --to onnx"
        ) from None
