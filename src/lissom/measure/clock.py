"""The clock of the runtime: single layers by its profile, networks by running them in turn."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lissom.export.onnx import export_onnx
from lissom.measure.latency import Conditions, onnx_latency
from lissom.measure.operation import operations_of
from lissom.measure.operation_times import OperationTimes


class RuntimeClock:
    """Tells times in ONNX Runtime on this machine.

    Attributes:
        times: Of single operations.
    """

    def __init__(
        self, conditions: Conditions, example_inputs: Sequence[Tensor], folder: Path | None = None
    ) -> None:
        """Measure nothing yet.

        Args:
            conditions: Batch, threads; runs and warm-up of whole networks.
            example_inputs: Of the networks, batch in front.
            folder: Where times outlive the run; None: nowhere.
        """
        self.times = OperationTimes(conditions.threads, conditions.batch, folder)
        self._conditions = conditions
        self._inputs = tuple(
            tensor[:1].expand(conditions.batch, *tensor.shape[1:]).contiguous()
            for tensor in example_inputs
        )

    def nanoseconds(self, layer: nn.Module, input_shape: tuple[int, ...]) -> int:
        """Give the time of a layer, or of what stands in its place.

        Args:
            layer: Convolutions and linear layers; on ``meta``.
            input_shape: Without batch.

        Raises:
            MeasureError: The machine is too busy to tell.
        """
        example = torch.empty(1, *input_shape, device="meta")
        operations = operations_of(layer, (example,))
        known = self.times.of(operations)
        return sum(known[one].nanoseconds + self.times.dispatch for one in operations)

    def milliseconds(self, networks: Mapping[str, nn.Module]) -> dict[str, float]:
        """Give the median time of whole networks, run in turn.

        Raises:
            ExportError: The runtime can't run one.
        """
        with tempfile.TemporaryDirectory() as folder:
            files = {name: Path(folder) / f"{place}.onnx" for place, name in enumerate(networks)}
            for name, path in files.items():
                export_onnx(networks[name], self._inputs, path)
            found = onnx_latency(files, self._inputs, self._conditions)
        return {name: one.median_ms for name, one in found.items()}
