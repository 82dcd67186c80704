"""The clock of the runtime: single layers by its profile, networks by running them in turn."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor, nn

from lissom.export.onnx import export_onnx
from lissom.extension import TimeRatio
from lissom.measure.latency import Conditions, onnx_times, time_ratio
from lissom.measure.operation import Operation, operations_of
from lissom.measure.operation_times import OperationTimes

K = TypeVar("K")


class RuntimeClock:
    """Tells times in ONNX Runtime on this machine.

    Attributes:
        times: Of single operations.
        conditions: Batch, threads; runs and warm-up of whole networks.
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
        self.conditions = conditions
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
        return self._sum(operations_of(layer, (example,)))

    def milliseconds(self, networks: Mapping[str, nn.Module]) -> dict[str, float]:
        """Give the median time of whole networks, run in turn.

        Raises:
            ExportError: The runtime can't run one.
        """
        times = self._times(networks)
        return {name: median(one) for name, one in times.items()}

    def ratio(self, network: nn.Module, reference: nn.Module) -> TimeRatio:
        """Give what a network takes, as a share of what another takes.

        Raises:
            ExportError: The runtime can't run one.
        """
        times = self._times({"reference": reference, "network": network})
        return time_ratio(times["network"], times["reference"])

    def _times(self, networks: Mapping[str, nn.Module]) -> dict[str, list[float]]:
        with tempfile.TemporaryDirectory() as folder:
            files = {name: Path(folder) / f"{place}.onnx" for place, name in enumerate(networks)}
            for name, path in files.items():
                export_onnx(networks[name], self._inputs, path)
            return self.run(files)

    def run(self, files: Mapping[K, Path]) -> dict[K, list[float]]:
        """Time ONNX files in turn: single times in milliseconds.

        Raises:
            ExportError: The runtime can't run one.
        """
        return onnx_times(files, self._inputs, self.conditions)

    def layers_ms(self, network: nn.Module) -> float:
        """Give the sum of the times that a network's weight layers take one by one.

        Raises:
            MeasureError: The machine is too busy to tell.
        """
        operations = operations_of(network, [one[:1] for one in self._inputs])
        return self._sum(operations) / 1e6

    def _sum(self, operations: Sequence[Operation]) -> int:
        known = self.times.of(operations)
        return sum(known[one].nanoseconds + self.times.dispatch for one in operations)
