"""What tells times: the interface, and a comparison of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import nn


@dataclass(frozen=True, slots=True)
class TimeRatio:
    """What one network takes, as a share of what another takes, each pair of runs back to back.

    Attributes:
        median: Over the pairs.
        low: Lower bound of the median, 95 % confidence.
        high: Upper bound.
    """

    median: float
    low: float
    high: float

    @property
    def slower(self) -> bool:
        """Whether the first network is slower for certain: by more than 2 %."""
        return self.low > 1.02

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


class Clock(Protocol):
    """Tells times in the runtime that the network is meant for, on this machine.

    Attributes:
        plain: The clock for float32; the same one where networks do not run in int8.
    """

    @property
    def plain(self) -> Clock:
        """Give the clock for float32."""

    def nanoseconds(self, layer: nn.Module, input_shape: tuple[int, ...]) -> int:
        """Give the time of a layer, or of what stands in its place; values do not matter.

        Args:
            layer: A convolution, a linear layer, or several of them; ``meta`` will do.
            input_shape: Without batch.

        Raises:
            MeasureError: The machine is too busy to tell.
        """

    def milliseconds(self, network: nn.Module, original: nn.Module) -> tuple[float, float]:
        """Give the median time of a network as it will run, and of the original as it is.

        Both run in turn. Where the run ends in int8, the network is timed in int8, the original in
        float32.

        Raises:
            ExportError: The runtime can't run one.
        """

    def ratio(self, network: nn.Module, reference: nn.Module) -> TimeRatio:
        """Give what a network takes, as a share of what another takes; both as they will run.

        Raises:
            ExportError: The runtime can't run one.
        """

    def file_ratio(self, content: bytes, reference: bytes) -> TimeRatio:
        """Give what an ONNX file takes, as a share of what another takes; both as they are.

        Raises:
            ExportError: The runtime can't run one.
            MeasureError: It runs no files.
        """
