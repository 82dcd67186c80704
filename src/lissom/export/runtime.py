"""ONNX Runtime sessions that are set up the same way wherever one is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import onnxruntime
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lissom.errors import ExportError

RUNTIME = f"onnxruntime {onnxruntime.__version__}"
_LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
}


class OnnxSession:
    """A network in ONNX Runtime on the CPU: tensors in, tensors out.

    Args:
        model: A file, or the bytes of one.
        threads: Threads within an operator; operators run one after another.
        optimise: ``all`` fuses operators for this CPU; ``none`` runs the file as it is written.
        optimised_file: Where to write the network as it runs; None: nowhere.

    Raises:
        ExportError: ONNX Runtime can't load the network.
    """

    def __init__(
        self,
        model: Path | bytes,
        *,
        threads: int = 1,
        optimise: Literal["all", "none"] = "all",
        optimised_file: Path | None = None,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.graph_optimization_level = _LEVELS[optimise]
        if optimised_file is not None:
            options.optimized_model_filepath = str(optimised_file)
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session = onnxruntime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
        # ONNX Runtime's exceptions share no public base class.
        except Exception as error:
            name = "the exported network" if isinstance(model, bytes) else str(model)
            raise ExportError(
                f"{name}: ONNX Runtime {onnxruntime.__version__} can't load it "
                f"({_first_line(error)}); if the file is damaged, run the export again"
            ) from error
        self.input_names = tuple(entry.name for entry in self._session.get_inputs())

    def feed(self, inputs: Sequence[Tensor]) -> dict[str, Any]:
        """Give ``inputs`` as the arrays that ``run_arrays`` takes.

        Raises:
            ExportError: There are more or fewer inputs than the file has.
        """
        if len(inputs) != len(self.input_names):
            raise ExportError(
                f"the exported network takes {len(self.input_names)} inputs "
                f"({', '.join(self.input_names)}), got {len(inputs)}: an input that forward() "
                "ignores is left out by the exporter"
            )
        arrays = (tensor.detach().cpu().numpy() for tensor in inputs)
        return dict(zip(self.input_names, arrays, strict=True))

    def example_inputs(self, batch: int) -> tuple[Tensor, ...]:
        """Make inputs of the shapes and types that the file states; values between 0 and 1.

        Args:
            batch: For inputs whose first size is free.

        Raises:
            ExportError: The batch size is fixed to another one, or a type has no counterpart.
        """
        return tuple(_example(entry, batch) for entry in self._session.get_inputs())

    def run_arrays(self, feed: dict[str, Any]) -> list[Any]:
        """Run once on arrays from ``feed``, without any conversion."""
        return self._session.run(None, feed)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run once on tensors.

        Raises:
            ExportError: The runtime refuses the inputs.
        """
        feed = self.feed(inputs)
        try:
            outputs = self.run_arrays(feed)
        except Exception as error:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
            raise ExportError(
                f"ONNX Runtime refuses inputs of shape {shapes} ({_first_line(error)})"
            ) from error
        return tuple(torch.from_numpy(output) for output in outputs)


class OnnxNetwork(nn.Module):
    """A session as a module: for whoever evaluates networks. On the CPU, without gradients."""

    def __init__(self, session: OnnxSession, structure: pytree.TreeSpec) -> None:
        """Wrap a session.

        Args:
            session: Of a network's file.
            structure: What ``structure_of`` gives for the network.
        """
        super().__init__()
        self._run, self._structure = session, structure

    def forward(self, *inputs: Tensor) -> Any:
        """Give the outputs, nested as the network's."""
        return pytree.tree_unflatten(self._run(*inputs), self._structure)


def structure_of(network: nn.Module, inputs: Sequence[Tensor]) -> pytree.TreeSpec:
    """Say how a network nests its outputs, by running it."""
    with torch.no_grad():
        return pytree.tree_structure(network(*inputs))


def _example(entry: Any, batch: int) -> Tensor:
    if entry.shape and isinstance(entry.shape[0], int) and entry.shape[0] != batch:
        raise ExportError(
            f"input {entry.name} has a fixed batch of {entry.shape[0]}, asked for {batch}: "
            f"use a batch of {entry.shape[0]}"
        )
    if entry.type not in _DTYPES:
        raise ExportError(f"input {entry.name} is a {entry.type}; known are {', '.join(_DTYPES)}")
    sizes = [size if isinstance(size, int) else batch for size in entry.shape]
    generator = torch.Generator().manual_seed(0)
    return torch.rand(sizes, generator=generator).to(_DTYPES[entry.type])


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
