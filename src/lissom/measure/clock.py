"""The clock of a runtime: single layers by its profile, networks by running them in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch
from torch import Tensor, nn

from lissom.clock import TimeRatio
from lissom.measure.guessed_int8 import GuessedInt8
from lissom.measure.latency import Conditions, time_ratio, times_in_turn
from lissom.measure.operation import Operation, operations_of
from lissom.measure.operation_times import OperationTimes
from lissom.measure.runtime import Call, Runnable, Runtime
from lissom.measure.runtimes import runtime_called

K = TypeVar("K")


class RuntimeClock:
    """Tells times in one runtime on this machine.

    Attributes:
        times: Of single operations.
        conditions: Runtime, batch, threads; runs and warm-up of whole networks.
    """

    def __init__(
        self,
        conditions: Conditions,
        example_inputs: Sequence[Tensor],
        folder: Path | None = None,
        int8: GuessedInt8 | None = None,
    ) -> None:
        """Measure nothing yet.

        Args:
            conditions: Runtime, batch, threads; runs and warm-up of whole networks.
            example_inputs: Of the networks, batch in front.
            folder: Where times outlive the run; None: nowhere.
            int8: How networks and layers are rounded before they are timed; None: not at all.

        Raises:
            ExportError: The runtime is not installed.
            RecipeError: It does not run in int8.
        """
        self._plain = runtime_called(conditions.runtime)
        self._runtime = self._plain if int8 is None else runtime_called(conditions.runtime, int8)
        self._folder = folder
        self.times = OperationTimes(conditions.threads, conditions.batch, folder, self._runtime)
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

    def milliseconds(self, network: nn.Module, original: nn.Module) -> tuple[float, float]:
        """Give the median time of a network, and of the original in float32 in turn with it.

        Raises:
            ExportError: The runtime can't run one.
        """
        times = self._times((network, self._runtime), (original, self._plain))
        return median(times[0]), median(times[1])

    def ratio(self, network: nn.Module, reference: nn.Module) -> TimeRatio:
        """Give what a network takes, as a share of what another takes, in the same numbers.

        Raises:
            ExportError: The runtime can't run one.
        """
        return time_ratio(*self._times((network, self._runtime), (reference, self._runtime)))

    @property
    def plain(self) -> RuntimeClock:
        """Give the clock for float32."""
        if self._runtime is self._plain:
            return self
        return RuntimeClock(self.conditions, self._inputs, self._folder)

    def file_ratio(self, content: bytes, reference: bytes) -> TimeRatio:
        """Give what an ONNX file takes, as a share of what another takes; both as they are.

        Raises:
            ExportError: The runtime can't run one.
            MeasureError: It runs no files.
        """
        with TemporaryDirectory(prefix="lissom-clock-") as folder:
            files = [Path(folder) / f"{place}.onnx" for place in range(2)]
            for file, written in zip(files, (content, reference), strict=True):
                file.write_bytes(written)
            times = self.run({place: Runnable(file=file) for place, file in enumerate(files)})
        return time_ratio(times[0], times[1])

    def run(self, given: Mapping[K, Runnable]) -> dict[K, list[float]]:
        """Time networks as they are, in turn: single times in milliseconds.

        Raises:
            ExportError: The runtime can't run one.
            MeasureError: It runs no files, and one is nothing else.
        """
        calls = {name: self._call(one, self._plain) for name, one in given.items()}
        return times_in_turn(calls, self.conditions)

    def layers_ms(self, network: nn.Module) -> float:
        """Give the sum of the times that a network's weight layers take one by one.

        Raises:
            MeasureError: The machine is too busy to tell.
        """
        operations = operations_of(network, [one[:1] for one in self._inputs])
        return self._sum(operations) / 1e6

    def _times(self, *given: tuple[nn.Module, Runtime]) -> list[list[float]]:
        calls = {
            place: self._call(Runnable(one), runtime) for place, (one, runtime) in enumerate(given)
        }
        return list(times_in_turn(calls, self.conditions).values())

    def _call(self, given: Runnable, runtime: Runtime) -> Call:
        return runtime.call(given, self._inputs, self.conditions.threads)

    def _sum(self, operations: Sequence[Operation]) -> int:
        known = self.times.of(operations)
        return sum(known[one].nanoseconds + self.times.dispatch for one in operations)
